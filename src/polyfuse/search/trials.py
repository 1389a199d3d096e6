"""One trial: options in, answers to rows that were not learned from out. What does not depend on the options is made once."""

import json
import math
import time as clock
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..bundle import Bundle
from ..compare.plan import Method
from ..compare.runs import Bench
from ..core import Cells, DataError, RecipeError, Task, learners, tasks
from ..data import Fold, Splitter, windows
from ..learners import TrainOptions, outputs, train
from ..presets import Course, Step, Table, features_for, folds_for, learn, start, tempered
from ..ready import Ready, Run, make_ready, new_bundle
from ..recipe import choose_tasks
from .space import Settings

Report = Callable[[int, float], None]
"""(step, score so far, more is better): it raises what ends the trial."""
_SHARE = 0.3  # of the rows, held out where there are no folds
_KEPT = 3  # tables made ready, and encoders run, under different options


class Tables:
    """The table made ready: codecs fitted and cells prepared once for all trials that ask the same of the codecs.

    Args:
        recipe_of: settings -> recipe; those of a learner, which no recipe has, change nothing.
        run_of: recipe -> what `make_ready` takes.
    """

    def __init__(self, recipe_of: Callable[[Settings], dict[str, Any]], run_of: Callable[[dict[str, Any]], Run]):
        self.recipe_of, self.run_of = recipe_of, run_of
        self._made: dict[str, Ready] = {}

    def at(self, settings: Settings) -> Ready:
        recipe = self.recipe_of(settings)
        key = json.dumps(recipe["codecs"], sort_keys=True, default=str)
        if key not in self._made:
            first = next(iter(self._made.values()), None)
            same = {} if first is None else first.codecs
            same = {n: c for n, c in same.items() if first and recipe["codecs"].get(n) == first.run.recipe["codecs"].get(n)}
            made = make_ready(self.run_of(recipe), whole=True, given=same)
            while len(self._made) >= _KEPT:  # the first, of the defaults, stays
                del self._made[list(self._made)[1]]
            self._made[key] = made
        ready = self._made[key]
        choose_tasks(recipe, {target: ready.codecs[target] for target in ready.data.targets})
        return replace(ready, run=replace(ready.run, recipe=recipe))


def cut(ready: Ready, folds: int | None, usual: int, seed: int) -> tuple[list[Fold], str]:
    """The folds of all trials, and their rule in words; with one fold a share of the rows is held out.

    Args:
        folds: how many, or None for `usual` and fewer where rows, groups or times allow no more.
    """
    run, labelled = ready.run, ready.rows
    index = windows(run.table, run.schema.window) if run.schema.window else None
    splitter = Splitter(run.table, run.schema, index, run.recipe["main"])
    for count in range(folds or usual, 1, -1):
        try:
            parts, rule = splitter.folds(count, seed)
        except DataError:
            if folds:
                raise
            continue
        break
    else:
        split = splitter.hold_out(_SHARE, seed)
        parts, rule = [Fold(split.train, split.train[:0], split.held)], split.rule
    kept = [Fold(*(np.intersect1d(part, labelled) for part in (f.train, f.held, f.test))) for f in parts]
    if any(not len(f.train) or not len(f.test) for f in kept):
        raise DataError(run.table.name, "leaves a fold without rows to learn from or to test on", fix="more rows, or fewer folds")
    return kept, f"{len(kept)} folds, {rule}" if len(kept) > 1 else f"one split, {rule}"


@dataclass
class Judge:
    """By what trials are measured: the main target's labels in the test rows of all folds, and its task.

    Args:
        counts: of each fold, how many rows it and those before it have.
    """

    task: Task
    truth: Cells
    counts: list[int]

    @classmethod
    def of(cls, task: Task, target: Any, folds: list[Fold]) -> "Judge":
        rows = [labelled(target, fold.test) for fold in folds]
        cells = target.cells(np.concatenate(rows))
        if not len(cells.rows):
            raise DataError(f"target '{task.codec.column}'", "has no label in the rows to test on", fix="label more rows")
        return cls(task, cells, np.cumsum([len(r) for r in rows]).tolist())

    def score(self, out: Tensor) -> float:
        """The task's metric of the first len(out) rows, as it points; NaN where it is not defined."""
        return self.task.scores(out, self._first(len(out))).get(self.task.metric, math.nan)

    def oriented(self, out: Tensor) -> float:
        """The same, more is better."""
        return self.score(out) if self.task.higher else -self.score(out)

    def tempered(self, out: Tensor) -> Tensor:
        return out / tempered(self.task, out, self._first(len(out)))

    def _first(self, count: int) -> Cells:
        return Cells({k: v[:count] for k, v in self.truth.x.items()}, torch.arange(count), count)


def labelled(target: Any, rows: np.ndarray) -> np.ndarray:
    """The rows that have a label."""
    return rows[target.present[rows]]


class Trials(Protocol):
    """What is searched: it answers the test rows under any options.

    Attributes:
        warmup: reports of a trial before it can be pruned.
    """

    judge: Judge
    warmup: int

    def run(self, settings: Settings, report: Report) -> Tensor: ...


@dataclass
class Networks:
    """A network, encoders and fusion together, trained on each fold; every epoch is reported.

    A report is the mean over folds, of finished ones the best epoch's score and of this one the best so far, by the rows that
    choose the epoch: it never falls, so that trials can be compared step by step.
    """

    tables: Tables
    folds: list[Fold]
    seed: int
    device: str | None
    judge: Judge = field(init=False)
    warmup: int = field(init=False)
    _benches: list[Bench] = field(default_factory=list)

    def begin(self, settings: Settings) -> None:
        """Make a network of the defaults: a fault shows before hours of training."""
        ready = self.tables.at(settings)
        model = new_bundle(ready).model
        main = ready.run.recipe["main"]
        task: Any = model.tasks[model.targets.index(main)]
        self.judge = Judge.of(task, ready.data.targets[main], self.folds)
        self.warmup = self._epochs(ready, self.folds[0]) // 4

    def run(self, settings: Settings, report: Report) -> Tensor:
        ready = self.tables.at(settings)
        bench, recipe = self._bench(ready), ready.run.recipe
        method = Method(recipe["fusion"]["name"], "fusion", tuple(ready.data.views), recipe["fusion"])
        scores: list[float] = []
        said = []
        for number, fold in enumerate(self.folds):
            bundle, data = bench.bundle(method, fold, self.seed)
            scores.append(-math.inf)
            begin = number * self._epochs(ready, fold)

            def log(entry: dict[str, Any], begin: int = begin) -> None:
                scores[-1] = max(scores[-1], entry["score"])
                report(begin + entry["epoch"], float(np.mean(scores)))

            done = train(
                bundle.model,
                data,
                fold.train,
                fold.held if len(fold.held) else fold.test,
                TrainOptions(**recipe["train"]),
                seed=self.seed,
                device=self.device,
                loss_weights=recipe["loss"],
                absent=recipe["absent"],
                main=recipe["main"],
                log=log,
            )
            if done.interrupted:
                raise KeyboardInterrupt
            model = bundle.model
            outs, _ = outputs(model, data, labelled(ready.data.targets[recipe["main"]], fold.test))
            task: Any = model.tasks[model.targets.index(recipe["main"])]
            said.append(task.tempered(outs[recipe["main"]]).float())
        return torch.cat(said)

    def _epochs(self, ready: Ready, fold: Fold) -> int:
        return TrainOptions(**ready.run.recipe["train"]).for_rows(len(fold.train)).epochs

    def _bench(self, ready: Ready) -> Bench:
        """With the features of the encoders that do not train: run once, unless these encoders have other options."""
        parts = {v: ready.run.recipe["parts"][v] for v in ready.data.views}
        for bench in self._benches:
            old = bench.ready["representation"]
            before = {v: old.run.recipe["parts"][v] for v in parts}
            if old.data is ready.data and all(
                part == before[v] if v in bench.frozen else part["encoder"] == before[v]["encoder"] for v, part in parts.items()
            ):
                return replace(bench, ready={"representation": ready})
        bench = Bench({"representation": ready}, ready.run.recipe["main"], self.device)
        bench.store_frozen()
        self._benches = [*self._benches[1 - _KEPT :], bench]
        return bench


@dataclass
class Learned:
    """A learner on the features of all views together, fold after fold; features and fits come from the store where they are there."""

    tables: Tables
    folds: list[Fold]
    seed: int
    device: str | None
    learner: str
    judge: Judge = field(init=False)
    warmup: int = 0
    _known: list[tuple[Ready, dict[str, Any], list[Table]]] = field(default_factory=list)

    def begin(self, settings: Settings) -> None:
        """Describe every view; the first trial then only learns."""
        ready = self.tables.at(settings)
        takes(self.learner, ready)
        main, table = ready.run.recipe["main"], self._tables(ready)[0]
        self.judge = Judge.of(table.tasks[list(ready.data.targets).index(main)], ready.data.targets[main], self.folds)

    def run(self, settings: Settings, report: Report) -> Tensor:
        ready = self.tables.at(settings)
        at = list(ready.data.targets).index(ready.run.recipe["main"])
        said: list[Tensor] = []
        for number, (table, fold) in enumerate(zip(self._tables(ready), self.folds)):
            member = {
                "name": self.learner,
                "learner": self.learner,
                "views": list(table.features),
                "options": settings.get(self.learner, {}),
            }
            rows = labelled(ready.data.targets[ready.run.recipe["main"]], fold.test)
            out = learn(member, table, self.seed, ready.run.store).outs[at]
            said.append(out[torch.from_numpy(np.searchsorted(table.rows, rows))])
            report(number, self.judge.oriented(self.judge.tempered(torch.cat(said))))
        return self.judge.tempered(torch.cat(said))

    def _tables(self, ready: Ready) -> list[Table]:
        """What each fold learns from."""
        features = features_for(ready.data, ready.run.recipe, sparse=learners.get(self.learner).sparse)
        for old, its, made in self._known:
            if old.data is ready.data and its == features:
                return made
        course = described(ready, self.learner, self.device)
        made = list(_one_by_one(course.table, self.folds))
        self._known = [*self._known[1 - _KEPT :], (ready, features, made)]
        return made


def _one_by_one(table: Table, folds: list[Fold]) -> Iterator[Table]:
    """The table once for each fold, to be learned from and answered apart."""
    for fold in folds:
        both = Fold(np.union1d(fold.train, fold.held), fold.held[:0], fold.test)
        yield replace(table, folds=[both], whole=None)


def described(ready: Ready, learner: str, device: str | None) -> Course:
    """A course whose views have the features that a learner looks at."""
    course = start(ready, "fast", math.inf, clock.monotonic(), device, None)
    course.plan.features = features_for(ready.data, ready.run.recipe, sparse=learners.get(learner).sparse)
    course.encode()
    return course


def takes(learner: str, ready: Ready) -> None:
    """
    Raises:
        RecipeError: the learner takes no target of the main one's kind.
    """
    main = ready.run.recipe["main"]
    name = ready.run.recipe["parts"][main]["task"]
    if tasks.get(name).learned_as not in learners.get(learner).takes:
        fitting = [n for n in learners.names() if tasks.get(name).learned_as in learners.get(n).takes]
        expected = f"one of {', '.join(fitting)}" if fitting else ""
        raise RecipeError(f"learner '{learner}'", f"cannot take the target '{main}' ({name})", expected=expected, fix="name a --fusion")


def ensemble(run: Run, learner: str, options: dict[str, Any], device: str | None) -> Bundle:
    """The last fit of a learner: on every view alone and on all, weighed by answers to unseen rows, as under a preset."""
    course = described(make_ready(run, whole=not run.schema.having("split")), learner, device)
    views = list(course.table.features)
    chosen = [[view] for view in views] + [views] * (len(views) > 1)
    course.plan.steps = [
        Step({"name": f"{learner} on {' + '.join(vs)}", "learner": learner, "views": vs, "options": options}, 0.0) for vs in chosen
    ]
    course.learn()
    return course.bundle()


def usual_folds(learner: str | None, rows: int) -> int:
    """A network, which may take minutes, is tried on one split; a learner on folds."""
    return 1 if learner is None else folds_for(rows)
