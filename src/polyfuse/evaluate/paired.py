"""Is one method better than another? Tests on paired figures over folds, and their correction for many methods."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

_FEW = 5  # equal differences that prove nothing
_STEPS = 20_001  # of the quadrature under Student's t; its error is far below what a p-value is read to


@dataclass(frozen=True)
class Paired:
    """A mean difference over folds with its 95 % interval and the p-value of "no difference" (two-sided)."""

    value: float
    low: float
    high: float
    p: float


def corrected_t(differences: np.ndarray, test_share: float, grain: float = 0.0) -> Paired:
    """The corrected resampled t-test: folds share training rows, so their figures vary less than new tables would.

    Source: Nadeau and Bengio 2003, "Inference for the Generalization Error", section 3: the variance of the mean is
    (1/K + n_test / n_train) s^2 in place of s^2 / K; for repeated folds as in Bouckaert and Frank 2004, "Evaluating the
    Replicability of Significance Tests for Comparing Learning Algorithms".

    Args:
        differences: [K] of one figure, the same folds and seeds for both methods.
        test_share: n_test / n_train of a fold.
        grain: the smallest step of the figure (1 / n_test of an accuracy): the deviation is taken as no less, so that a
            few folds with the same small difference prove nothing.
    Returns:
        With fewer than two differences an interval from minus to plus infinity and p = 1: nothing can be said.
    Example:
        >>> found = corrected_t(np.array([0.02, 0.03, 0.01, 0.03, 0.02]), 0.25)
        >>> round(found.value, 3), round(found.p, 4)
        (0.022, 0.0173)
    """
    differences = np.asarray(differences, np.float64)
    count = len(differences)
    if count < 2:
        return Paired(float(differences.mean()) if count else math.nan, -math.inf, math.inf, 1.0)
    mean, variance = float(differences.mean()), max(float(differences.var(ddof=1)), grain**2)
    error = math.sqrt((1 / count + test_share) * variance)
    if error <= 1e-12 * abs(mean) or mean == error == 0:  # the same difference on every fold: of a few it is chance
        return Paired(mean, mean, mean, 1.0 if mean == 0 or count < _FEW else 0.0)
    half = t_quantile(0.975, count - 1) * error
    return Paired(mean, mean - half, mean + half, min(1.0, 2 * t_above(abs(mean) / error, count - 1)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for how many there are: the chance that any of the true nulls is rejected stays below the level.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted, worst = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, (len(p) - rank) * value))
        adjusted[name] = worst
    return adjusted


def t_above(t: float, freedom: int) -> float:
    """P(T > t) of Student's t: with t = sqrt(f) tan(x) its density is in proportion to cos(x)^(f - 1).

    Example:
        >>> round(t_above(2.776445, 4), 6)
        0.025
    """
    start = math.atan(t / math.sqrt(freedom))
    if t < 0:
        return 1.0 - t_above(-t, freedom)
    return _area(start, freedom) / (2 * _area(0.0, freedom))


@cache
def t_quantile(level: float, freedom: int) -> float:
    """The t below which T lies with this chance, level > 0.5, by bisection of `t_above`."""
    low, high = 0.0, 1.0
    while t_above(high, freedom) > 1 - level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_above(middle, freedom) > 1 - level else (low, middle)
    return high


def _area(start: float, freedom: int) -> float:
    x = np.linspace(start, math.pi / 2, _STEPS)
    y = np.cos(x).clip(min=0.0) ** (freedom - 1)
    return float((y.sum() - (y[0] + y[-1]) / 2) * (x[1] - x[0]))
