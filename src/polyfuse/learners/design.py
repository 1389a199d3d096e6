"""Features of all kinds as one matrix of numbers, for learners that take nothing else."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs
from ..core.layers import Fitted

_CHUNK = 8192  # rows that are looked at together: no copy of the whole table is made on the way
_FOLDS = 5  # of the rows, for the statistics of the target
_OUTPUTS = 16  # most outputs (classes, labels, numbers) that a category has a statistic of
_CLIP = 10.0  # deviations from the mean, beyond which a number says no more
_RARE = 5  # rows below which a value shares a column with the other rare ones
_WORTH = (1.0, 1000.0)  # least and most rows that the overall mean counts as, against the mean of one value


class Design(Fitted):
    """The features as a matrix of what varies in the training rows.

    A number is standardised where it is there, clipped, and 0 (the mean) where it is not; a category of few values has a
    column of 0 and 1 for each, the rare ones together; a category of many has smoothed means of the target; each flag has
    a column of 0 and 1. Numbers, values and flags that are constant have no column.

    Source: the statistics are those of Micci-Barreca 2001, "A Preprocessing Scheme for High-Cardinality Categorical Attributes
    in Classification and Prediction Problems", eq. 3-5: how many rows the overall mean is worth follows from the variances
    within and between the values. In the training rows each is taken from other rows, by folds, or a row would find its own
    target in it (Prokhorenkova et al. 2018, "CatBoost: Unbiased Boosting with Categorical Features", section 3.2).

    Args:
        inputs: what the columns of x are.
        standardise: False leaves numbers and statistics as they are, and NaN where they are not there, as trees take them.
        most_values: a category of more values has statistics of the target instead of columns of its own.
    Attributes:
        view: [D] which view each column is of.
        spread: [D] of a number its deviation before it was standardised, against its view's; 1 of the others. Descriptors of
            which the first say most lose that order when they are standardised; times this they have it back.
    Shapes:
        x [B, F] float, there [B, G] bool -> [B, D] float32; D = 0 before `fit_transform` and where nothing varies
    Cost:
        linear in rows and columns.
    """

    view: Tensor
    spread: Tensor
    number: Tensor
    mean: Tensor
    scale: Tensor
    few: Tensor
    few_start: Tensor
    few_column: Tensor
    many: Tensor
    many_start: Tensor
    statistic: Tensor
    flag: Tensor

    def __init__(self, inputs: Inputs, *, standardise: bool = True, most_values: int = 32):
        super().__init__()
        self.inputs, self.standardise, self.most_values = inputs, standardise, most_values
        # features of each kind; where the values of each category begin in `few_column` and `statistic`
        for name in ("view", "number", "few", "few_start", "few_column", "many", "many_start", "flag"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.long))
        for name in ("spread", "mean", "scale"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("statistic", torch.zeros(0, 0))  # [values of all categories of many, outputs]

    def fit_transform(self, x: Any, there: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """Learn from the training rows -> their matrix [L, D], with statistics of the target taken from other rows.

        Args:
            x: an array, or what reads `x[a:b]`, which is asked for a few thousand rows at a time.
            y: as a `Learner` gets it.
        """
        self._fit_numbers(x, there)
        categories = np.flatnonzero(self.inputs.cardinality > 0)
        codes = np.zeros((len(there), len(categories)), np.float32)  # few, so that those of all rows have room
        for some in chunks(len(there)) if len(categories) else []:
            codes[some] = x[some][:, categories]
        values = dict(zip(categories.tolist(), codes.T))
        hot_of = self._fit_few(values, there)
        statistics = self._fit_many(values, there, targets_of(y), seed)
        self.flag = torch.from_numpy(np.flatnonzero(there.any(0) & ~there.all(0)))
        owners = [self.number.numpy(), hot_of, np.repeat(self.many.numpy(), self.statistic.shape[1])]
        view = np.concatenate([self.inputs.view[np.concatenate(owners)], self.inputs.flag_view[self.flag.numpy()]])
        self.view = torch.from_numpy(view.astype(np.int64))
        self.spread = torch.ones(len(view))
        self.spread[: len(self.number)] = self._spread(view[: len(self.number)])
        z = np.empty((len(there), len(view)), np.float32)
        for some in chunks(len(there)):
            z[some] = self._matrix(*(torch.from_numpy(part[some]) for part in (x, there, statistics))).numpy()
        return z

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        seen = there[:, self._owner(there)[self.many]]
        at = _place(x, self.many, self.many_start)
        statistics = self.statistic[at].masked_fill(~seen.unsqueeze(-1), 0.0 if self.standardise else torch.nan)
        return self._matrix(x, there, statistics.flatten(1))

    def _owner(self, there: Tensor) -> Tensor:
        return torch.from_numpy(self.inputs.owner).to(there.device)

    def _matrix(self, x: Tensor, there: Tensor, statistics: Tensor) -> Tensor:
        owner = self._owner(there)
        numbers = x[:, self.number].float()  # a copy, so changed in place: it is the largest array there is
        if self.standardise:
            numbers.sub_(self.mean).div_(self.scale).clamp_(-_CLIP, _CLIP)
        numbers.masked_fill_(~there[:, owner[self.number]], 0.0 if self.standardise else torch.nan)
        columns = int(self.few_column.max()) + 1 if len(self.few_column) else 0
        at = self.few_column[_place(x, self.few, self.few_start)]
        at = at.masked_fill(~there[:, owner[self.few]] | (at < 0), columns)  # nowhere: one column more, cut off again
        hot = numbers.new_zeros(len(x), columns + 1).scatter(1, at, 1.0)[:, :columns]
        return torch.cat([numbers, hot, statistics.to(numbers), there[:, self.flag].to(numbers)], 1)

    def _fit_numbers(self, x: Any, there: np.ndarray) -> None:
        number = np.flatnonzero(self.inputs.cardinality == 0)
        owner = self.inputs.owner[number]
        count = there.sum(0)[owner].clip(min=1)
        total, squares = np.zeros(len(number)), np.zeros(len(number))
        for some in chunks(len(there)):
            total += np.where(there[some][:, owner], x[some][:, number], 0.0).sum(0, dtype=np.float64)
        mean = (total / count).astype(np.float32)
        for some in chunks(len(there)):
            apart = np.where(there[some][:, owner], x[some][:, number] - mean, 0.0)
            squares += np.square(apart, out=apart).sum(0, dtype=np.float64)
        scale = np.sqrt(squares / count)
        varies = scale > 1e-6 * np.abs(mean) + 1e-12
        self.number = torch.from_numpy(number[varies])
        self.mean, self.scale = torch.from_numpy(mean[varies]), torch.from_numpy(scale[varies].astype(np.float32))

    def _spread(self, view: np.ndarray) -> Tensor:
        squares = self.scale.double().numpy() ** 2
        mean = np.bincount(view, squares) / np.bincount(view).clip(min=1)
        return torch.from_numpy(np.sqrt(squares / mean[view])).float()

    def _fit_few(self, values: dict[int, np.ndarray], there: np.ndarray) -> np.ndarray:
        """{category: [L] of every row} -> [columns] the feature of each column of 0 and 1."""
        sizes = self.inputs.cardinality
        few = np.flatnonzero((sizes > 0) & (sizes <= self.most_values))
        places: list[np.ndarray] = [np.zeros(0, np.int64)]
        hot_of: list[int] = []
        for f in few.tolist():
            count = np.bincount(_values(values[f][there[:, self.inputs.owner[f]]], sizes[f]), minlength=sizes[f])
            own = (count >= min(_RARE, len(there))) & (count < len(there))
            rare = ~own & (count < len(there))  # values that no training row has too
            place = np.where(own, np.cumsum(own) - 1, -1)
            columns = int(own.sum())
            if count[rare].sum():
                place[rare] = columns
                columns += 1
            places.append(np.where(place >= 0, place + len(hot_of), -1))
            hot_of += [f] * columns
        self.few, self.few_column = torch.from_numpy(few), torch.from_numpy(np.concatenate(places))
        self.few_start = torch.from_numpy(np.cumsum([0, *sizes[few]]))
        return np.array(hot_of, np.int64)

    def _fit_many(self, values: dict[int, np.ndarray], there: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
        """-> [L, categories of many values * outputs] of the training rows."""
        sizes = self.inputs.cardinality
        many = np.flatnonzero((sizes > self.most_values) & np.any(there, axis=0)[self.inputs.owner])
        fold = np.random.default_rng(seed).permutation(len(there)) % _FOLDS
        tables, columns = [np.zeros((0, y.shape[1]), np.float32)], [np.zeros((len(there), 0), np.float32)]
        for f in many.tolist():
            absent = ~there[:, self.inputs.owner[f]]
            value = _values(np.where(absent, 0.0, values[f]), sizes[f])
            found = [_statistic(value, fold, np.where(absent, np.nan, t), sizes[f], self.standardise) for t in y.T]
            tables.append(np.stack([table for table, _ in found], 1))
            rows = np.stack([row for _, row in found], 1)
            rows[absent] = 0.0 if self.standardise else np.nan
            columns.append(rows)
        self.many, self.many_start = torch.from_numpy(many), torch.from_numpy(np.cumsum([0, *sizes[many]]))
        self.statistic = torch.from_numpy(np.concatenate(tables).astype(np.float32))
        return np.concatenate(columns, 1).astype(np.float32)


def variances(z: np.ndarray) -> np.ndarray:
    """[L, D] float32 -> [D] float64, of columns that are about standardised."""
    total, squares = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    for some in chunks(len(z)):
        total += z[some].sum(0, dtype=np.float64)
        squares += np.square(z[some]).sum(0, dtype=np.float64)
    return (squares / max(len(z), 1) - (total / max(len(z), 1)) ** 2).clip(min=0.0)


def chunks(rows: int) -> list[slice]:
    """So many rows, a few thousand at a time; of no rows one that is empty."""
    return [slice(at, at + _CHUNK) for at in range(0, max(rows, 1), _CHUNK)]


def targets_of(y: np.ndarray) -> np.ndarray:
    """The answers as numbers [L, S], NaN where not known: of classes and labels the most frequent ones, as 0 and 1."""
    if y.dtype.kind == "f":
        return y[:, :_OUTPUTS].astype(np.float64)
    hot = y if y.ndim == 2 else y[:, None] == np.unique(y)[-1 if len(np.unique(y)) == 2 else 0 :]
    often = np.sort(np.argsort(-hot.sum(0), kind="stable")[:_OUTPUTS])
    return hot[:, often].astype(np.float64)


def _statistic(value: np.ndarray, fold: np.ndarray, y: np.ndarray, size: int, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed mean of y for each value [size], and that of each row [L] from the other folds' rows."""
    known = ~np.isnan(y)
    key, t = (fold * size + value)[known], y[known]
    counts = np.bincount(key, minlength=_FOLDS * size).reshape(_FOLDS, size)
    sums = np.bincount(key, t, minlength=_FOLDS * size).reshape(_FOLDS, size)
    n, total = counts.sum(0), sums.sum(0)
    overall = t.mean() if len(t) else 0.0
    means = np.where(n > 0, total / n.clip(min=1), overall)
    # one-way analysis of variance: what a row tells of its value's mean, against how far these means lie apart
    values = max(int((n > 0).sum()), 1)
    within = ((t - means[value[known]]) ** 2).sum() / max(len(t) - values, 1)
    between = ((n * (means - overall) ** 2).sum() - (values - 1) * within) / max(len(t) - (n**2).sum() / max(len(t), 1), 1.0)
    worth = float(np.clip(within / max(between, 1e-12), *_WORTH))
    table = (total + worth * overall) / (n + worth)
    rest_n, rest = (n - counts)[fold, value], (total - sums)[fold, value]
    rows = (rest + worth * overall) / (rest_n + worth)
    if standardise:
        scale = rows.std() or 1.0
        table, rows = (((s - overall) / scale).clip(-_CLIP, _CLIP) for s in (table, rows))
    return table, rows


def _values(x: np.ndarray, size: int) -> np.ndarray:
    return x.astype(np.int64).clip(0, size - 1)


def _place(x: Tensor, features: Tensor, start: Tensor) -> Tensor:
    """Where each category's value [B, n] lies in a table of all values of these categories."""
    return start[:-1] + x[:, features].long().clamp(min=0).minimum(start[1:] - start[:-1] - 1)
