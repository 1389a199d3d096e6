"""How fast each view learned, what it knows alone, and whether another one starved it."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Cells, Task, Tokens, pooled
from ..data import Dataset
from ..learners import shown, some
from ..model import Model
from .metrics import difference, evaluate, naive

_STEPS = 150  # of the optimizer that fits a head to one view's tokens
_SHARE = 0.5  # of what a view's tokens tell: one that answers with less of it is starved
_ALL, _ALONE, _WITHOUT = "all", "alone", "without"


def knowledge(model: Model, data: Dataset, rows: np.ndarray, held: np.ndarray, target: str) -> dict[str, Any]:
    """What each view knows when the model sees it alone, and which are starved by another; JSON for the card.

    A view counts as starved where, on the held-out rows that have it, the model does as well without it, another view alone
    is surely better than it and than the answer without any input, and either
    - a new head, fitted to the view's tokens on training rows, is surely better than the model with the view alone, which has
      less than half of what that head gains over the answer without any input: the verdict is "starved"; or
    - alone it is not surely better than the answer without any input: "unclear", for it may know nothing.
    "Surely" is a paired bootstrap interval of 95 % that leaves out zero.

    Source: that an encoder stops learning once another view explains the labels is a finding of Wang et al. 2020, "What Makes
    Training Multi-modal Classification Networks Hard?", and Peng et al. 2022, "Balanced Multimodal Learning via On-the-fly
    Gradient Modulation"; the test is ours.

    Args:
        rows, held: training and held-out rows; at most 1000 of each are used.
    Returns:
        {"target", "metric", "naive": figure or None, "views": {view: {"value", "low", "high"}}, "starved": [{"view", "by",
        "verdict", "alone", "other", "head"}]}; {} where there is one view only, or no held-out row with a label.
    Cost:
        2 V + 1 fusions of the held-out rows, and the fit of a linear head for each view that seems starved.
    """
    held, views = some(held), model.views
    if len(views) < 2 or not len(held):
        return {}
    kept = {(_ALL, ""): views} | {(_ALONE, v): [v] for v in views} | {(_WITHOUT, v): [w for w in views if w != v] for v in views}
    outs, truth = shown(model, data, held, kept, target)
    if not len(truth.rows):
        return {}
    task, present = model.tasks[model.targets.index(target)], torch.from_numpy(data.present(held))
    figures: dict[str, dict[str, float]] = {}
    starved: list[dict[str, Any]] = []
    for v, view in enumerate(views):
        mine = truth.keep(present[truth.rows, v])
        if figure := evaluate(task, outs[_ALONE, view], mine, only=task.metric):
            figures |= {view: figure[task.metric]}
            if hasattr(task, "constant") and (by := _by(task, outs, mine, view, views)):
                head = _head(model, data, some(rows), held, target, v)
                starved += _judged(task, outs, mine, view, by, head)
    return {
        "target": target,
        "metric": task.metric,
        "naive": naive(task, truth).get(task.metric),
        "views": figures,
        "starved": starved,
    }


def _by(task: Any, outs: dict[tuple[str, str], Tensor], mine: Cells, view: str, views: list[str]) -> str | None:
    """Which view could have starved this one: surely better alone, and the model does as well without this one."""
    nothing = task.constant(mine.size)
    gains = {w: difference(task, outs[_ALONE, w], outs[_ALONE, view], mine) for w in views if w != view}
    best = max(gains, key=lambda w: gains[w]["value"])
    knows = difference(task, outs[_ALONE, best], nothing, mine)["low"] > 0
    needed = difference(task, outs[_ALL, ""], outs[_WITHOUT, view], mine)["low"] > 0
    return best if gains[best]["low"] > 0 and knows and not needed else None


def _judged(task: Any, outs: dict[tuple[str, str], Tensor], mine: Cells, view: str, by: str, head: Tensor) -> list[dict[str, Any]]:
    nothing, lone = task.constant(mine.size), outs[_ALONE, view]
    gain = difference(task, lone, nothing, mine)
    could = difference(task, head, nothing, mine)["value"]
    if difference(task, head, lone, mine)["low"] > 0 and gain["value"] < _SHARE * could:
        verdict = "starved"
    elif not gain["low"] > 0:
        verdict = "unclear"
    else:
        return []
    figures = {"alone": lone, "other": outs[_ALONE, by], "head": head}
    return [{"view": view, "by": by, "verdict": verdict} | {k: task.scores(out, mine)[task.metric] for k, out in figures.items()}]


def _head(model: Model, data: Dataset, rows: np.ndarray, held: np.ndarray, target: str, view: int) -> Tensor:
    """The answers for `held` of a new head of the target's kind that is fitted to one view's tokens as they are."""
    span = model.spans[model.views[view]]
    (x, truth), (other, _) = (_vectors(model, data, r, target, span) for r in (rows, held))
    task = copy.deepcopy(model.tasks[model.targets.index(target)]).requires_grad_(True).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in task.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
    task.fit(truth.x)
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        task.loss(_answer(task, x), truth).backward()
        optimizer.step()
    with torch.no_grad():
        return _answer(task, other)


def _answer(task: Task, x: Tensor) -> Tensor:
    return task(Tokens(x.unsqueeze(1), torch.ones(len(x), 1, dtype=torch.bool), {"row": slice(0, 1)}))


@torch.no_grad()
def _vectors(model: Model, data: Dataset, rows: np.ndarray, target: str, span: str) -> tuple[Tensor, Cells]:
    """The view's pooled tokens [rows, D], and the truth of the rows that have it."""
    parts, here = [], []
    for at in range(0, len(rows), 128):
        x, present = pooled(model.encode(data.batch(rows[at : at + 128])), [span])
        parts.append(x[:, 0].float())
        here.append(present[:, 0])
    truth = data.targets[target].cells(rows)
    return torch.cat(parts), truth.keep(torch.cat(here)[truth.rows])


def told(found: dict[str, Any]) -> list[str]:
    """What `knowledge` found as warnings in words, one for each starved view."""
    lines = []
    for s in found.get("starved", []):
        metric, nothing = found["metric"], found["naive"]
        line = (
            f"'{s['view']}' alone answers '{found['target']}' with {metric} {s['alone']:.3g}, where no input at all gives {nothing:.3g} "
            f"and '{s['by']}' alone {s['other']:.3g}, and the model does as well without it. "
        )
        if s["verdict"] == "starved":
            line += (
                f"A head fitted to its tokens reaches {s['head']:.3g}: '{s['by']}' starves it. "
                "--set train.balance=ogm or --objective heads=1 lets it learn"
            )
        else:
            line += f"Either it knows nothing or '{s['by']}' starves it: --set train.balance=ogm or a fit on it alone shows which"
        lines.append(line)
    return lines
