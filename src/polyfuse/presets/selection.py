"""Which members count, and whether fusing pays: greedy selection and its test, on answers to rows a member had not seen."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..core import Cells, Task, written
from ..data import Store
from ..ensemble import joined
from ..evaluate import difference, evaluate, naive

_ROUNDS = 25
_BAGS = 8
FORMAT = 1  # of a stored verdict; to be raised when the same answers are judged otherwise
_ROWS = 6000  # that weights are chosen by, of which more would hardly change them; fewer, where there are very many
_WORK = 4e8  # numbers that one selection may touch
_LEAST = 0.02  # a member with less of the weight is left out


@dataclass
class Said:
    """What the members say of the labelled rows of one target, each row by a fit that had not seen it.

    Args:
        task: of the target.
        outs: [L, M, ...] of each member, honest (see `tempered`).
        speaks: [L, M] whether the member may speak of the row.
        truth: of these rows: `truth.rows` is 0 .. L - 1.
        views: of each member, the views it looks at.
        weight: [L] of each row, or None.
        groups: [L] which rows belong together and go wrong together, or None.
    """

    task: Task
    outs: Tensor
    speaks: Tensor
    truth: Cells
    views: Sequence[tuple[str, ...]]
    weight: Tensor | None = None
    groups: np.ndarray | None = None

    def rows(self, at: Tensor) -> "Said":
        truth = Cells({k: v[at] for k, v in self.truth.x.items()}, torch.arange(len(at)), len(at))
        weight = None if self.weight is None else self.weight[at]
        groups = None if self.groups is None else self.groups[at.numpy()]
        return Said(self.task, self.outs[at], self.speaks[at], truth, self.views, weight, groups)

    def together(self, weights: Tensor) -> Tensor:
        """The answer of these weights [M], as out [L, ...]."""
        return joined(self.task, self.outs, self.speaks, weights, weights)

    @property
    def units(self) -> np.ndarray:
        """[L] the number of what is drawn, and kept on one side, as a whole: a group, or the row itself."""
        return np.arange(len(self.outs)) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]

    def figure(self, out: Tensor) -> dict[str, float]:
        """The task's metric of an answer, with its interval."""
        found = evaluate(self.task, out, self.truth, only=self.task.metric, groups=self.groups)
        return found.get(self.task.metric, {"value": float("nan")})

    def gain(self, out: Tensor, over: Tensor) -> dict[str, Any]:
        """How much better an answer is than another, with its interval."""
        return difference(self.task, out, over, self.truth, groups=self.groups)

    def spared(self, out: Tensor, over: Tensor) -> float:
        """How much less an answer costs than another, in standard errors of that (of groups, where rows belong together)."""
        weight = np.ones(len(out)) if self.weight is None else self.weight.double().numpy()
        less = (self.losses(over) - self.losses(out)).double().numpy()
        mean = float(np.average(less, weights=weight))
        error = np.sqrt((np.bincount(self.units, weight * (less - mean)) ** 2).sum()) / weight.sum()
        return mean / max(float(error), 1e-12)

    def losses(self, out: Tensor) -> Tensor:
        """[L] of each row, in the task's own loss."""
        found = torch.zeros(len(out))
        losses, rows = self.task.row_losses(out, self.truth)
        found[rows] = losses.float()
        return found


def tempered(task: Task, out: Tensor, truth: Cells) -> float:
    """The temperature that makes a member's probabilities honest; 1 where answers are numbers."""
    judge = copy.deepcopy(task)
    judge.calibrate(out, truth)
    found = getattr(judge, "temperature", None)
    return 1.0 if found is None else float(found)


def select(said: Said, members: Sequence[int], seed: int = 0) -> Tensor:
    """Weights [M] of these members, the others zero.

    Members are added one by one, with replacement, whichever lowers the loss of the mean most; this is done on several
    bootstrap samples of the rows (or their groups), and the weights are the mean over these: a member that helped by chance on
    one sample gets little, and below one fiftieth nothing.
    Source: Caruana et al. 2004, "Ensemble Selection from Libraries of Models", sections 2.1 to 2.3; rows are drawn in the bags
    where they draw models.

    Cost:
        bags * rounds * members passes over the answers.
    """
    weights = torch.zeros(said.outs.shape[1])
    if len(members) == 1 or not said.outs.shape[0]:
        weights[list(members)] = 1.0 / max(len(members), 1)
        return weights
    rng = np.random.default_rng((seed, 3))
    per_row = max(1, said.outs[0].numel() * _ROUNDS * _BAGS)
    some = said
    if (most := min(_ROWS, int(max(500, _WORK / per_row)))) < len(said.outs):
        some = said.rows(torch.from_numpy(np.sort(rng.permutation(len(said.outs))[:most])))
    probability = some.task.probability(some.outs)
    values = some.outs if probability is None else probability.float()
    for _ in range(_BAGS):
        units = int(some.units.max()) + 1
        drawn = torch.from_numpy(np.bincount(rng.integers(units, size=units), minlength=units)[some.units]).float()
        counts = _greedy(some, values, probability is not None, drawn if some.weight is None else drawn * some.weight, members)
        weights += counts / counts.sum() / _BAGS
    weights[weights < _LEAST] = 0.0
    return weights / weights.sum()


def _greedy(said: Said, values: Tensor, probable: bool, drawn: Tensor, members: Sequence[int]) -> Tensor:
    """How often each member had been added when the loss was lowest [M]."""
    wide = (-1, *[1] * (values.ndim - 2))
    constant = said.task.constant(len(values))  # type: ignore[operator]
    nobody = said.task.probability(constant).float() if probable else constant.float()  # type: ignore[union-attr]
    total, count = torch.zeros_like(values[:, 0]), torch.zeros(len(values))
    counts, best, lowest = torch.zeros(values.shape[1]), torch.zeros(values.shape[1]), np.inf
    for _ in range(_ROUNDS):  # all of them: a step that gains nothing may lead to one that does
        losses = {}
        for m in members:
            voices = count + said.speaks[:, m]
            mean = (total + values[:, m] * said.speaks[:, m].view(wide)) / voices.clamp(min=1).view(wide)
            mean = torch.where((voices > 0).view(wide), mean, nobody)
            losses[m] = float((said.losses(said.task.out_of(mean) if probable else mean) * drawn).sum() / drawn.sum())
        m = min(losses, key=losses.__getitem__)
        counts[m] += 1
        if losses[m] < lowest * (1 - 1e-4):
            best, lowest = counts.clone(), losses[m]
        total = total + values[:, m] * said.speaks[:, m].view(wide)
        count = count + said.speaks[:, m]
    return best


def held_out(said: Said, members: Sequence[int], seed: int = 0) -> Tensor:
    """The answer of a selection [L, ...], each half of the rows by the weights that the other half chose: no row judges itself."""
    half = torch.from_numpy((np.random.default_rng((seed, 4)).permutation(said.units.max(initial=0) + 1) % 2 == 0)[said.units])
    if half.all() or not half.any():
        return said.together(select(said, members, seed))
    out = torch.zeros_like(said.outs[:, 0])
    for mine, other in ((half, ~half), (~half, half)):
        at = mine.nonzero()[:, 0]
        out[at] = said.rows(at).together(select(said.rows(other.nonzero()[:, 0]), members, seed))
    return out


def judge(said: Said, seed: int = 0) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Whether fusing pays: the figures, the weights that answer, and the spare ones for rows none of those may speak of.

    The best single modality and all together are each a selection of their members. All together answers where it is better by
    at least one standard error (the rule of Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3: of two
    that are not to be told apart, the simpler), else the single modality does. An answer that is not shown to be better than one
    that looks at nothing gives way to that by the same rule, judged by the task's loss: all weights are zero.

    Returns:
        {"metric", "naive", "views": {view: figure}, "single": view, "together": figure, "difference": {"value", "low", "high"},
        "answers": "together", the view or "nothing", "gain": whether the interval of the difference lies above zero, "signal": whether the
        answer is surely better than one that looks at nothing}; a figure is {"value", "low", "high"}
    """
    task, everyone = said.task, range(said.outs.shape[1])
    alone = {v: [m for m in everyone if said.views[m] == (v,)] for v in dict.fromkeys(v for vs in said.views for v in vs)}
    alone = {v: members for v, members in alone.items() if members}
    outs = {v: held_out(said, members, seed) for v, members in alone.items()}
    figures = {v: said.figure(out) for v, out in outs.items()}
    sign = 1.0 if task.higher else -1.0
    single = max(figures, key=lambda v: sign * np.nan_to_num(figures[v]["value"], nan=-np.inf * sign))
    spare = _spare(said, alone, seed)
    found: dict[str, Any] = {
        "metric": task.metric,
        "higher": task.higher,
        "naive": naive(task, said.truth).get(task.metric),
        "views": figures,
    }
    all_out = held_out(said, list(everyone), seed) if len(alone) > 1 else outs[single]
    gained = said.gain(all_out, outs[single])
    error = (gained["high"] - gained["low"]) / (2 * 1.96)
    fused = len(alone) > 1 and gained["value"] > error
    constant = task.constant(len(all_out))  # type: ignore[operator]
    answer = all_out if fused else outs[single]
    over = said.gain(answer, constant)
    signal = bool(over["low"] > 0)
    idle = not signal and said.spared(answer, constant) <= 1.0
    found |= {
        "single": single,
        "together": said.figure(all_out),
        "difference": {k: gained[k] for k in ("value", "low", "high")},
        "answers": "nothing" if idle else "together" if fused else single,
        "gain": len(alone) > 1 and bool(gained["low"] > 0),
        "signal": signal,
    }
    weights = select(said, list(everyone) if fused else alone[single], seed)
    return found, weights * (not idle), spare * (not idle)


def judged(said: Said, seed: int, store: Store) -> tuple[dict[str, Any], Tensor, Tensor]:
    """`judge`, from the store where the same answers were judged before."""
    about = [FORMAT, __version__, written(type(said.task)), said.task.name, seed, said.views]
    h = hashlib.blake2b(json.dumps(about, default=str).encode(), digest_size=20)
    tensors = [said.outs, said.speaks, said.weight, *said.truth.x.values(), *said.task.buffers()]
    for array in [*(None if t is None else t.contiguous().numpy() for t in tensors), said.groups]:
        h.update(b"-" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    name = h.hexdigest()
    if (found := store.find(name)) is not None:
        try:
            was = json.loads((found / "verdict.json").read_text("utf-8"))
            return was["found"], torch.tensor(was["weights"]), torch.tensor(was["spare"])
        except (OSError, ValueError, KeyError):
            pass  # cleared under way, or damaged: judged again
    made, weights, spare = judge(said, seed)

    def fill(folder: Path) -> None:
        verdict = {"found": made, "weights": weights.tolist(), "spare": spare.tolist()}
        (folder / "verdict.json").write_text(json.dumps(verdict, ensure_ascii=False), "utf-8")
        (folder / "meta.json").write_text(json.dumps({"column": "verdict", "units": len(said.outs)}), "utf-8")

    store.put(fill, lambda: name)
    return made, weights, spare


def _spare(said: Said, alone: dict[str, list[int]], seed: int) -> Tensor:
    """Weights of the single modalities among themselves: each view's own selection, by how well it answers alone."""
    weights = torch.zeros(said.outs.shape[1])
    constant = said.losses(said.task.constant(len(said.outs))).mean()  # type: ignore[operator]
    for members in alone.values():
        own = select(said, members, seed)
        here = said.speaks[:, members].any(1)
        gain = (constant - said.losses(said.together(own))[here].mean()) if here.any() else constant * 0
        weights += own * max(float(gain), 1e-3)
    return weights / weights.sum()


def told(target: str, found: dict[str, Any]) -> list[str]:
    """The verdict in words."""

    def figure(f: dict[str, float]) -> str:
        return f"{f['value']:.4g}" + (f" [{f['low']:.4g}, {f['high']:.4g}]" if f.get("low") is not None else "")

    metric, single, views = found["metric"], found["single"], found["views"]
    if not found["signal"]:
        nothing = "cannot be told" if found["naive"] is None else f"gives {found['naive']:.4g}"  # of so few rows that all are alike
        best = f"{metric} {figure(views[single])}, looking at nothing {nothing}"
        idle = "; every answer is the one that looks at nothing" if found["answers"] == "nothing" else ""
        return [f"'{target}': nothing here is shown to predict it: {best}{idle}"]
    if len(views) == 1:
        return [f"'{target}': {single}: {metric} {figure(views[single])}"]
    gained = found["difference"]
    both = f"best single modality '{single}' {figure(views[single])}, all together {figure(found['together'])}"
    line = f"{both}, difference {figure(gained)} ({metric})"
    if found["gain"]:
        verdict = "fusing pays"
    elif found["answers"] == "together":
        verdict = "no gain from fusing is shown; all together answer, for they were better by more than one standard error"
    else:
        verdict = f"no gain from fusing is shown: '{single}' answers alone, the others only where it is missing"
    return [f"'{target}': {line}", f"'{target}': {verdict}"]
