"""What `fit` will do under a preset: which encoders run, which members learn, in which order, and about how long it takes."""

import math
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ..core import Cells, RecipeError, TableCodec, Task, beside, did_you_mean, encoders, fusions, learners, option_names
from ..data import Dataset
from ..learners.features import entry_of, halved, kept_as
from ..model import Model
from ..ready import Ready
from .crossfit import training

PRESETS = ("fast", "good", "best")
BUDGETS = {"fast": 120.0, "good": 600.0, "best": 3600.0}  # seconds, where the user gives none
_SMALL = 6000  # rows; below, five folds are cut instead of three
_PATIENT = 0.35  # of the budget: a single step that would take more is left out
_ENCODING = 0.7  # of the budget: a checkpoint that would take more to encode is left out
_PROBE = 16  # cells an encoder is timed on
_LAYERS = 3  # of a checkpoint that are stored where the user does not say
_TOKENS = 64  # most tokens of a cell that are stored of it: fewer where all cells' would take more than
_ROOM = 4 << 30  # bytes
_SAMPLED = 12_000  # rows beyond which a support vector machine would learn from less than half of them
_LIBRARIES = {"boost-lightgbm": "lightgbm", "boost-catboost": "catboost", "tabm": "rtdl_num_embeddings"}


@dataclass
class Step:
    """One member to learn.

    Args:
        member: as `Ensemble` takes it.
        seconds: estimated, for all folds.
    """

    member: dict[str, Any]
    seconds: float

    @property
    def name(self) -> str:
        return self.member["name"]

    @property
    def needed(self) -> bool:
        """Whether it is the first learner on a view alone: every modality that has features has a say."""
        return self.member.get("learner") == "linear" and len(self.member["views"]) == 1

    @property
    def quick(self) -> bool:
        """Whether it is a learner of seconds on a view alone: with these every modality has its say, and their product answers."""
        return self.member.get("learner") in ("linear", "linear-sparse", "boost") and len(self.member["views"]) == 1

    @property
    def deep(self) -> bool:
        return "fusion" in self.member


@dataclass
class Plan:
    """What will be done.

    Args:
        features: {view: the parts of its untrained encoders}.
        encoding_s: {view: seconds its encoders are estimated to take}.
        steps: in order.
        folds: how many.
        left_out: what does not fit, as lines.
    """

    preset: str
    budget_s: float
    features: dict[str, list[dict[str, Any]]]
    encoding_s: dict[str, float]
    steps: list[Step]
    folds: int
    left_out: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(self.encoding_s.values()) + sum(s.seconds for s in self.steps)

    def lines(self) -> list[str]:
        told = f"preset {self.preset}: about {_time(self.seconds)} for what is not stored yet, at most {_time(self.budget_s)}"
        out = [told + f"; {self.folds} folds" * (self.folds > 1)]
        for view, parts in self.features.items():
            out.append(f"  encode {view}: {', '.join(p['encoder'] for p in parts)}, about {_time(self.encoding_s[view])}")
        for step in self.steps:
            out.append(f"  learn {step.name}, about {_time(step.seconds)}")
        return out + [f"  left out: {line}" for line in self.left_out]


def folds_for(rows: int) -> int:
    return 5 if rows <= _SMALL else 3


def features_for(data: Dataset, recipe: dict[str, Any], *, sparse: bool) -> dict[str, list[dict[str, Any]]]:
    """{view: parts}: the codec's untrained encoder, and the one the recipe names where that trains no more (a frozen checkpoint).

    A view that has no cell has none. The same for all who learn from this table, so that they share what is stored.

    Args:
        sparse: whether there are learners that take sparse features, which some codecs have an encoder for.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for view, codec in data.codecs.items():
        count = int(data.views[view].present.sum())
        parts = [{"encoder": name} for name in (codec.untrained, codec.untrained_sparse if sparse else "") if name]
        named = recipe["parts"].get(view)
        if named and named not in parts and not isinstance(codec, TableCodec) and named["encoder"] != codec.encoder:
            part = encoders.get(named["encoder"])
            named = {k: v for k, v in {"layers": _LAYERS, "tokens": _TOKENS}.items() if k in option_names(part)} | named
            encoder = encoders.build(named["encoder"], codec, recipe["width"], **{k: v for k, v in named.items() if k != "encoder"})
            if encoder.frozen:
                if "tokens" in named and "tokens" not in recipe["parts"][view]:
                    size = encoder.features(codec.collate([codec.filler()])).x.shape[2]
                    room = _ROOM // (np.dtype(kept_as(encoder)).itemsize * size * max(count, 1))
                    named["tokens"] = max(1, min(_TOKENS, room))
                parts.append(named)
        if parts and count:
            found[view] = parts
    return found


def make_plan(preset: str, budget_s: float, ready: Ready, rows: np.ndarray, made: Sequence[Task], folds: int, given: bool) -> Plan:
    """The steps of a preset for this table.

    Args:
        rows: that take part.
        made: the targets' tasks.
        given: validation rows are given: one fold, no last fit.
    Raises:
        RecipeError: an unknown preset, or one whose learners take none of the targets.
    """
    data, recipe = ready.data, ready.run.recipe
    probed = _probe(ready, features_for(data, recipe, sparse=True), _ENCODING * budget_s)
    fits = 1 if given else folds + 1
    outputs = max(_outputs(t) for t in made)
    plan = Plan(preset, budget_s, probed.features, probed.seconds, [], folds, list(probed.left_out))
    for name, views, options in _members(preset, probed.columnar, probed.sparse, len(rows)):
        part = learners.get(name)
        if not any(t.learned_as in part.takes for t in made):
            continue
        seconds = fits * part.cost(len(rows), sum(probed.widths[v] for v in views), outputs) * len(made)
        label = f"{name} on {'all' if len(views) == len(data.views) > 1 else ' + '.join(views)}"
        label += f" ({', '.join(str(v) for v in options.values())})" if options else ""
        _add(plan, Step({"name": label, "learner": name, "views": views, "options": options}, seconds))
    if preset != "fast" and not probed.left_out:  # a network would encode with the checkpoint in every pass
        networks = _networks(plan, ready, rows, probed)
        # where a checkpoint has done the most of it, one on a view is soon trained, and finds more there than other learners do
        soon = [step for step in networks if step.member["stored"] and len(step.member["views"]) == 1]
        before = [step for step in plan.steps if step.quick or not probed.stored]
        after = [step for step in plan.steps if not step.quick and probed.stored]
        plan.steps = before + soon + after + [step for step in networks if step not in soon]
    if not plan.steps:
        names = ", ".join(f"'{t.codec.column}' ({t.name})" for t in made)
        raise RecipeError(f"preset '{preset}'", f"has no learner that takes the target {names}", fix="--preset good, or name a --fusion")
    return plan


def _add(plan: Plan, step: Step) -> None:
    if step.seconds > _PATIENT * plan.budget_s and not step.needed:
        plan.left_out.append(f"{step.name}, which would take about {_time(step.seconds)}")
    else:
        plan.steps.append(step)


def _members(preset: str, columnar: dict[str, bool], sparse: list[str], rows: int) -> list[tuple[str, list[str], dict[str, Any]]]:
    """(learner, views, options) in the order of what they promise for their time."""
    views, everything = list(columnar), [list(columnar)] if len(columnar) > 1 else []
    alone, enough = [[v] for v in views], all if preset == "fast" else any
    grown = [[v] for v in views if columnar[v]] + (everything if enough(columnar.values()) else [])  # what trees are grown on
    found: list[tuple[str, list[str], dict[str, Any]]] = [("linear", vs, {}) for vs in alone + everything]
    found += [("boost", vs, {}) for vs in grown]
    found += [("linear-sparse", [v], {}) for v in sparse]
    if len(told := [v for v in views if v in sparse or columnar[v]]) > 1 and sparse:  # beside which other features would be too many
        found.append(("linear-sparse", told, {}))
    if preset == "fast":
        return found
    if rows <= _SAMPLED:
        found += [("svm", vs, {}) for vs in alone + everything]
    found += [("tabm", vs, {}) for vs in (everything or alone)]
    found += [("fused", vs, {"fusion": f}) for f in ("concat", "lowrank") for vs in everything]
    if preset == "best":
        found += [("neighbours", vs, {}) for vs in alone + everything]
        found += [(f"boost-{kind}", vs, {}) for kind in ("lightgbm", "catboost") for vs in grown]
        found += [("fused", vs, {"fusion": f}) for f in ("gmu", "transformer") for vs in everything]
        found += [("linear", list(pair), {}) for pair in combinations(views, 2) if len(views) > 2]
    known = [f for f in found if f[0] in learners and not (f[0] in _LIBRARIES and find_spec(_LIBRARIES[f[0]]) is None)]
    return [f for f in known if "fusion" not in f[2] or f[2]["fusion"] in fusions]


def _networks(plan: Plan, ready: Ready, rows: np.ndarray, probed: "_Probed") -> list[Step]:
    """Networks, where some view is more than a row of numbers: end to end, but for what a checkpoint has made of a view.

    Each such view has one of its own: else it would be the network that pays where fusing seems to. These come first, by the
    tokens that a checkpoint made of a cell (of few the mean says nearly as much): the product of the views gains more by them than
    an ensemble does by one that fuses.
    """
    data, recipe, stored = ready.data, ready.run.recipe, probed.stored
    deep = [view for view, codec in data.codecs.items() if not (codec.tabular or codec.plain)]
    if not deep:
        return []
    own = recipe["fusion"]
    wanted = [own["name"]] if plan.preset == "good" else [own["name"], "multiply", "transformer"]
    names = list(dict.fromkeys(f for f in wanted if f in fusions and fusions.get(f).level == "representation"))
    longest = sorted(deep, key=lambda view: -probed.tokens.get(view, 0))
    told = [(f"network on {view}", [view], {"name": "concat"}) for view in longest if len(data.views) > 1]
    told += [(f"network ({name})", list(data.views), own if name == own["name"] else {"name": name}) for name in names]
    models = plan.folds if plan.preset == "best" or stored else min(plan.folds, 2)
    share = models * (1 - 1 / plan.folds if plan.folds > 1 else 1)  # of all rows in a pass: each learns from those of the other folds
    made = []
    for name, views, fusion in told:
        mine = {v: sizes for v, sizes in stored.items() if v in views}
        member = {"name": name, "views": views, "models": models, "stored": mine, "fusion": fusion}
        seconds = share * training(recipe, len(rows), bool(mine)).epochs * _epoch(ready, rows, member, probed.tokens)
        made.append(Step(member, min(seconds, 0.6 * plan.budget_s / len(told))))
    return made


def _epoch(ready: Ready, rows: np.ndarray, member: dict[str, Any], most: dict[str, int]) -> float:
    """Seconds of one epoch, from the second of two small batches forward and back.

    Args:
        member: the network.
        most: {view: tokens of a cell}, where a checkpoint has made some.
    """
    data, recipe = ready.only(member["views"]).data, ready.run.recipe
    torch.manual_seed(0)
    parts = {**recipe["parts"], **{v: {"stored": sizes} for v, sizes in member["stored"].items()}}
    model = Model(data.codecs, {t: ready.codecs[t] for t in data.targets}, recipe["width"], member["fusion"], parts).train()
    took = 0.0
    for _ in range(2):
        start = clock.monotonic()
        batch = data.batch(rows[: 2 * _PROBE], (0, 0))
        for view, (size, *others) in member["stored"].items():
            own = batch.cells[view]
            tokens, vectors = torch.zeros(len(own.rows), most[view], size), [torch.zeros(len(own.rows), n) for n in others]
            batch.cells[view] = Cells(beside(tokens, tokens[:, :, 0] == 0, vectors, size), own.rows, own.size)
        outs, losses = model(batch)
        model.loss(outs, losses, batch, {}).backward()
        took = clock.monotonic() - start
    return took / min(len(rows), 2 * _PROBE) * len(rows)


@dataclass
class _Probed:
    """What is known of the views' encoders before they run.

    Attributes:
        features: {view: the parts of its encoders}.
        left_out: checkpoints that would take too long, as lines.
        seconds: {view: they will take}, without what is stored.
        widths: {view: how many numbers they give}, sparse ones aside.
        columnar: {view: whether each of these has a meaning of its own}.
        sparse: views that have sparse features too.
        stored: {view: what networks get of it, as `core.Stored` has sizes}, where it has a checkpoint.
        tokens: {view: most tokens that its checkpoint made of a cell}.
    """

    features: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    columnar: dict[str, bool] = field(default_factory=dict)
    sparse: list[str] = field(default_factory=list)
    stored: dict[str, list[int]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


def _probe(ready: Ready, features: dict[str, list[dict[str, Any]]], most_s: float) -> _Probed:
    """What a few cells tell.

    Args:
        most_s: seconds; a checkpoint that would take longer to encode the view is left out.
    """
    found, data, recipe = _Probed(), ready.data, ready.run.recipe
    for view, parts in features.items():
        prepared = data.views[view]
        some = np.flatnonzero(prepared.present)[:_PROBE]
        found.features[view], found.seconds[view], found.widths[view], found.columnar[view] = [], 0.0, 0, True
        sizes: tuple[list[int], list[int]] = [], []  # of checkpoints, and of others
        for part in parts:
            options = {k: v for k, v in part.items() if k != "encoder"}
            encoder = encoders.build(part["encoder"], data.codecs[view], recipe["width"], **options).eval()
            x = prepared.cells(some).x if len(some) else data.codecs[view].collate([data.codecs[view].filler()])
            with torch.inference_mode(), halved(encoder, "cpu"):
                encoder.features(x)
                start = clock.monotonic()
                encoded = encoder.features(x)
            took = clock.monotonic() - start
            padded = float(x["mask"].float().mean()) if "mask" in x else 1.0  # cells are encoded in the order of their length
            seconds = took * padded / max(len(some), 1) * int(prepared.present.sum())
            if ready.run.store.find(entry_of(prepared, ready.rows, encoder, part)) is not None:
                seconds = 0.0
            if seconds > most_s and len(parts) > 1 and encoder.config_state() is not None:
                longer = f"--time {math.ceil(seconds / (_ENCODING * 60))}m gives it time"
                found.left_out.append(f"{part['encoder']} on {view}, which would take about {_time(seconds)}; {longer}")
                continue
            found.features[view].append(part)
            found.seconds[view] += seconds
            if encoder.sparse:
                found.sparse.append(view)
                continue
            sizes[encoder.config_state() is None].append(encoded.x.shape[2] // encoder.alike)
            if encoder.config_state() is not None:
                found.tokens[view] = encoded.x.shape[1]
            found.widths[view] += encoded.x.shape[2]
            found.columnar[view] &= encoder.columnar
        if sizes[0]:
            found.stored[view] = sizes[0] + sizes[1]
    return found


def _outputs(task: Task) -> int:
    values = getattr(task, "values", None)
    return len(values) if values else int(getattr(task, "outputs", 1))


def _time(seconds: float) -> str:
    """As a person says it.

    Example:
        >>> _time(0.4), _time(75), _time(5000), _time(6000)
        ('1 s', '75 s', '83 min', '1.7 h')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def checked(preset: str) -> str:
    """The preset, if there is one of that name."""
    if preset not in PRESETS:
        raise RecipeError(f"preset '{preset}'", "unknown", expected=f"one of {', '.join(PRESETS)}", fix=did_you_mean(preset, PRESETS))
    return preset
