"""The linear learner on sparse features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, Task, learners
from .design import Design, chunks
from .linear import Linear
from .scores import tensors

_STRONGEST = 16.0  # penalty of all rows together; the others are weaker
_LEAST, _BESIDE = 0.1, 0.5  # how easily weights grow: least of all, and those of columns beside the terms
_EACH = 3.5e-5  # seconds for each row and output: the steps of all strengths over some eighty entries


@learners("linear-sparse")
class LinearSparse(Linear):
    """One weight for each word: logistic or ridge regression on all terms of a text, of which none is reduced away.

    On reviews, tickets and descriptions it finds more than `linear` does on the main directions of the same terms, and different
    things: the two make a better ensemble than either. Views without sparse features have the columns that
    `linear` gives them, standardised, beside the terms.

    A term's weight for a class grows the more easily, the more the class's rows differ from the others in having it. A word that
    several views have (a title and a text) has one weight for them all, and one for each on top.

    Source: as `linear`, in the terms' own coordinates; how strongly weights are held small is chosen on one row in five. Words
    that tell are favoured as in Wang and Manning 2012, "Baselines and Bigrams", section 2.3; ours: by the root of the log odds
    ratio, and for each class of a softmax. A shared weight and one of its own is what Daume 2007, "Frustratingly Easy Domain
    Adaptation", section 3, gives to domains.

    Args:
        beside: what a standardised column counts beside the terms, whose rows have length 1.
    Shapes:
        x [B, F], a tensor or a csr matrix, there [B, G] -> out [B, C]
    Cost:
        entries of x * C for each of some 200 steps; F * C numbers kept.
    """

    sparse = True

    def __init__(self, task: Task, inputs: Inputs, *, beside: float = 0.5):
        super().__init__(task, inputs)
        self.beside = beside
        self.rest = ~inputs.sparse  # [F]
        self.design = Design(inputs.only(self.rest))
        self.common = _common(inputs.terms[inputs.sparse])
        flags = [(np.flatnonzero(inputs.sparse & (inputs.owner == flag)), int(flag)) for flag in np.unique(inputs.owner[inputs.sparse])]
        self.spans = [(slice(at[0], at[-1] + 1), flag) for at, flag in flags]  # those of a view lie side by side

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        return 0.3 + _EACH * rows * outputs

    def laid_out(self, x: Any, there: np.ndarray, y: np.ndarray, seed: int) -> Any:
        import scipy.sparse as sp

        x = sp.csr_matrix(self.seen(x, there)) if isinstance(x, np.ndarray) else x
        parts = [x[some] for some in chunks(len(there))]
        beside = self.design.fit_transform(np.concatenate([part[:, self.rest].toarray() for part in parts]), there, y, seed)
        for at, some in enumerate(chunks(len(there))):
            parts[at] = self._side_by_side(parts[at], beside[some])  # in its place: no second copy of all rows
        return sp.vstack(parts, format="csr")

    def learn_active(self, z: Any, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        common = self.common.copy()
        common.resize(z.shape[1], common.shape[1])
        z = _Shared(z, common)
        if self.kind != "numbers":
            weights, bias, self.link = self._descend(z, y, weight, groups, seed, _STRONGEST / len(y), self._ease)
        else:  # strengths are for numbers of variance one
            mean, spread = self.start[self.active].numpy(), np.nanstd(y, axis=0)
            weights, bias, _ = self._descend(z, (y - mean) / spread, weight, groups, seed, _STRONGEST / len(y))
            weights, bias, self.link = weights * spread, bias * spread + mean, torch.tensor([[1.0, 0.0]]).repeat(y.shape[1], 1)
        self.weights, self.bias = tensors(z.whole(weights), bias)

    def _ease(self, z: "_Shared", hot: np.ndarray, share: np.ndarray) -> np.ndarray:
        """[D, S]: the root of how far the log odds of a term are apart in the rows of a class and in the others."""
        mine = hot * share * len(hot)
        others = share * len(hot) - mine
        odds = []
        for rows, count in zip((mine, others), z.rows_with(mine, others)):  # a row with the term and one without it are added to each
            chance = (count + 1.0) / (rows.sum(0) + 2.0)
            odds.append(np.log(chance / (1.0 - chance)))
        ease = np.sqrt(np.abs(odds[0] - odds[1])).clip(min=_LEAST).astype(np.float64)
        terms = self.common.shape[0]
        ease[terms : terms + len(self.design.view)] = _BESIDE
        return ease

    def matrix(self, x: Any, there: Tensor) -> Any:
        if not isinstance(x, Tensor):
            return self._side_by_side(x, self.design(torch.from_numpy(x[:, self.rest].toarray()), there).numpy())
        terms = [x[:, at].masked_fill(~there[:, flag : flag + 1], 0.0) for at, flag in self.spans]
        return torch.cat([*terms, self.design(x[:, torch.from_numpy(self.rest)], there) * self.beside], 1)

    def _side_by_side(self, x: Any, beside: np.ndarray) -> Any:
        """The terms of a csr matrix x, and what stands beside them, as one."""
        import scipy.sparse as sp

        return sp.hstack([x[:, ~self.rest], sp.csr_matrix(beside * np.float32(self.beside))], format="csr")

    def score(self, z: Any) -> Tensor:
        return super().score(z) if isinstance(z, Tensor) else torch.from_numpy(z @ self.weights.numpy()) + self.bias


class _Shared:
    """The columns of csr z [L, D], and the sums of those that are the same word, z @ common [L, W], which are never made: a matrix
    [L, D + W] to who multiplies by it.
    """

    def __init__(self, z: Any, common: Any):
        self.z, self.common = z, common
        self.shape = z.shape[0], sum(common.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: np.ndarray) -> "_Shared":
        return _Shared(self.z[rows], self.common)

    def __matmul__(self, weights: np.ndarray) -> Any:
        return self.z @ self.whole(weights)

    @property
    def T(self) -> "_Transposed":
        return _Transposed(self)

    def whole(self, weights: np.ndarray) -> np.ndarray:
        """[D + W, S] -> [D, S]: what a column weighs by itself and as a word."""
        own = self.z.shape[1]
        return weights[:own] + self.common @ weights[own:]

    def rows_with(self, *shares: np.ndarray) -> list[np.ndarray]:
        """Of shares of rows [L, S], how many have a column or a word [D + W, S]."""
        import scipy.sparse as sp

        found = [np.zeros((self.shape[1], share.shape[1])) for share in shares]
        for some in chunks(len(self)):
            z = self.z[some]
            there = sp.hstack([z, abs(z) @ self.common], format="csr")
            there.data = (there.data != 0).astype(np.float32)
            for total, share in zip(found, shares):
                total += there.T @ share[some]
        return found


class _Transposed:
    def __init__(self, of: _Shared):
        self.of = of

    def __matmul__(self, error: np.ndarray) -> np.ndarray:
        own = self.of.z.T @ error
        return np.concatenate([own, self.of.common.T @ own])


def _common(terms: np.ndarray) -> Any:
    """[terms, words] csr: which of the terms are the same word; of a word that only one view has there is no column."""
    import scipy.sparse as sp

    words, word, count = np.unique(terms, return_inverse=True, return_counts=True)
    several = (count > 1) & (words != 0)
    column = np.cumsum(several) - 1
    at = np.flatnonzero(several[word])
    return sp.csr_matrix((np.ones(len(at), np.float32), (at, column[word[at]])), (len(terms), int(several.sum())))
