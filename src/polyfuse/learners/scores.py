"""What learners share that give each class, label or number a score: which rows teach, and how scores become answers."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import Inputs, Learner, Task
from .design import Design

_UNSEEN = 0.5  # rows that a class without any counts as
_SHARED = 10  # rows that have the least or the greatest number from which that is a bound (a cap, a grade, nothing sold)


class Scored(Learner):
    """A learner that scores every class that training rows have, every label or every number.

    `softmax` or `sigmoid` of the scores are probabilities. A class that no training row has counts as half a row. Numbers end
    where those of the training rows end, if several rows share that end.

    A subclass has `learn`, which `fit` calls with the rows that teach.

    Class attributes:
        standardise: as `Design` has it.
    Args:
        task, inputs: as of every `Learner`.
    Attributes:
        design: makes one matrix of the features.
        known: [K] the classes that training rows have; the labels or numbers, all of them.
        start: [K] the scores of an answer that looks at no feature.
        bounds: [2, K] the least and the greatest that a number can be.
    """

    lazy = True
    standardise: ClassVar[bool] = True
    known: Tensor
    start: Tensor
    bounds: Tensor
    unseen: Tensor

    def __init__(self, task: Task, inputs: Inputs):
        super().__init__(task, inputs)
        self.design = Design(inputs, standardise=self.standardise)
        self.register_buffer("known", torch.zeros(0, dtype=torch.long))
        self.register_buffer("start", torch.zeros(0))
        self.register_buffer("bounds", torch.zeros(2, 0))
        self.register_buffer("unseen", torch.zeros(()))  # probability of each class that is not known

    @property
    def kind(self) -> str:
        return self.task.learned_as

    def fit(
        self,
        x: Any,
        there: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        *,
        seed: int = 0,
    ) -> None:
        rows, y, weight, groups = self.begin(y, weight, groups)
        if len(rows) < len(there):  # else as they are: a copy is as large as the table
            x, there = x[rows], there[rows]
        self.learn(self.laid_out(x, there, y, seed), there, y, weight, groups, seed)

    def laid_out(self, x: Any, there: np.ndarray, y: np.ndarray, seed: int) -> Any:
        """The rows that teach as the matrix [R, D] that `learn` gets."""
        return self.design.fit_transform(x, there, y, seed)

    def learn(self, z: np.ndarray, there: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        """Learn from the rows that teach: z [R, D] as `design` has them, free to be changed, there [R, G], the others as of `begin`."""
        raise NotImplementedError

    def begin(
        self, y: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Which rows teach, their answers (classes by their place in `known`), their weights, with mean one, and their groups.

        Shapes:
            y [L] or [L, K], weight [L], groups [L] -> rows [R], y [R, ...], weight [R] float64, groups [R]
        """
        w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
        rows = np.flatnonzero((w > 0) & (np.isfinite(y).any(1) if self.kind == "numbers" else True))
        y, w = y[rows], w[rows] / (w[rows].mean() if len(rows) else 1.0)
        total = max(w.sum(), _UNSEEN)
        if self.kind == "classes":
            count = len(self.task.prior())
            known, y = np.unique(y, return_inverse=True) if len(y) else (np.arange(count), y)
            start = np.log(np.bincount(y, w) / total) if len(y) else np.zeros(count)
            self.unseen = torch.tensor(float(_UNSEEN / (total + _UNSEEN * (count - len(known)))))
        elif self.kind == "labels":
            known, share = np.arange(y.shape[1]), (w @ y + _UNSEEN) / (w.sum() + 2 * _UNSEEN)
            start = np.log(share / (1 - share))
        else:
            there = np.isfinite(y) * w[:, None]
            known, start = np.arange(y.shape[1]), (there * np.nan_to_num(y)).sum(0) / there.sum(0).clip(min=1e-12)
            self.bounds = torch.tensor([_end(-y), _end(y)]).float() * torch.tensor([[-1.0], [1.0]])
        self.known, self.start = torch.from_numpy(known), torch.from_numpy(start).float()
        return rows, y, w, groups[rows] if groups is not None and np.ptp(groups[rows]) else None

    def chances(self, scores: Tensor) -> Tensor:
        """[..., K] to probabilities; numbers stay as they are, within their bounds."""
        if self.kind == "numbers":
            return scores.clamp(*self.bounds)
        return scores.softmax(-1) if self.kind == "classes" else scores.sigmoid()

    def out(self, chances: Tensor) -> Tensor:
        """[B, K] to the task's out, with what the classes that are not known get."""
        if self.kind == "numbers":
            return chances
        if self.kind == "classes" and len(self.known) < (count := len(self.task.prior())):
            chances = chances * (1.0 - self.unseen * (count - len(self.known)))
            chances = self.unseen.expand(len(chances), count).index_copy(1, self.known, chances)
        return self.task.out_of(chances)

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Of each row: log loss, or squared error over the numbers that are known; [B, K] and y as of `begin` -> [B]."""
        if self.kind == "classes":
            return F.cross_entropy(scores, y, reduction="none")
        if self.kind == "labels":
            return F.binary_cross_entropy_with_logits(scores, y.to(scores), reduction="none").mean(1)
        real = y.isfinite()
        return ((scores - y.nan_to_num().to(scores)).square() * real).sum(1) / real.sum(1)


def _end(y: np.ndarray) -> list[float]:
    """Of each number [L, K] the greatest, or infinity where few rows have it."""
    greatest = np.where(np.isnan(y), -np.inf, y).max(0, initial=-np.inf)
    return [float(top) if (column >= top).sum() >= _SHARED else np.inf for top, column in zip(greatest, y.T)]


def held_out(y: np.ndarray, share: float, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """[L] bool, about `share` of the rows, spread evenly over the classes or over the range of the numbers; whole `groups` [L].

    The rows are put in order of their answer and every 1 / share-th is taken; the first row of a class is never. Of several
    labels the rarest that a row has decides, of several numbers the first. A group goes where its first row would go; where
    that holds out none, for they are few, rows are held out as if there were no groups.

    Shapes:
        y [L] classes, [L, C] bool or [L, K] or [L] float
    """
    rng = np.random.default_rng((seed, 11))
    if y.dtype == bool and y.ndim == 2:
        y = np.where(y, y.sum(0), len(y) + 1).argmin(1) if y.shape[1] else np.zeros(len(y), np.int64)
    key = y[:, 0] if y.ndim == 2 else y
    if groups is not None:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        taken = held_out(key[first], share, seed)
        if key.dtype.kind != "f":
            taken[member[np.unique(key, return_index=True)[1]]] = False
        if taken.any():
            return taken[member]
    order = np.lexsort((rng.random(len(key)), key))
    steps = np.floor((np.arange(len(key)) + rng.random()) * share).astype(np.int64)
    taken = np.diff(steps, prepend=0) > 0
    if key.dtype.kind != "f":
        taken[np.flatnonzero(np.diff(key[order], prepend=-1))] = False
    held = np.zeros(len(key), bool)
    held[order] = taken
    return held


def tensors(*arrays: np.ndarray) -> Any:
    """Numpy to torch, float64 to float32."""
    return tuple(torch.from_numpy(a.astype(np.float32) if a.dtype == np.float64 else np.ascontiguousarray(a)) for a in arrays)
