"""The support vector machine."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import Inputs, Task, learners
from .dense import Dense, factors, fit_link, sampled
from .scores import held_out, tensors

_SOFT = (1.0, 10.0)  # C: how dear an error is against a narrow margin
_WIDTHS = (1.0, 0.25)  # of gamma, against one by the features' variance
_TRIED = 2000  # rows on which they are chosen
_HELD = 0.25
_SLACK = 0.1  # errors of standardised numbers that cost nothing
_STEPS = 500_000  # of the solver, at most
_BLOCK = 1024  # rows whose kernel is held at once


@learners("svm")
class Svm(Dense):
    """A support vector machine with a Gaussian kernel: smooth rules on features taken together, from few rows.

    Often the best single learner on some hundred to some thousand rows of good descriptors. It takes the square of the rows
    in time and memory, so of a larger table it learns from a sample; there `boost` and `tabm` are better.
    C and the kernel's width are chosen on held-out rows, on which its scores are also made probabilities.

    Source: Cortes and Vapnik 1995, "Support-Vector Networks"; Smola and Schoelkopf 2004, "A Tutorial on Support Vector Regression"; several
    classes one against one (Hsu and Lin 2002). Ours: the score of a class is the mean of log sigmoid(margin) over its
    comparisons; and every view has the same part in the kernel.

    Args:
        most: rows it learns from, of every class its share; fewer for several labels or numbers, each of which is learned alone.
    Shapes:
        x [B, F], there [B, G] -> out [B, C]
    Cost:
        most^2 * (D + 8) at most in time and 8 * most^2 bytes in `fit`; support vectors * D numbers to keep.
    """

    rows: Tensor
    dual: Tensor
    bias: Tensor
    counts: Tensor
    factor: Tensor

    def __init__(self, task: Task, inputs: Inputs, *, most: int = 6000):
        super().__init__(task, inputs)
        self.most = most
        self.register_buffer("rows", torch.zeros(0, 0))  # [R, D] support vectors; of classes one class after the other
        self.register_buffer("dual", torch.zeros(0, 0))  # [S, R] coefficients; of classes [S - 1, R], as LIBSVM lays them out
        self.register_buffer("bias", torch.zeros(0))  # [S]; of classes one for each pair of them
        self.register_buffer("counts", torch.zeros(0, dtype=torch.long))  # [S] support vectors of each class
        self.register_buffer("factor", torch.zeros(0))  # [D], with the square root of gamma in it

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        used = min(rows, 6000)
        return 0.3 + used**2 * (1e-7 + 1e-10 * features)

    def learn_active(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        alone = 1 if self.kind == "classes" else len(self.active)
        kept = sampled(y, max(int(self.most / alone**0.5), 200), seed)
        z, y, weight, groups = z[kept], y[kept], weight[kept], None if groups is None else groups[kept]
        views = max(len(self.design.view.unique()), 1)
        ways = [f * np.float32((width / views) ** 0.5) for f in factors(self.design, z) for width in _WIDTHS]
        factor, soft = self._chosen(z, y, weight, groups, ways, seed)
        self.factor = torch.from_numpy(factor)
        placed = torch.from_numpy(z) * self.factor
        support, self.dual, self.bias, self.counts = _machine(_kernel(placed, placed).numpy(), y, weight, soft)
        self.rows = placed[support]

    def _chosen(
        self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, ways: list[np.ndarray], seed: int
    ) -> tuple[np.ndarray, float]:
        """The factors and the C of least cost on held-out rows; the link is fitted there on the way."""
        some = sampled(y, _TRIED, seed + 1)
        z, y, weight = z[some], y[some], weight[some]
        held = held_out(y, _HELD, seed, None if groups is None else groups[some])
        best, chosen, start = np.inf, (ways[0], _SOFT[0]), self.start[self.active].numpy()
        for factor in ways:
            placed = torch.from_numpy(z * factor)
            kernel = _kernel(placed, placed[torch.from_numpy(~held)]).numpy()
            for soft in _SOFT:
                support, *machine = _machine(kernel[~held], y[~held], weight[~held], soft)
                scores = _scores(torch.from_numpy(kernel[np.ix_(held, support)]), *machine)
                link, costs = fit_link(self.kind, scores.numpy(), y[held], weight[held], start)
                if costs.mean() < best:
                    best, chosen, self.link = costs.mean(), (factor, soft), link
        return chosen

    def score(self, z: Tensor) -> Tensor:
        blocks = z.split(_BLOCK) if len(z) else (z,)
        return torch.cat([_scores(self.kernel(block), self.dual, self.bias, self.counts) for block in blocks])

    def kernel(self, z: Tensor) -> Tensor:
        """z [B, D] -> its similarity to the support vectors [B, R]."""
        return _kernel(z * self.factor, self.rows)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a - b|^2) of all pairs, float64: the difference of large numbers."""
    a, b = a.double(), b.double()
    return (2.0 * a @ b.T).sub_(a.square().sum(1, keepdim=True)).sub_(b.square().sum(1)).clamp_(max=0.0).exp_()


def _machine(kernel: np.ndarray, y: np.ndarray, weight: np.ndarray, soft: float) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
    """The support vectors' places, `dual`, `bias` and `counts` of machines on these rows; kernel [L, L]."""
    if y.ndim == 1:
        fitted = _fitted(kernel, y, weight, soft)
        sign = -1.0 if len(fitted.n_support_) == 2 else 1.0  # of two classes scikit-learn turns it about
        coefficients, bias, counts = sign * fitted.dual_coef_, sign * fitted.intercept_, fitted.n_support_.astype(np.int64)
        return fitted.support_, *tensors(coefficients, bias, counts)
    dual, bias = np.zeros((y.shape[1], len(y))), np.zeros(y.shape[1])
    for s, t in enumerate(y.T):
        known = np.flatnonzero(np.isfinite(t))
        t = t[known]
        if len(t) < 2 or t.min() == t.max():  # nothing to tell apart in this part of the rows
            bias[s] = np.mean(t * 2.0 - 1.0 if t.dtype == bool else t) if len(t) else 0.0
            continue
        fitted = _fitted(kernel if len(known) == len(y) else kernel[np.ix_(known, known)], t, weight[known], soft)
        dual[s, known[fitted.support_]], bias[s] = fitted.dual_coef_[0], fitted.intercept_[0]
    support = np.flatnonzero(dual.any(0))
    return support, *tensors(dual[:, support], bias, np.zeros(0, np.int64))


def _fitted(kernel: np.ndarray, y: np.ndarray, weight: np.ndarray, soft: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVC, SVR

    options: dict[str, Any] = {"kernel": "precomputed", "C": soft, "max_iter": _STEPS, "cache_size": 50}
    machine = SVR(epsilon=_SLACK, **options) if y.dtype.kind == "f" else SVC(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the link judges what it came to
        return machine.fit(kernel, y, sample_weight=weight)


def _scores(kernel: Tensor, dual: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """[B, S] of the similarity to the support vectors [B, R]."""
    if not len(counts):
        return (kernel @ dual.to(kernel).T + bias).float()
    margins, classes = _margins(kernel, dual, bias, counts), len(counts)
    first, second = torch.triu_indices(classes, classes, 1, device=kernel.device)
    scores = kernel.new_zeros(len(kernel), classes)
    scores.index_add_(1, first, F.logsigmoid(margins)).index_add_(1, second, F.logsigmoid(-margins))
    return (scores / (classes - 1)).float()


def _margins(kernel: Tensor, dual: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """[B, S (S - 1) / 2] of each pair of classes, (0, 1), (0, 2) ...: above 0 it is the first."""
    parts = zip(kernel.split(counts.tolist(), 1), dual.to(kernel).split(counts.tolist(), 1))
    sums = torch.stack([k @ d.T for k, d in parts], 1)  # [B, S, S - 1]: of each class's vectors, against each other class
    first, second = torch.triu_indices(len(counts), len(counts), 1, device=kernel.device)
    return sums[:, first, second - 1] + sums[:, second, first] + bias
