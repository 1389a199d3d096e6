"""One member, fitted fold by fold: what it says of rows it has not seen, and the fit that answers. Each is a step that is
stored whole or not at all, named by all that went into it, so that a run that is killed or repeated does no step twice."""

import hashlib
import json
import shutil
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import __version__
from ..core import Encoder, Layout, RecipeError, Task, fusions, learners, written
from ..core.progress import Progress
from ..data import Dataset, Features, Fold, Joined, Store
from ..ensemble import chosen, shallow, stacked, voices
from ..learners import Interrupted, TrainOptions, outputs, train
from ..learners.design import chunks
from ..learners.features import Beside, averaged, sparse_vectors, vectors, with_stored
from ..learners.threads import together
from ..model import Model
from ..ready import Ready, new_bundle

FORMAT = 4  # of a stored step
_ROOM = 256 << 20  # bytes that features which are read at once may have, and the matrices of fits side by side
_SEEN = 10  # rows a pattern of present views must have for a learner to speak of it


@dataclass
class Table:
    """What steps learn from.

    Args:
        ready: the prepared table.
        folds: of the labelled rows; the last fits are on all training rows.
        whole: the rows of the last fit; None where there is one fold, whose fit is the last.
        tasks: of the targets, fitted.
        groups: [rows of the table] which belong together, or None; they are on one side of every fold already.
        features: {view: the features of each of its encoders, one vector a cell}.
        layouts: {view: what those of each are}.
        tokens: {view: all tokens of its checkpoint, with the other features beside them}, for networks.
    """

    ready: Ready
    folds: list[Fold]
    whole: np.ndarray | None
    tasks: Sequence[Task]
    groups: np.ndarray | None = None
    features: dict[str, list[Features | Joined]] = field(default_factory=dict)
    layouts: dict[str, list[Layout]] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Dataset:
        return self.ready.data

    def add(self, view: str, made: Sequence[Encoder], features: list[Features | Joined], layouts: list[Layout]) -> None:
        """The features of a view and their layout, one of each of its encoders."""
        self.features[view] = [f if own.sparse else averaged(f) for f, own in zip(features, layouts)]
        self.layouts[view] = layouts
        for at in [i for i, encoder in enumerate(made) if encoder.config_state() is not None]:  # one, of a checkpoint, or none
            others = [f for i, (f, own) in enumerate(zip(self.features[view], layouts)) if i != at and not own.sparse]
            self.tokens[view] = Beside([features[at], *others], len(layouts[at].owner) // made[at].alike)

    @cached_property
    def rows(self) -> np.ndarray:
        """Every row that takes part, ascending."""
        parts = [self.whole] if self.whole is not None else [r for fold in self.folds for r in (fold.train, fold.held, fold.test)]
        return np.unique(np.concatenate(parts))

    def parts(self, views: Sequence[str], sparse: bool) -> list[tuple[Any, Layout]]:
        """What a learner, sparse or not, looks at: the features of each encoder and their layout."""
        return [(self.features[v][i], self.layouts[v][i]) for v in views for i in chosen(self.layouts[v], sparse)]

    def inputs(self, views: Sequence[str], at: np.ndarray, sparse: bool = False) -> tuple[Any, np.ndarray]:
        """x [L, F] and there [L, G] of `rows[at]`; for learners that are sparse x is a csr matrix."""
        parts = self.parts(views, sparse)
        if sparse:
            rows = self.rows[at]
            return _side_by_side([sparse_vectors(f, rows) if own.sparse else vectors(f, rows, own) for f, own in parts])
        x = np.empty((len(at), sum(len(own.owner) for _, own in parts)), np.float32)
        there = np.empty((len(at), sum(own.flags for _, own in parts)), bool)
        for some in chunks(len(at)):
            each = [vectors(f, self.rows[at[some]], own) for f, own in parts]
            np.concatenate([v for v, _ in each], 1, out=x[some])
            np.concatenate([t for _, t in each], 1, out=there[some])
        return x, there

    def lazy(self, views: Sequence[str], at: np.ndarray, sparse: bool = False) -> tuple[Any, np.ndarray]:
        """The same, but an x that is sparse, of which a learner makes its own, or large, is what reads rows from where they lie."""
        if not sparse and sum(_size(f, own, len(at)) for f, own in self.parts(views, sparse)) <= _ROOM:
            return self.inputs(views, at, sparse)
        there = [_there(f, self.rows[at], own) for f, own in self.parts(views, sparse)]
        return _Lazy(self, views, at, sparse), np.concatenate(there, 1)

    def truth(self, target: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Which of `rows` have a label that can be learned [R] bool, and what a learner makes of it, [R, ...] with junk elsewhere."""
        cells = self.data.targets[target].cells(self.rows)
        y = task.answers(cells.x)
        known = np.zeros(len(self.rows), bool)
        known[cells.rows.numpy()] = y >= 0 if task.learned_as == "classes" else True
        full = np.zeros((len(self.rows), *y.shape[1:]), y.dtype)
        full[cells.rows.numpy()] = y
        return known, full


@dataclass
class _Lazy:
    """x [L, F] of `rows[at]` of a table, of which rows are read when they are asked for."""

    table: Table
    views: Sequence[str]
    at: np.ndarray
    sparse: bool

    def __getitem__(self, some: slice | np.ndarray) -> Any:
        return self.table.inputs(self.views, self.at[some], self.sparse)[0]


@dataclass
class Fitted:
    """What a step leaves.

    Args:
        outs: {target's number: [R, ...]} of the table's `rows`.
        covered: [R] whether a fit that had not seen the row has spoken of it.
        state: the weights of the member.
        models: how many networks it holds.
        seconds: it took when it was made.
    """

    outs: dict[int, Tensor]
    covered: np.ndarray
    state: dict[str, Tensor]
    models: int = 0
    seconds: float = 0.0
    stored: bool = False


def learn(member: dict[str, Any], table: Table, seed: int, store: Store) -> Fitted:
    """A learner on each fold and then on all rows; from the store where it was learned before."""
    keys = [f.key for f, _ in table.parts(member["views"], learners.get(member["learner"]).sparse)]
    return _step(store, _name(member, table, seed, keys), member["name"], lambda: _learn(member, table, seed))


def _learn(member: dict[str, Any], table: Table, seed: int) -> Fitted:
    rows, views = table.rows, member["views"]
    present = table.data.present(rows)[:, [list(table.data.views).index(v) for v in views]]
    weight = None if table.data.weight is None else table.data.weight[rows]
    made = shallow(member, table.tasks, table.layouts)
    sparse = made.sparse
    outs: dict[int, Tensor] = {}
    covered = np.zeros(len(rows), bool)
    size = sum(_size(f, own, len(rows)) for f, own in table.parts(views, sparse))
    threads = min(table.ready.run.threads, _ROOM // max(size, 1)) if learners.get(member["learner"]).parallel else 1
    for t, learner in zip(made.targets, made.learners):
        known, y = table.truth(list(table.data.targets)[t], table.tasks[t])

        def fit(at: np.ndarray, into: Any, known: np.ndarray = known, y: np.ndarray = y) -> None:
            use = at[known[at] & present[at].any(1)]
            if not len(use):
                use = at[known[at]]
            groups = None if table.groups is None else table.groups[rows[use]]
            read = table.lazy if into.lazy else table.inputs
            into.fit(*read(views, use, sparse), y[use], None if weight is None else weight[use], groups, seed=seed)

        def cross(fold: Fold, t: int = t, last: Any = learner, fit: Any = fit) -> Tensor:
            only = table.whole is None  # there is no other fit, this is the last
            one = last if only else shallow(member, table.tasks, table.layouts).learners[made.targets.index(t)]
            fit(np.searchsorted(rows, np.sort(fold.train if only else np.concatenate([fold.train, fold.held]))), one)
            return _answered(one, table, views, np.searchsorted(rows, fold.test), sparse)

        jobs: list[Callable[[], Any]] = [partial(cross, fold) for fold in table.folds]
        if table.whole is not None:
            jobs.append(partial(fit, np.searchsorted(rows, np.sort(table.whole)), learner))
        for fold, out in zip(table.folds, together(jobs, threads)):
            at = np.searchsorted(rows, fold.test)
            outs.setdefault(t, torch.zeros(len(rows), *out.shape[1:]))[at] = out
            covered[at] = True
    made.patterns = torch.from_numpy(_patterns(present))
    return Fitted(outs, covered, made.state_dict())


def _size(stored: Any, layout: Layout, rows: int) -> int:
    """Bytes that these features of so many rows take in memory."""
    if not layout.sparse:
        return 4 * rows * len(layout.owner)
    parts = [stored.first, stored.second] if isinstance(stored, Joined) else [stored]
    return 12 * sum(len(part.arrays["features"]) for part in parts)  # a value and two places of each pair


def _there(stored: Any, rows: np.ndarray, layout: Layout) -> np.ndarray:
    """[R, G] which flags of these features are up."""
    if layout.sparse:
        return stored.present[rows][:, None]
    return np.concatenate([vectors(stored, rows[some], layout)[1] for some in chunks(len(rows))])


def _patterns(present: np.ndarray) -> np.ndarray:
    """[patterns, V] patterns of present views that enough rows show; the most common one where none does."""
    found, counts = np.unique(present[present.any(1)], axis=0, return_counts=True)
    if not len(found):
        return np.ones((1, present.shape[1]), bool)
    return found[counts >= min(_SEEN, counts.max())]


@torch.inference_mode()
def _answered(learner: Any, table: Table, views: Sequence[str], at: np.ndarray, sparse: bool) -> Tensor:
    """What a learner says of many rows, a few at a time."""
    learner.eval()
    read = (table.inputs(views, at[some], sparse) for some in chunks(len(at)))
    return torch.cat([learner(x if sparse else torch.from_numpy(x), torch.from_numpy(there)).float() for x, there in read])


def _side_by_side(parts: Sequence[tuple[Any, np.ndarray]]) -> tuple[Any, np.ndarray]:
    import scipy.sparse as sp

    x = sp.hstack([sp.csr_matrix(x) for x, _ in parts], format="csr", dtype=np.float32)
    return x, np.concatenate([there for _, there in parts], 1)


def stack(
    member: dict[str, Any], table: Table, of: Sequence[dict[int, Tensor]], speaks: Tensor, covered: np.ndarray, seed: int, store: Store
) -> Fitted:
    """A member that learns from what others say, each fold's rows by a fit on the other folds'.

    Args:
        of: of each of these members {target's number: honest out [R, ...]}.
        speaks: [R, M] of which rows each may speak.
        covered: [R] rows of which all of them have spoken unseen.
    """
    h = hashlib.blake2b(speaks.numpy().tobytes() + covered.tobytes(), digest_size=20)
    for outs in of:
        for t in sorted(outs):
            h.update(outs[t].contiguous().numpy().tobytes())
    name = _name(member, table, seed, [h.hexdigest()])
    return _step(store, name, member["name"], lambda: _stack(member, table, of, speaks, covered, seed))


def _stack(member: dict[str, Any], table: Table, of: Sequence[dict[int, Tensor]], speaks: Tensor, covered: np.ndarray, seed: int) -> Fitted:
    rows, there = table.rows, speaks.numpy()
    weight = None if table.data.weight is None else table.data.weight[rows]
    outs: dict[int, Tensor] = {}
    answered = np.zeros(len(rows), bool)
    made = stacked(member, table.tasks, range(len(of)))
    for t, learner in zip(made.targets, made.learners):
        known, y = table.truth(list(table.data.targets)[t], table.tasks[t])
        x = voices(table.tasks[t], [o[t] for o in of])

        def fit(into: Any, use: np.ndarray, known: np.ndarray = known, y: np.ndarray = y, x: Tensor = x) -> None:
            use = use[known[use]]
            groups = None if table.groups is None else table.groups[use]
            into.fit(x[use].numpy(), there[use], y[use], None if weight is None else weight[use], groups, seed=seed)

        for fold in table.folds:
            at = np.searchsorted(rows, fold.test)
            at = at[covered[at]]
            if not len(at):
                continue
            one = stacked(member, table.tasks, range(len(of))).learners[made.targets.index(t)]
            fit(one, np.flatnonzero(covered & np.isin(rows, fold.test, invert=True)))
            with torch.inference_mode():
                out = one.eval()(x[at], speaks[at]).float()
            outs.setdefault(t, torch.zeros(len(rows), *out.shape[1:]))[at] = out
            answered[at] = True
        fit(learner, np.flatnonzero(covered))
    views = list(table.data.views)
    present = table.data.present(rows)[:, [views.index(v) for v in member["views"]]]
    made.patterns = torch.from_numpy(_patterns(present))
    return Fitted(outs, answered, made.state_dict())


def network(
    member: dict[str, Any],
    table: Table,
    seed: int,
    store: Store,
    *,
    seconds: float | None,
    device: str | None,
    progress: Progress,
) -> Fitted:
    """A network trained on as many folds as `member["models"]` says and the time allows, one at least.

    Args:
        seconds: for all of it; each training plans its steps by its share.
    """
    folds: list[Fold] = table.folds[: member["models"]]
    states: list[dict[str, Tensor]] = []
    outs: dict[int, Tensor] = {}
    covered, end = np.zeros(len(table.rows), bool), None if seconds is None else clock.monotonic() + seconds
    keys = [table.tokens[v].key if v in member["stored"] else table.data.views[v].key for v in member["views"]]
    took = 0.0
    for number, fold in enumerate(folds):
        left = None if end is None else (end - clock.monotonic()) / (len(folds) - number)
        if left is not None and left < 2.0 and states:
            break
        name = _name({**member, "models": number}, table, seed, keys)
        one = _step(store, name, member["name"], lambda fold=fold, left=left: _network(member, table, fold, seed, left, device, progress))  # type: ignore[misc]
        at = one.covered
        for t, out in one.outs.items():
            outs.setdefault(t, torch.zeros_like(out))[torch.from_numpy(at)] = out[torch.from_numpy(at)]
        covered |= at
        states.append(one.state)
        took += one.seconds
    state = {f"models.{i}.{k}": v for i, s in enumerate(states) for k, v in s.items()}
    return Fitted(outs, covered, state, len(states), took)


def training(recipe: dict[str, Any], rows: int, stored: bool) -> TrainOptions:
    """How long a network trains: half of the passes that one has which has to do all alone, for beside others it serves most where
    it errs as they do not; a third where a checkpoint has done the most of it, and then to the end."""
    options = TrainOptions(**recipe["train"])
    usual = replace(options.for_rows(rows), keep="last" if stored else options.keep)
    return usual if options.epochs else replace(usual, epochs=max(4, usual.epochs // (3 if stored else 2)))


def _network(
    member: dict[str, Any], table: Table, fold: Fold, seed: int, seconds: float | None, device: str | None, progress: Progress
) -> Fitted:
    ready, rows = table.ready.only(member["views"]), table.rows
    data = with_stored(ready.data, {v: table.tokens[v] for v in member["stored"]})
    here: np.ndarray = np.any(data.present(), axis=1)
    learn, held = (part[here[part]] if here[part].any() else part for part in (fold.train, fold.held))
    parts = {**ready.run.recipe["parts"], **{v: {"stored": sizes} for v, sizes in member["stored"].items()}}
    recipe = {**ready.run.recipe, "parts": parts, "fusion": member["fusion"], "seed": seed}
    bundle = new_bundle(replace(ready, run=replace(ready.run, recipe=recipe), data=data, rows=learn, held=held))
    assert isinstance(bundle.model, Model)
    try:
        train(
            bundle.model,
            data,
            learn,
            held if len(held) else fold.test,
            training(recipe, len(learn), bool(member["stored"])),
            seed=seed,
            device=device,
            budget_s=seconds,
            loss_weights=recipe["loss"],
            main=recipe.get("main"),
            progress=progress,
        )
    except Interrupted:
        raise RecipeError(
            "fit", "was interrupted before a network had learned anything", fix="run it again: what is finished is kept"
        ) from None
    said, _ = outputs(bundle.model, data, fold.test)
    at = torch.from_numpy(np.searchsorted(rows, fold.test))
    outs, covered = {}, np.zeros(len(rows), bool)
    for t, (target, task) in enumerate(zip(bundle.model.targets, bundle.model.tasks)):
        out = task.tempered(said[target].float())
        outs[t] = torch.zeros(len(rows), *out.shape[1:])
        outs[t][at] = out
    covered[at.numpy()] = True
    return Fitted(outs, covered, bundle.model.state_dict(), 1)


# -- what is stored -----------------------------------------------------------------------------------------------


def _name(member: dict[str, Any], table: Table, seed: int, keys: Sequence[str]) -> str:
    """A hash of all that a step is made from."""
    recipe = table.ready.run.recipe
    code = written(fusions.get(member["fusion"]["name"]) if "fusion" in member else learners.get(member.get("learner", "linear")))
    about = [FORMAT, __version__, code, {k: v for k, v in member.items() if k != "name"}, seed, list(keys)]
    about += [recipe["parts"], recipe["train"] | recipe["loss"] if "fusion" in member else "", recipe["width"]]
    h = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=20)
    for fold in table.folds:
        for part in (fold.train, fold.held, fold.test):
            h.update(np.ascontiguousarray(part, np.int64).tobytes() + b"|")
    h.update(b"" if table.whole is None else np.ascontiguousarray(table.whole, np.int64).tobytes())
    for name, target in table.data.targets.items():
        cells = target.cells(table.rows)
        h.update(name.encode() + cells.rows.numpy().tobytes())
        for key in sorted(cells.x):
            h.update(cells.x[key].contiguous().numpy().tobytes())
    for view in table.data.views.values():
        h.update(view.present[table.rows].tobytes())
    if table.groups is not None:
        h.update(np.ascontiguousarray(table.groups, np.int64).tobytes())
    if table.data.weight is not None:
        h.update(table.data.weight.tobytes())
    return h.hexdigest()


def _step(store: Store, name: str, label: str, make: Callable[[], Fitted]) -> Fitted:
    found = store.find(name)
    if found is not None:
        try:
            return _read(found)
        except (OSError, ValueError, KeyError, SafetensorError):  # cleared under way, or damaged: made again
            shutil.rmtree(found, ignore_errors=True)
    start = clock.monotonic()
    made = make()
    made.seconds = clock.monotonic() - start

    def fill(folder: Path) -> None:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in made.state.items()}, folder / "state.safetensors")
        outs = {str(t): out.contiguous() for t, out in made.outs.items()}
        save_file({**outs, "covered": torch.from_numpy(made.covered)}, folder / "outs.safetensors")
        about = {"column": f"step {label}", "units": len(made.covered), "models": made.models, "seconds": made.seconds}
        (folder / "meta.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")

    store.put(fill, lambda: name)
    return made


def _read(folder: Path) -> Fitted:
    outs, about = load_file(folder / "outs.safetensors"), json.loads((folder / "meta.json").read_text("utf-8"))
    covered = outs.pop("covered").numpy()
    state = load_file(folder / "state.safetensors")
    return Fitted({int(t): out for t, out in outs.items()}, covered, state, about["models"], about["seconds"], stored=True)
