"""Figures over rows and how far to trust them: a figure is a function of how often each row counts.

Written so, one definition serves the plain score (every row once) and a thousand bootstrap draws at once. Nothing
here knows of tasks; each takes numpy arrays over L rows and gives a Figure.
"""

from collections.abc import Callable

import numpy as np

Figure = Callable[[np.ndarray], np.ndarray]
"""counts [K, L], how often row l is in draw k -> the figure of each draw [K]; NaN where it is not defined."""

_CHUNK = 200_000  # counts held at once: a few megabytes with what a metric makes of them


def bootstrap(
    figure: Figure, rows: int, draws: int = 1000, seed: int = 0, level: float = 0.95, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """The percentile interval of a figure over rows, or whole groups of rows, drawn with replacement.

    Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"; the percentile interval of Efron and
    Tibshirani 1993, section 13.3. Draws in which the figure is not defined are left out. Rows of one group (a patient, a day) go
    wrong together: drawn one by one they would make the interval too narrow (Davison and Hinkley 1997, section 3.8).

    Args:
        figure: counts [K, rows] -> [K].
        rows: L, how many rows there are.
        draws: how many samples of L rows.
        seed: of the draws; two figures with the same seed see the same draws, so their difference is paired.
        level: share of the draws inside the interval.
        groups: [L] which rows belong together, or None.
    Cost:
        `draws` * L counts, at most two million at a time.
    Example:
        >>> low, high = bootstrap(mean(np.arange(101.0)), 101)
        >>> 43 < low < 46 and 54 < high < 57
        True
    """
    if rows == 0 or draws == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    member = None if groups is None else np.unique(groups, return_inverse=True)[1]
    units = rows if member is None else int(member.max()) + 1
    figures = []
    for at in range(0, draws, step := max(1, _CHUNK // rows)):
        size = min(step, draws - at)
        drawn = rng.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)
        figures.append(figure(counts if member is None else counts[:, member]))
    found = np.concatenate(figures)
    found = found[np.isfinite(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def once(figure: Figure, rows: int) -> float:
    """The figure with every row counted once: the plain score."""
    return float(figure(np.ones((1, rows)))[0])


def mean(values: np.ndarray) -> Figure:
    """The mean of one value per row [L].

    Example:
        >>> once(mean(np.array([1.0, 2.0, 6.0])), 3)
        3.0
    """
    values = np.asarray(values, np.float64)
    return lambda counts: ratio(counts @ values, counts.sum(1))


def r2(truth: np.ndarray, answer: np.ndarray) -> Figure:
    """1 - squared error / squared deviation from the rows' own mean; not defined where the truth does not vary."""
    truth, answer = np.asarray(truth, np.float64), np.asarray(answer, np.float64)
    centred = truth - truth.mean() if len(truth) else truth
    squared, error = centred**2, (truth - answer) ** 2
    dust = 1e-12 * squared.max(initial=0.0)

    def figure(counts: np.ndarray) -> np.ndarray:
        total = counts @ squared - ratio((counts @ centred) ** 2, counts.sum(1))
        return 1.0 - ratio(counts @ error, np.where(total > dust, total, 0.0))

    return figure


def roc_auc(score: np.ndarray, positive: np.ndarray) -> Figure:
    """Chance that a positive row scores above a negative one, ties counted half (Hanley and McNeil 1982).

    Example:
        >>> once(roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
        0.75
    """
    of_groups, positive = _by_score(score), np.asarray(positive, np.float64)

    def figure(counts: np.ndarray) -> np.ndarray:
        p, n = of_groups(counts * positive), of_groups(counts * (1 - positive))
        below = np.cumsum(n, 1) - n
        return ratio((p * (below + n / 2)).sum(1), p.sum(1) * n.sum(1))

    return figure


def pr_auc(score: np.ndarray, positive: np.ndarray) -> Figure:
    """Average precision: the mean over positive rows of the precision at their score, without interpolation.

    Example:
        >>> round(once(pr_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4), 4)
        0.8333
    """
    of_groups, positive = _by_score(-np.asarray(score, np.float64)), np.asarray(positive, np.float64)

    def figure(counts: np.ndarray) -> np.ndarray:
        p, every = of_groups(counts * positive), of_groups(counts)
        precision = np.cumsum(p, 1) / np.maximum(np.cumsum(every, 1), 1e-300)
        return ratio((p * precision).sum(1), p.sum(1))

    return figure


def tallies(truth: np.ndarray, answer: np.ndarray, classes: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per class, how many rows are right, answered, and true: counts [K, L] -> three arrays [K, C].

    A truth of -1 is a class that is not among them: wrong whatever the answer is.
    """
    hit = np.where(truth == answer, truth, -1)
    groups = [[np.flatnonzero(index == c) for c in range(classes)] for index in (hit, answer, truth)]

    def counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        right, answered, true = (np.stack([counts[:, rows].sum(1) for rows in group], 1) for group in groups)
        return right, answered, true

    return counted


def f1(right: np.ndarray, answered: np.ndarray, true: np.ndarray) -> np.ndarray:
    """2 right / (answered + true), element by element; 0 where a class neither occurs nor is answered."""
    return 2 * right / np.maximum(answered + true, 1e-300)


def threshold_for_f1(p: np.ndarray, positive: np.ndarray, draws: int = 50) -> float:
    """The probability above which to answer "positive": the median of what is best on bootstrap samples, for one sample's is chance.

    One half where the rows are all of one class.
    """
    if positive.all() or not positive.any():
        return 0.5
    order, rng, found = np.argsort(-p, kind="stable"), np.random.default_rng(0), []
    p, positive = p[order], positive[order]
    following = np.append(p[1:], 0.0)
    for _ in range(draws):
        counts = np.bincount(rng.integers(len(p), size=len(p)), minlength=len(p))
        right, answered = np.cumsum(counts * positive), np.cumsum(counts)
        best = np.where(p > following, f1(right, answered, right[-1]), -1.0).argmax()
        found.append((p[best] + following[best]) / 2)
    return float(np.median(found))


def mcc(right: np.ndarray, answered: np.ndarray, true: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Matthews correlation of any number of classes (Gorodkin 2004): tallies [K, C], total [K] -> [K].

    0 where only one class is answered or true.
    """
    unseen = total - true.sum(1)
    c, pt = right.sum(1) * total, (answered * true).sum(1)
    spread = (total**2 - (answered**2).sum(1)) * (total**2 - (true**2).sum(1) - unseen**2)
    return np.where(spread > 0, (c - pt) / np.sqrt(np.maximum(spread, 1e-300)), 0.0)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Figure:
    """Expected calibration error: how far confidence and accuracy lie apart, averaged over bins of confidence.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    gap = np.asarray(confidence, np.float64) - np.asarray(right, np.float64)
    at = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    by_bin = np.zeros((len(gap), bins))
    by_bin[np.arange(len(gap)), at] = gap
    return lambda counts: ratio(np.abs(counts @ by_bin).sum(1), counts.sum(1))


def _by_score(score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Sums over rows of equal score, by rising score: [K, L] -> [K, G]."""
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, int)
    return lambda values: np.add.reduceat(values[:, order], starts, axis=1) if len(starts) else np.zeros((len(values), 0))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
