"""What learners on one matrix share: held-out rows, and scores made honest on them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, Task
from .design import Design, variances
from .scores import Scored

_FEWEST = 6  # rows from which there is something to learn and something to hold out
_LEAST = 1 / 16  # of a column's spread, however little it varied before it was standardised
_STEPS = 25  # of Newton's method
_PULL = 1e-6  # of the squared coefficients: of attributes that are alike one is enough


class Dense(Scored):
    """A learner on the matrix of `Design`, whose scores become answers by a link that is fitted on held-out rows.

    A subclass has `learn_active`, which leaves what it needs in buffers and sets `link`, and `score`. It is asked only for `active`
    outputs: the classes that rows were seen of, the labels that some rows have and some have not, the numbers that vary. The
    others are answered by their share or mean; so is everything where there are fewer than 6 rows or no features.
    """

    active: Tensor
    link: Tensor

    def __init__(self, task: Task, inputs: Inputs):
        super().__init__(task, inputs)
        self.register_buffer("active", torch.zeros(0, dtype=torch.long))  # [S] places in `known`
        self.register_buffer("link", torch.zeros(0, 2))  # see `linked`

    def learn_active(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        """Learn the active outputs from z [L, D], free to be changed, and y: int64 [L] of S classes, or bool or float64 [L, S]."""
        raise NotImplementedError

    def score(self, z: Any) -> Tensor:
        """z [B, D] -> [B, S], of which the link makes answers."""
        raise NotImplementedError

    def learn(self, z: np.ndarray, there: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        active = _active(y) if len(y) >= _FEWEST and z.shape[1] else np.zeros(0, np.int64)
        self.active = torch.from_numpy(active)
        if len(active):
            self.learn_active(z, y if y.ndim == 1 else y[:, active], weight, groups, seed)

    def matrix(self, x: Tensor, there: Tensor) -> Any:
        """What `score` is asked of: [B, D]."""
        return self.design(x, there)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        scores = self.start.expand(len(there), -1)
        if len(self.active):
            found = linked(self.kind, self.score(self.matrix(x, there)), self.link, self.start[self.active])
            scores = scores.to(found).index_copy(1, self.active, found)
        return self.out(self.chances(scores)).float()


def _active(y: np.ndarray) -> np.ndarray:
    """The outputs that features may tell apart [S]."""
    if y.ndim == 1:
        count = np.bincount(y)
        return np.arange(len(count) if len(count) > 1 and count.max() > 1 else 0)
    if y.dtype == bool:
        return np.flatnonzero(y.any(0) & ~y.all(0))
    known = np.isfinite(y)
    high, low = np.where(known, y, -np.inf).max(0, initial=-np.inf), np.where(known, y, np.inf).min(0, initial=np.inf)
    return np.flatnonzero((known.sum(0) >= _FEWEST) & (high - low > 1e-9))


def sampled(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` rows, rising; of every class its share, and at least one of each where there is room."""
    order = np.random.default_rng((seed, 13)).permutation(len(y))
    if y.ndim == 1 and len(y) > most:  # put each row at its quantile in its class: the lowest are a stratified sample
        order = order[np.argsort(y[order], kind="stable")]
        count = np.bincount(y)
        rank = np.arange(len(y)) - (np.cumsum(count) - count)[y[order]]
        order = order[np.argsort(rank / count[y[order]], kind="stable")]
    return np.sort(order[:most])


def sized(design: Design, z: np.ndarray, power: float) -> np.ndarray:
    """[D] factors of the columns: `design.spread` to that power, and every view's columns vary by one together.

    So no view drowns the others in a distance, and the weights of one of few features are not held as small as those of many.
    Source: the same weight for every view's normed kernel is the baseline of Goenen and Alpaydin 2011, "Multiple Kernel
    Learning Algorithms", that learned weights seldom beat; here it is the squared distances that are added.
    """
    view, factor = design.view.numpy(), design.spread.numpy().clip(_LEAST) ** power
    total = np.bincount(view, variances(z) * factor**2)[view]
    return (factor / np.sqrt(np.where(total > 1e-12, total, 1.0))).astype(np.float32)


def factors(design: Design, z: np.ndarray) -> list[np.ndarray]:
    """Two ways to size the columns for a distance, of which neither is always the better: standardised, and with their spread."""
    powers = (0.0, 1.0) if np.ptp(design.spread.numpy()) > 0.1 else (0.0,)
    return [sized(design, z, power) for power in powers]


# -- links --------------------------------------------------------------------------------------------------------


def linked(kind: str, scores: Tensor, link: Tensor, start: Tensor) -> Tensor:
    """Scores [B, S] such that softmax or sigmoid make honest probabilities of them, and numbers the right size.

    Classes: a * score + b * start, one pair (a, b) for all. Labels and numbers: a * score + b, a pair for each.
    """
    return link[:, 0] * scores + link[:, 1] * (start if kind == "classes" else 1.0)


def fit_link(kind: str, scores: np.ndarray, y: np.ndarray, weight: np.ndarray, start: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The link of the scores of held-out rows, and what it then costs there, of each output [S] (of classes [1]).

    Source: for labels Platt 1999, "Probabilistic Outputs for Support Vector Machines"; for classes the same with one
    softmax, which is the conditional logit of McFadden 1974 with a class's score and log share as its two attributes.

    Shapes:
        scores [L, S]; y int64 [L], or bool or float64 [L, S] with NaN where not known; weight [L]; start [S]
    """
    scores = scores.astype(np.float64)
    if not len(y):  # none to go by: what looks at no feature
        return torch.tensor([[0.0, 1.0]] if kind == "classes" else [[0.0, s] for s in start.tolist()]), np.zeros(1)
    if kind == "classes":
        pair, cost = _logit(np.stack([scores, np.broadcast_to(start, scores.shape)], 2), y, weight)
        return torch.from_numpy(pair[None]).float(), np.array([cost])
    pairs, costs = zip(*(_pair(scores[:, s], y[:, s], weight) for s in range(scores.shape[1])))
    return torch.from_numpy(np.stack(pairs)).float(), np.array(costs)


def _pair(score: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    if y.dtype == bool:
        positive = np.stack([score, np.ones_like(score)], 1)
        return _logit(np.stack([np.zeros_like(positive), positive], 1), y.astype(np.int64), weight)
    known = np.isfinite(y)
    score, y, w = score[known], y[known], weight[known]
    if not len(y):
        return np.array([1.0, 0.0]), 0.0
    centre, mean = np.average(score, weights=w), np.average(y, weights=w)
    spread = np.average((score - centre) ** 2, weights=w)
    # a slope of 1 is worth as much as two rows: few rows cannot turn it around
    slope = (w @ ((score - centre) * (y - mean)) + 2 * spread) / max(w.sum() * spread + 2 * spread, 1e-12)
    pair = np.array([slope, mean - slope * centre])
    return pair, float(np.average((y - pair[0] * score - pair[1]) ** 2, weights=w))


def _logit(attributes: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Softmax over alternatives [L, S, P] with the same P coefficients for each: these, and the mean loss; by Newton's method."""
    rows = np.arange(len(y))
    # as if one row had answered anything: rows that are told apart without a fault do not make it sure of all (Platt's section 2.2)
    sure = len(y) / (len(y) + 1.0)
    f = attributes - attributes.mean(1, keepdims=True)  # so that an answer of all alternatives alike is 0
    scale = np.sqrt((f**2).mean((0, 1))) + 1e-12
    f, beta = f / scale, np.zeros(f.shape[2])

    def state(beta: np.ndarray) -> tuple[np.ndarray, float]:
        u = f @ beta
        most = u.max(1, keepdims=True)
        p = np.exp(u - most)
        total = p.sum(1, keepdims=True)
        return p / total, float(weight @ (np.log(total) + most)[:, 0] - truth @ beta + 0.5 * _PULL * beta @ beta)

    truth = sure * (weight @ f[rows, y])
    p, cost = state(beta)
    for _ in range(_STEPS):
        mean = np.einsum("ls,lsp->lp", p, f)
        slope = weight @ mean - truth + _PULL * beta
        around = f - mean[:, None]
        curve = np.einsum("lsp,lsq->pq", around * (p * weight[:, None])[:, :, None], around, optimize=True) + _PULL * np.eye(len(beta))
        step = np.linalg.solve(curve, slope)
        while (found := state(beta - step))[1] > cost and np.abs(step).max() > 1e-9:
            step = step / 2
        gain, beta, (p, cost) = cost - found[1], beta - step, found
        if gain < 1e-7 * cost:
            break
    return beta / scale, float((cost - 0.5 * _PULL * beta @ beta) / max(weight.sum(), 1e-12))
