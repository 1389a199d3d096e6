"""The linear learner on sparse features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, Task, learners
from .design import Design
from .linear import Linear
from .scores import tensors

_STRONGEST = 16.0  # penalty of all rows together; the others are weaker
_EACH = 3.5e-5  # seconds for each row and output: the steps of all strengths over some eighty entries


@learners("linear-sparse")
class LinearSparse(Linear):
    """One weight for each word: logistic or ridge regression on all terms of a text, of which none is reduced away.

    On reviews, tickets and descriptions it finds more than `linear` does on the main directions of the same terms, and different
    things: the two make a better ensemble than either. Views without sparse features have the columns that
    `linear` gives them, standardised, beside the terms.

    Source: as `linear`; of sparse features the weights are found in their own coordinates. How strongly they are held small
    is chosen on one row in five.

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
        flags = [(np.flatnonzero(inputs.sparse & (inputs.owner == flag)), int(flag)) for flag in np.unique(inputs.owner[inputs.sparse])]
        self.terms = [(slice(at[0], at[-1] + 1), flag) for at, flag in flags]  # those of a view lie side by side

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        return 0.3 + _EACH * rows * outputs

    def laid_out(self, x: Any, there: np.ndarray, y: np.ndarray, seed: int) -> Any:
        import scipy.sparse as sp

        x = x if sp.issparse(x) else sp.csr_matrix(self.seen(x, there))
        return self._side_by_side(x, self.design.fit_transform(x[:, self.rest].toarray(), there, y, seed))

    def learn_active(self, z: Any, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        if self.kind != "numbers":
            weights, bias, self.link = self._descend(z, y, weight, groups, seed, _STRONGEST / len(y))
        else:  # strengths are for numbers of variance one
            mean, spread = self.start[self.active].numpy(), np.nanstd(y, axis=0)
            weights, bias, _ = self._descend(z, (y - mean) / spread, weight, groups, seed, _STRONGEST / len(y))
            weights, bias, self.link = weights * spread, bias * spread + mean, torch.tensor([[1.0, 0.0]]).repeat(y.shape[1], 1)
        self.weights, self.bias = tensors(weights, bias)

    def matrix(self, x: Any, there: Tensor) -> Any:
        if not isinstance(x, Tensor):
            return self._side_by_side(x, self.design(torch.from_numpy(x[:, self.rest].toarray()), there).numpy())
        terms = [x[:, at].masked_fill(~there[:, flag : flag + 1], 0.0) for at, flag in self.terms]
        return torch.cat([*terms, self.design(x[:, torch.from_numpy(self.rest)], there) * self.beside], 1)

    def _side_by_side(self, x: Any, beside: np.ndarray) -> Any:
        """The terms of a csr matrix x, and what stands beside them, as one."""
        import scipy.sparse as sp

        return sp.hstack([x[:, ~self.rest], sp.csr_matrix(beside * np.float32(self.beside))], format="csr")

    def score(self, z: Any) -> Tensor:
        return super().score(z) if isinstance(z, Tensor) else torch.from_numpy(z @ self.weights.numpy()) + self.bias
