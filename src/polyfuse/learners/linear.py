"""The linear learner."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import Inputs, RecipeError, Task, learners
from .dense import Dense, fit_link, sized
from .scores import held_out, tensors

SOLVERS = ("auto", "logistic", "ridge")
_STEPS = 200.0  # products for each entry of the matrix and each class in logistic regression, all strengths and steps together
_TRIES = 4.0  # strengths that ridge regression tries
_SPEED = 6e9  # products a second
_DEAR = 5e10  # products of logistic regression beyond which ridge regression takes its place, where that takes fewer
_WEAKER = 4.0  # from one strength to the next
_STRENGTHS = 12  # most that are tried
_HELD = 0.2  # share of the rows on which logistic regression chooses its strength
_NEAR, _CLOSE = 3e-5, 1e-5  # share by which every step must lower the loss: while the strength is sought, and then
_ROUNDING = 1e-6  # of a float32 product, as a share of its trace
_CHUNK = 4096  # rows that change places at a time
_ENOUGH = 1e-3  # a weaker strength must cost this share less, or the search ends
_ALMOST = 1 + 1e-6  # for rows that alone decide their answer
Ease = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
Found = tuple[np.ndarray, np.ndarray, Tensor]  # weights [D, S], bias [S], link


@learners("linear")
class Linear(Dense):
    """One weight for each feature and output: logistic regression for classes and labels, ridge regression for numbers.

    Hard to beat on many features of few rows (words, descriptors of pictures), and the steadiest member there is; it
    sees no interactions, for which `boost`, `svm` and `tabm` are there. How strongly weights are held small is chosen in `fit`:
    for logistic regression on one row in five, for ridge regression by leaving out each row, or group of rows, in turn.

    With many classes and features logistic regression is slow. Ridge regression on classes as 0 and 1, with a softmax
    fitted on the answers of left-out rows, then takes its place, and is seldom worse by much.

    Source: logistic regression with L2 penalty by L-BFGS (Liu and Nocedal 1989); Hoerl and Kennard 1970, "Ridge Regression", with the
    exact left-out answers of Allen 1974, "The Relationship between Variable Selection and Data Augmentation", eq. 2.

    Args:
        solver: for classes and labels: "logistic", "ridge", or "auto", which takes ridge where logistic would be slow.
    Shapes:
        x [B, F], there [B, G] -> out [B, C]
    Raises:
        RecipeError: no solver of that name.
    Cost:
        logistic L * D * C for each of some 200 steps; ridge L * min(L, D)^2 for each of some 6 strengths.
    """

    parallel = True
    weights: Tensor
    bias: Tensor

    def __init__(self, task: Task, inputs: Inputs, *, solver: str = "auto"):
        super().__init__(task, inputs)
        if solver not in SOLVERS:
            raise RecipeError("learner 'linear'", f"has the unknown solver '{solver}'", expected=f"one of {', '.join(SOLVERS)}")
        self.solver = solver
        self.register_buffer("weights", torch.zeros(0, 0))  # [D, S]
        self.register_buffer("bias", torch.zeros(0))

    def score(self, z: Any) -> Tensor:
        return z @ self.weights + self.bias

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        logistic, ridge = _work(rows, features, outputs)
        return 0.3 + (min(logistic, ridge) if logistic > _DEAR else logistic) / _SPEED

    def learn_active(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        logistic, ridge = _work(len(z), z.shape[1], len(self.active))
        by_ridge = self.kind == "numbers" or self.solver == "ridge" or (self.solver == "auto" and logistic > max(_DEAR, ridge))
        sizes = sized(self.design, z, 0.5)  # half way between the two that others choose from
        sizes *= np.float32((z.shape[1] / max(len(self.design.view.unique()), 1)) ** 0.5)  # a column varies by about one
        z *= sizes
        turned = None
        if z.shape[1] > len(z):  # the weights lie in the span of the rows: learn in that, which changes nothing but the time
            turned, triangle = np.linalg.qr(z.T)
            z = np.ascontiguousarray(triangle.T)
        weights, bias, self.link = (self._ridge if by_ridge else self._descend)(z, y, weight, groups, seed)
        weights = sizes[:, None] * (weights if turned is None else turned @ weights)
        self.weights, self.bias = tensors(weights.astype(np.float64), bias)

    def _ridge(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> Found:
        if self.kind == "numbers":
            return self._numbers(z, y, weight, groups)
        hot = (y[:, None] == np.arange(len(self.active)) if y.ndim == 1 else y).astype(np.float64)
        start = self.start[self.active].numpy()
        again = np.bincount(y)[y] > 1 if y.ndim == 1 else np.ones(len(y), bool)  # a class's only row, left out, tells nothing

        def judge(left_out: np.ndarray) -> np.ndarray:
            _, costs = fit_link(self.kind, left_out[again], y[again], weight[again], start)
            return np.repeat(costs.mean(), hot.shape[1])  # one strength for all, for their scores are compared

        weights, bias, left_out = _ridge(z, hot, weight, groups, judge)
        return weights, bias, fit_link(self.kind, left_out[again], y[again], weight[again], start)[0]

    def _numbers(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None) -> Found:
        weights, bias = np.zeros((z.shape[1], y.shape[1])), np.zeros(y.shape[1])
        known, pattern = np.unique(np.isfinite(y), axis=1, return_inverse=True)
        for p, rows in enumerate(known.T):  # outputs that the same rows know are learned together
            some = np.flatnonzero(pattern.ravel() == p)
            t, w = y[np.ix_(rows, some)], weight[rows] / weight[rows].sum()
            mine = None if groups is None else groups[rows]
            weights[:, some], bias[some], _ = _ridge(z[rows], t, w, mine, lambda left_out, t=t, w=w: w @ (left_out - t) ** 2)  # type: ignore[misc]
        return weights, bias, torch.tensor([[1.0, 0.0]]).repeat(y.shape[1], 1)

    def _descend(
        self,
        z: Any,
        y: np.ndarray,
        weight: np.ndarray,
        groups: np.ndarray | None,
        seed: int,
        strength: float = 1.0,
        ease: Ease | None = None,
    ) -> Found:
        """The weights of a penalty no stronger than `strength`, and the link."""
        start = self.start[self.active].numpy().astype(np.float64) * (self.kind != "numbers")  # these are centred
        held: Any = held_out(y, _HELD, seed, groups)
        rest, gram = ~held, None
        if isinstance(z, np.ndarray):
            order, first = _held_last(z, held)
            y, weight, gram = y[order], weight[order], _gram(z) / len(z)
            rest, held = slice(first), slice(first, None)  # slices: nothing of the largest array is copied
        inner = _Descent(self.kind, z[rest], y[rest], weight[rest], gram, ease)
        coefficients, best = np.zeros((z.shape[1] + 1, len(start))), np.inf
        coefficients[-1] = start
        for _ in range(_STRENGTHS):
            coefficients = inner(strength, coefficients, _NEAR)
            scores = z[held] @ coefficients[:-1].astype(np.float32) + coefficients[-1]  # else numpy makes z twice as large first
            link, costs = fit_link(self.kind, scores, y[held], weight[held], start)
            if costs.mean() > best - _ENOUGH * max(best, 0.5):
                break
            best, found = costs.mean(), (strength, coefficients, link)
            strength /= _WEAKER
        strength, coefficients, link = found
        coefficients = _Descent(self.kind, z, y, weight, gram, ease)(strength, coefficients)
        return coefficients[:-1], coefficients[-1], link


def _work(rows: int, features: int, outputs: int) -> tuple[float, float]:
    """Products that logistic and ridge regression take."""
    few, many = sorted((rows, features))
    return rows * min(rows, features) * outputs * _STEPS, few**2 * many * _TRIES


def _held_last(z: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, int]:
    """Put the rows of z that are held [L] last, in place -> which row stands where [L], and the first of those."""
    first, order = int((~held).sum()), np.arange(len(z))
    early, late = np.flatnonzero(held[:first]), first + np.flatnonzero(~held[first:])  # as many of each: they change places
    order[early], order[late] = late, early
    for at in range(0, len(early), _CHUNK):
        a, b = early[at : at + _CHUNK], late[at : at + _CHUNK]
        z[a], z[b] = z[b], z[a]
    return order, first


def _gram(z: np.ndarray) -> np.ndarray:
    """z^T z, the one large product of a fit, by torch and all its threads."""
    whole = torch.from_numpy(z)
    return (whole.T @ whole).double().numpy()


def _ridge(
    z: np.ndarray, t: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, judge: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [D, S], bias [S] and left-out answers [L, S], for each output at the strength that `judge` finds cheapest.

    Args:
        judge: left-out answers [L, S] to what each output costs [S].
    """
    from scipy.linalg import cho_factor, cho_solve, solve_triangular

    total = weight.sum()
    centre, mean = weight @ z / total, weight @ t / total
    root = np.sqrt(weight)[:, None]
    rows = ((z - centre) * root).astype(np.float32)
    aims = (t - mean) * root
    gram = _gram(rows)
    product = rows.T @ aims
    unit = max(np.trace(gram) / len(gram), 1e-12)
    best = np.full(t.shape[1], np.inf)
    weights, answers = np.zeros((z.shape[1], t.shape[1])), np.tile(mean, (len(z), 1))
    strength, worse = 64.0, 0
    for _ in range(_STRENGTHS):
        factor = cho_factor(gram + strength * unit * np.eye(len(gram)), lower=True, overwrite_a=True, check_finite=False)
        found = cho_solve(factor, product, check_finite=False)
        half = solve_triangular(factor[0].astype(np.float32), rows.T, lower=True, check_finite=False)
        left_out = t - _without(t - mean - (z - centre) @ found, half, root / np.sqrt(total), root, groups)
        costs = judge(left_out)
        better = costs < best * (1 - _ENOUGH)
        weights[:, better], answers[:, better], best[better] = found[:, better], left_out[:, better], costs[better]
        worse = 0 if better.any() else worse + 1
        if worse == 2:
            break
        strength /= _WEAKER
    return weights, mean - centre @ weights, answers


def _without(error: np.ndarray, half: np.ndarray, share: np.ndarray, root: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The errors [L, S] that the fit would have without the row, or without the row's whole group.

    How far rows pull their own answers is half^T half [L, L], to which the mean adds share share^T.
    """
    if groups is None:
        own = ((half**2).sum(0)[:, None] + share**2).clip(max=1 / _ALMOST)
        return error / (1 - own)
    out = np.empty_like(error)
    half = np.vstack([half, share.T])
    for rows in np.split(np.argsort(groups, kind="stable"), np.cumsum(np.unique(groups, return_counts=True)[1])[:-1]):
        own, pull = error[rows] * root[rows], half[:, rows]
        if len(rows) < len(half):
            own = np.linalg.solve(_ALMOST * np.eye(len(rows)) - pull.T @ pull, own)
        else:  # the same by as many equations as there are features
            own = own + pull.T @ np.linalg.solve(_ALMOST * np.eye(len(half)) - pull @ pull.T, pull @ own)
        out[rows] = own / root[rows]
    return out


class _Descent:
    """Weights and biases [D + 1, S] of least mean loss + strength / 2 * |weights / ease|^2, by L-BFGS: the loss is logistic, of
    numbers half the squared error over those that are known.

    It goes down in coordinates in which the loss is bent nearly alike in every direction: those of the bound that Boehning
    1992, "Multinomial Logistic Regression Algorithm", sets to its curvature. That saves most of the steps.

    Args:
        z: [L, D] float32, dense or csr.
        gram: [D, D] z^T z / L, by which these coordinates are chosen; None where they are to stay as they are.
        ease: of z, the aims [L, S] and the rows' shares [L, 1], how easily each weight grows, [D, S]; None: all alike.
    """

    def __init__(self, kind: str, z: Any, y: np.ndarray, weight: np.ndarray, gram: np.ndarray | None, ease: Ease | None = None):
        self.kind, self.gram, self.z = kind, gram, z
        self.hot = (y[:, None] == np.arange(y.max() + 1) if y.ndim == 1 else y).astype(np.float32)
        self.share = (weight / weight.sum()).astype(np.float32)[:, None]
        if kind == "numbers":
            self.share = self.share * np.isfinite(y)
            self.hot = np.nan_to_num(self.hot)
        self.ease: Any = 1.0 if ease is None else ease(z, self.hot, self.share)

    def __call__(self, strength: float, start: np.ndarray, close: float = _CLOSE) -> np.ndarray:
        from scipy.linalg import cholesky, solve_triangular
        from scipy.optimize import minimize

        root = None  # upper: R^T R
        if self.gram is not None:
            least = max(strength, _ROUNDING * np.trace(self.gram))  # these are only coordinates: the penalty itself is in `cost`
            root = cholesky(0.25 * self.gram + least * np.eye(len(self.gram)), check_finite=False)

        def solved(v: np.ndarray, trans: int = 0) -> np.ndarray:
            return self.ease * v if root is None else solve_triangular(root, v, trans=trans, check_finite=False)

        def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
            v = flat.reshape(start.shape)
            weights = solved(v[:-1])
            loss, slope, sides = self.loss(weights, v[-1])
            pull = weights / self.ease
            slope = solved(slope + strength * pull / self.ease, 1)
            return loss + 0.5 * strength * float((pull**2).sum()), np.concatenate([slope, sides[None]]).ravel()

        v = np.concatenate([start[:-1] / self.ease if root is None else root @ start[:-1], start[-1:]])
        done = minimize(cost, v.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": close, "gtol": 1e-5})
        v = done.x.reshape(start.shape)
        return np.concatenate([solved(v[:-1]), v[-1:]])

    def loss(self, weights: np.ndarray, bias: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The mean loss and its slopes along the weights and biases."""
        # numpy's product with a matrix of few columns is three times as fast as torch's
        scores = torch.from_numpy(self.z @ weights.astype(np.float32) + bias.astype(np.float32))
        hot, share = torch.from_numpy(self.hot), torch.from_numpy(self.share)
        if self.kind == "classes":
            logs = scores.log_softmax(1)
            losses, error = -logs * hot, logs.exp_() - hot
        elif self.kind == "numbers":
            error = scores - hot
            losses = 0.5 * error.square()
        else:
            losses, error = F.softplus(scores) - scores * hot, scores.sigmoid() - hot
        error = error * share
        slope = (self.z.T @ error.numpy()).astype(np.float64)
        return float((losses * share).sum(dtype=torch.float64)), slope, error.sum(0).double().numpy()
