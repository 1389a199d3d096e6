"""Gradient boosting of trees, as scikit-learn has it."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, Task, learners
from .design import targets_of
from .needs import need
from .scores import Scored, held_out
from .trees import Bins, Forest

_BINS, _FINE, _MANY = 63, 255, 5000  # of a column; where there are more rows than the last, the search over bins costs least
_BLOCK = 256  # columns that are looked at together, to choose the most telling
PATIENCE = 15  # rounds without a better held-out loss
_FEWEST = 40  # rows below which none can be spared to choose the number of rounds
_SHORT = 20  # rounds where none are held out


class Boosted(Scored):
    """What the boosting learners share: features for trees, one model for all classes and one for each label or number.

    The rounds are chosen by the log loss or squared error of held-out rows, so that probabilities are honest; a small table
    is then learned once more with these too.

    Class attributes:
        packages: that have to be installed.
    Args:
        Those of `Boost`, of which a subclass may have other defaults.
    Raises:
        RecipeError: a package is missing.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    standardise = False
    columns: Tensor

    def __init__(
        self,
        task: Task,
        inputs: Inputs,
        *,
        rounds: int = 300,
        rate: float = 0.1,
        leaves: int = 15,
        most_features: int = 300,
        most_trees: int = 2000,
        refit: int = 5000,
    ):
        need(self.name, "boost", *self.packages)
        super().__init__(task, inputs)
        self.rounds, self.rate, self.leaves = rounds, rate, leaves
        self.most_features, self.most_trees, self.refit = most_features, most_trees, refit
        self.register_buffer("columns", torch.zeros(0, dtype=torch.long))  # of the design's
        self.clear()

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        """Seconds that `fit` takes about, on one core and with the options as they are by default: most end before half the rounds."""
        trees = min(120 * outputs, 2000) if outputs > 2 else 120
        return trees * min(features, 300) * (8e-9 * rows + 3e-6)

    def learn(self, z: np.ndarray, there: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        columns = most_telling(z, y, weight, self.most_features)
        self.columns = torch.from_numpy(columns)
        self.clear()
        if not len(columns):
            return
        z = self.prepare(z[:, columns], seed)
        if self.kind == "classes":
            if len(self.known) > 1:
                self._add(z, y, weight, groups, len(self.known), list(range(len(self.known))), seed)
            return
        for output, answers in enumerate(y.T):
            real = np.flatnonzero(np.isfinite(answers))
            if len(np.unique(answers[real])) > 1:
                two = 2 * (self.kind == "labels")
                mine = None if groups is None else groups[real]
                self._add(z[real], answers[real].astype(np.int64 if two else np.float64), weight[real], mine, two, [output], seed)

    def _add(
        self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, classes: int, outputs: list[int], seed: int
    ) -> None:
        """One model, whose scores are added to those of `outputs`."""
        rounds = min(self.rounds, max(self.most_trees // max(classes, 1), 1)) if classes > 2 else self.rounds
        rate = min(self.rate * self.rounds / rounds, max(0.3, self.rate))
        self.start[outputs] = 0.0
        if classes:
            outputs = outputs[-classes + 1 :] if classes == 2 else outputs  # of two classes the second has a score, the first none
        held = held_out(y, 0.2 if len(y) < 1000 else 0.1, seed, groups) if len(y) >= _FEWEST else np.zeros(len(y), bool)
        if held.any():
            model, rounds = self.grow(z[~held], y[~held], weight[~held], (z[held], y[held], weight[held]), classes, rounds, rate, seed)
        else:
            rounds = min(rounds, _SHORT)
        if not held.any() or len(y) <= self.refit:
            model, _ = self.grow(z, y, weight, None, classes, max(rounds, 1), rate, seed)
        self.keep(model, rounds, outputs)

    def clear(self) -> None:
        """Have no models."""
        raise NotImplementedError

    def prepare(self, z: np.ndarray, seed: int) -> np.ndarray:
        """[R, D] float32, NaN where not there, to what `grow` takes."""
        return z

    def grow(self, z: Any, y: Any, weight: Any, held: Any, classes: int, rounds: int, rate: float, seed: int) -> tuple[Any, int]:
        """A fitted model and how many of its rounds were best on `held`; without held rows, all.

        Args:
            z: [R, D] as `prepare` gave it.
            y: [R] 0 .. classes - 1, or float64 where `classes` is 0.
            held: the same three of other rows, or None.
        """
        raise NotImplementedError

    def keep(self, model: Any, rounds: int, outputs: list[int]) -> None:
        """Turn a model into tensors."""
        raise NotImplementedError

    def scores(self, z: Tensor) -> Tensor:
        """[B, D] -> the sum of all kept models' scores [B, K]."""
        raise NotImplementedError

    def least(self, rows: int, classes: int) -> int:
        """Fewest rows in a leaf."""
        return int(np.clip(rows // (10 * max(classes, 1)), 2, 20))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        z = self.design(x, there)[:, self.columns]
        return self.out(self.chances(self.start + self.scores(z)))


@learners("boost")
class Boost(Boosted):
    """Histogram gradient boosting of trees.

    Takes numbers of any scale, finds thresholds and how few features act together, and knows what it means that a value is
    absent; the learner to beat on a table. On hundreds of dense features (text, images) a linear learner is better and faster,
    for a tree looks at one feature at a time. Categories of many values become statistics of the target (see `Design`).

    Source: Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine", section 4; trees on histograms after Ke
    et al. 2017, "LightGBM", as HistGradientBoosting of scikit-learn grows them.

    Args:
        rounds: most rounds of boosting; fewer where there are many classes.
        rate: what share of each tree counts.
        leaves: of a tree, at most.
        most_features: how many features are learned from: those that tell most of the target by themselves.
        most_trees: most trees of all classes together. With fewer rounds than `rounds` each counts for more.
        refit: a table of up to so many rows is learned twice, the second time with the held-out rows.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Cost:
        about 8 ns * rows * features * trees to learn (see `cost`); depth * trees a row to answer.
    """

    parallel = True

    def clear(self) -> None:
        self.forest = Forest()

    def prepare(self, z: np.ndarray, seed: int) -> np.ndarray:
        self.bins = Bins(z, _FINE if len(z) > _MANY else _BINS, seed)
        return self.bins.codes(z)

    def grow(self, z: Any, y: Any, weight: Any, held: Any, classes: int, rounds: int, rate: float, seed: int) -> tuple[Any, int]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        weight = weight if np.ptp(weight) > 0 else None  # faster
        model = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(
            max_iter=rounds,
            learning_rate=rate,
            max_leaf_nodes=max(self.leaves, 2),
            min_samples_leaf=self.least(len(z), classes),
            l2_regularization=1.0,
            max_bins=_FINE,
            early_stopping=held is not None,
            n_iter_no_change=PATIENCE,
            random_state=seed,
        )
        if held is None:
            model.fit(z, y, sample_weight=weight)
            return model, rounds
        model.fit(z, y, sample_weight=weight, X_val=held[0], y_val=held[1], sample_weight_val=held[2])
        return model, int(np.argmax(model.validation_score_))  # the first score is of no round at all

    def keep(self, model: Any, rounds: int, outputs: list[int]) -> None:
        before = np.asarray(model._baseline_prediction, np.float32).ravel()
        self.start[outputs] = torch.from_numpy(before)
        self.forest.add(self.bins.trees_of(model, rounds), outputs * rounds, len(self.columns))

    def scores(self, z: Tensor) -> Tensor:
        return self.forest(z, len(self.start))


def most_telling(z: np.ndarray, y: np.ndarray, weight: np.ndarray, most: int) -> np.ndarray:
    """The columns that tell most of the target by themselves, in their order; all where they are no more than `most`.

    By the share of a column's variance that lies between the classes, as the F test of an analysis of variance ranks them;
    for labels and numbers by the sum of its squared correlations. What is not there counts as the column's mean.

    Shapes:
        z [R, D], NaN where not there -> [at most `most`] int64
    """
    if z.shape[1] <= most or not len(z):
        return np.arange(z.shape[1])
    if y.dtype.kind == "i" and y.ndim == 1:
        t = (y[:, None] == np.arange(y.max() + 1)).astype(np.float32)
    else:
        t = targets_of(y)
        t = np.nan_to_num(t - np.nanmean(np.where(np.isnan(t).all(0), 0.0, t), 0)).astype(np.float32)
    w = weight[:, None].astype(np.float32)
    weighted = t * w / np.sqrt((t**2 * w).sum(0).clip(min=1e-12))
    score = np.concatenate([_told(z[:, at : at + _BLOCK], weighted, w) for at in range(0, z.shape[1], _BLOCK)])
    return np.sort(np.argsort(-score, kind="stable")[:most])


def _told(z: np.ndarray, weighted: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Of each column: its squared products with the weighted targets, against its own."""
    there = ~np.isnan(z)
    z = np.where(there, z, 0.0)
    z = z / np.abs(z).max(0).clip(min=1e-30)  # squares stay finite
    z = np.where(there, z - (z * w).sum(0) / (there * w).sum(0).clip(min=1e-12), 0.0)
    return ((z.T @ weighted) ** 2).sum(1) / (z**2 * w).sum(0).clip(min=1e-12)
