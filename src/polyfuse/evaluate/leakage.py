"""Columns that give the target away: each alone, by a table of what its values go with."""

import numpy as np

from ..core import TableCodec
from ..data import PreparedTable

_BINS = 64  # of a number's values, by their quantiles
_SUSPECT = 0.9  # of the target's uncertainty that a column alone removes
_MOST = 20_000  # rows that are looked at


def leaks(table: PreparedTable, codec: TableCodec, rows: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """{column: share of the target's uncertainty that it removes alone}, for those that remove nearly all of it.

    Such a column is often another name of the target, or was written down after it: a model that leans on it is worth nothing
    where it counts. It may also be right; only the user knows, so it is named and not removed.
    The share is 1 - (log loss or squared error) / (that of the answer that looks at nothing). Each half of the rows is judged by
    what the other half tells of a value, so that an id, whose values are all different, removes nothing.
    Source: ours; what leakage is, Kaufman et al. 2012, "Leakage in Data Mining", section 2.

    Args:
        rows: labelled.
        y: what a learner makes of their targets: int64 [L] classes, or [L, C] labels or numbers.
    """
    rng = np.random.default_rng((seed, 5))
    if len(rows) > _MOST:
        kept = np.sort(rng.permutation(len(rows))[:_MOST])
        rows, y = rows[kept], y[kept]
    goal = np.eye(int(y.max()) + 1)[y] if y.ndim == 1 else np.nan_to_num(y.astype(np.float64))
    half = rng.permutation(len(rows)) % 2 == 0
    found = {}
    for m, member in enumerate(codec.members):
        there = table.arrays["present"][rows, m]
        if member.cardinality:
            value = table.arrays["index"][rows, codec.index_columns[member.column]]
        else:
            number = table.arrays["value"][rows, codec.value_slices[member.column].start]
            edges = np.unique(np.quantile(number[there], np.linspace(0, 1, _BINS + 1)[1:-1])) if there.any() else np.zeros(0)
            value = np.searchsorted(edges, number, side="right")
        share = _removed(np.where(there, value + 1, 0), goal, half, y.ndim == 1)
        if share >= _SUSPECT:
            found[member.column] = share
    return found


def _removed(value: np.ndarray, goal: np.ndarray, half: np.ndarray, classes: bool) -> float:
    """1 - loss / loss of the mean, the loss of each half by the other's means per value, which the overall mean smooths."""
    loss = naive = 0.0
    for learn, judge in ((half, ~half), (~half, half)):
        if not learn.any() or not judge.any():
            return 0.0
        mean = goal[learn].mean(0)
        sums, counts = np.zeros((value.max() + 1, goal.shape[1])), np.bincount(value[learn], minlength=value.max() + 1)[:, None]
        np.add.at(sums, value[learn], goal[learn])
        told = ((sums + mean) / (counts + 1))[value[judge]]
        loss += _cost(told, goal[judge], classes)
        naive += _cost(np.broadcast_to(mean, told.shape), goal[judge], classes)
    return 1.0 - loss / naive if naive > 0 else 0.0


def _cost(answer: np.ndarray, goal: np.ndarray, classes: bool) -> float:
    return float(-(goal * np.log(answer.clip(1e-6))).sum() if classes else ((answer - goal) ** 2).sum())
