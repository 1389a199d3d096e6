"""Metrics with bootstrap intervals over rows, beside the answer that looks at no input."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Cells, Task
from ..core.intervals import Figure, bootstrap, once

_FEWEST_DRAWS = 200  # enough for the ends of a 95 % interval to a tenth of its width
_COUNTS = 8_000_000  # draws times rows in one interval; a large table gets fewer draws


def evaluate(
    task: Task, out: Tensor, truth: Cells, *, draws: int = 1000, seed: int = 0, only: str = "", groups: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Every metric of a task with its 95 % interval.

    Args:
        task: fitted, and calibrated if it is to be.
        out: [B, ...] what the model gave.
        truth: the labels of these rows.
        draws: of the bootstrap, on many rows at most 8 million / rows; 0 gives the values alone.
        only: the name of one metric; the others, and their draws, are spared.
        groups: of these rows, which belong together and are drawn together.
    Returns:
        {metric: {"value", "low", "high"}}; a metric that is not defined on these rows is left out, and so is an
        interval that is not.
    Cost:
        `draws` times the rows, vectorised: a second for 2,000 rows and eight metrics.
    """
    rows, found = len(truth.rows), {}
    if not rows:
        return {}
    for name, figure in figures(task, out, truth).items():
        value = once(figure, rows) if only in ("", name) else np.nan
        if np.isfinite(value):
            low, high = bootstrap(figure, rows, affordable(task, draws, rows), seed, groups=groups)
            found[name] = {"value": value} | ({"low": low, "high": high} if np.isfinite(low) else {})
    return found


def naive(task: Task, truth: Cells) -> dict[str, float]:
    """The scores of the best answer that looks at no input (majority, shares, mean), learned from the training rows.

    Empty for a task that has no such answer.
    """
    if not hasattr(task, "constant") or not len(truth.rows):
        return {}
    return task.scores(task.constant(truth.size), truth)  # type: ignore[operator]


def difference(
    task: Task, first: Tensor, second: Tensor, truth: Cells, *, draws: int = 1000, seed: int = 0, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """How much better `first` is than `second` by the task's main metric, on the same rows and the same draws.

    Source: the paired bootstrap of Efron and Tibshirani 1993, section 16.4 (a percentile interval here).

    Returns:
        {"metric", "value", "low", "high"}; above zero where `first` is better, whichever way the metric points.
    """
    ours, theirs = (figures(task, out, truth)[task.metric] for out in (first, second))
    sign, rows = (1.0 if task.higher else -1.0), len(truth.rows)

    def gain(counts: np.ndarray) -> np.ndarray:
        return sign * (ours(counts) - theirs(counts))

    low, high = bootstrap(gain, rows, affordable(task, draws, rows), seed, groups=groups)
    return {"metric": task.metric, "value": once(gain, rows), "low": low, "high": high}


def affordable(task: Task, draws: int, rows: int) -> int:
    """Fewer draws on many rows, and for a task that can only score whole sets of rows."""
    most = _COUNTS // max(rows, 1) if hasattr(task, "figures") else 0
    return min(draws, max(most, _FEWEST_DRAWS))


def figures(task: Task, out: Tensor, truth: Cells) -> dict[str, Figure]:
    """A task's own figures or, where it has only `scores`, these on rows repeated as often as they count."""
    if hasattr(task, "figures"):
        return task.figures(out, truth)  # type: ignore[operator]

    def scored(name: str) -> Figure:
        def figure(counts: np.ndarray) -> np.ndarray:
            return np.array([task.scores(*_repeated(out, truth, row)).get(name, np.nan) for row in counts])

        return figure

    return {name: scored(name) for name in task.scores(out, truth)}


def _repeated(out: Tensor, truth: Cells, counts: np.ndarray) -> tuple[Tensor, Cells]:
    drawn = torch.from_numpy(np.repeat(np.arange(len(counts)), counts.astype(int)))
    x = {name: value[drawn] for name, value in truth.x.items()}
    return out[truth.rows[drawn]], Cells(x, torch.arange(len(drawn)), len(drawn))
