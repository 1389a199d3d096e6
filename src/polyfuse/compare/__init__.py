"""compare: every view alone and every fusion on the same folds, seeds, encoders and budget; a leaderboard and a verdict."""

import json
import math
import os
import shutil
import time as clock
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle import Bundle
from ..core import Cells, DataError, RecipeError, Schema, Task
from ..core import fusions as registered
from ..core.progress import Progress
from ..data import Fold, Splitter, Store, read, windows
from ..fit import alone, fingerprint, scratch_folder, seconds
from ..ready import Ready, Run, find_schema, make_ready
from ..recipe import parse_settings, resolve
from . import runs
from .plan import BASELINE, Method, methods_of, survivors
from .standing import Comparison, Place, Standing, standings, verdict

__all__ = ["Comparison", "Method", "Standing", "compare"]

ENCODERS = ("own", "shared")


def compare(
    rows: Any,
    target: str | list[str] | None = None,
    *,
    fusions: Any = "all",
    pairs: bool = False,
    seeds: int = 5,
    folds: int = 5,
    time: float | str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    encoders: str = "own",
    schema: Schema | str | Path | None = None,
    columns: dict[str, str] | None = None,
    ignore: list[str] | None = None,
    join: dict[str, tuple[str, list[str]]] | None = None,
    window: Any = None,
    group: str | None = None,
    time_column: str | None = None,
    split_column: str | None = None,
    weight: str | None = None,
    task: str | None = None,
    main: str | None = None,
    size: str = "m",
    device: str | None = None,
    threads: int | None = None,
    quiet: bool = True,
    set: dict[str, Any] | list[str] | None = None,
    max_refused: float = 0.1,
    allow_outside: bool = False,
) -> Comparison:
    """Which fusion is best on this table, and does fusing pay at all?

    Every method learns `seeds` times from `folds` folds, the same ones for all. Each epoch is chosen on rows of the fold's
    own training part; the fold's test rows only judge. The best single view is the one with the best mean over folds.

    Args:
        rows: a path or anything in memory that is a table (see `fit`).
        target: the column to predict, or several.
        fusions: "all", names, or {label: name or {"name": ..., "seed": shift of its seeds, **options}}.
        pairs: also every two views, joined by `concat`.
        seeds: how often the folds are cut anew.
        folds: of each cut.
        time: budget of the whole call, seconds or "20m". Where it cannot carry every method to the end, the worse half is
            left behind again and again (successive halving), the best single view and `concat` never.
        out: folder for leaderboard.csv, comparison.json, comparison.png and the runs. The same call goes on where a killed one
            stopped, and a later one with more fusions or seeds runs only what is new.
        encoders: "own", each method trains its encoders with its fusion, end to end; "shared", in each fold the encoders are
            those of the views' single models, run once and stored, and only the fusions train: many times faster, but what
            shows only when views meet (does this sound belong to that picture?) such encoders never learned.
        set: options of encoders, training and fusions: `train.epochs=5`, `photo.encoder=image-resnet`, `lowrank.rank=8`.

    The other arguments are those of `fit`.

    Raises:
        DataError, RecipeError: a table, fusion or option that cannot be; a folder that holds another comparison.

    Example:
        found = polyfuse.compare("pets.csv", "adopted", fusions="multiply,transformer", time="20m")
        print("\\n".join(found.lines()))
    """
    started, budget_s = clock.monotonic(), seconds(time)
    progress = Progress(quiet)
    _check(seeds, folds, encoders)
    if threads:
        torch.set_num_threads(threads)
    with scratch_folder() as folder, alone(out):
        table = read(rows, scratch=folder)
        for note in table.notes:
            progress.say(f"note: {note}", "yellow")
        found = find_schema(table, schema, target, task, columns, ignore, join, window, group, time_column, split_column, weight, progress)
        settings, of_fusions = _parted(parse_settings(set))

        def ready_at(fusion: str) -> Ready:
            recipe = resolve(found, fusion=fusion, size=size, seed=0, settings=settings, task=task, main=main)
            run = Run(
                Schema.from_json(recipe["schema"]),
                recipe,
                table,
                progress,
                Store(),
                threads or os.cpu_count() or 1,
                max_refused,
                allow_outside,
            )
            return make_ready(run, whole=True)

        ready = ready_at(BASELINE)
        views = list(ready.data.views)
        if len(views) < 2:
            raise RecipeError(
                table.name, f"has one view, '{views[0]}'", expected="at least two to compare fusions", fix="`polyfuse fit` learns from one"
            )
        references, wanted = methods_of(views, fusions, pairs, of_fusions)
        bench = runs.Bench({"representation": ready}, ready.run.recipe["main"], device)
        if any(m.level == "feature" for m in wanted):
            bench.ready["feature"] = ready_at("early")
        cut, split = _folds(ready, seeds, folds)
        wanted = _possible(bench, wanted, next(iter(cut.values())), progress, strict=fusions != "all")
        for method in references:
            bench.bundle(method, next(iter(cut.values())), 0)  # a fault shows before hours of training
        place = Path(out) if out is not None else folder / "comparison"
        mark = fingerprint({**ready.run.recipe, "encoders": encoders}, table, None) + f"-{folds}"
        _claim(place, mark, overwrite)
        match = _Match(bench, [*references, *wanted], cut, split, place, encoders, progress, started, budget_s)
        match.go(seeds)
        result = match.result()
        if out is not None:
            result.write(place)
    return result


@dataclass
class _Match:
    """The runs, in an order that leaves a fair picture whenever it ends: fold after fold, all methods in each."""

    bench: runs.Bench
    methods: list[Method]
    folds: dict[Place, Fold]
    split: str
    folder: Path
    encoders: str
    progress: Progress
    started: float
    budget_s: float | None
    found: dict[str, dict[Place, runs.Result]] = field(default_factory=dict)
    note: str = ""

    def go(self, seeds: int) -> None:
        self._load()
        alive = list(self.methods)
        total = len(self.folds) * len(alive)
        done = sum(len(f) for f in self.found.values())
        if done:
            self.progress.say(f"{done} of {total} runs are there from before")
        rungs = max(1, math.ceil(math.log2(max(sum(m.kind == "fusion" for m in alive), 2))))
        rung_ends = self._left() / rungs if self.budget_s else math.inf
        with self.progress.bar("comparing", total) as bar:
            bar.step(done)
            try:
                for at, place in enumerate(self.folds):
                    if all(place in self.found.get(m.name, {}) for m in alive):
                        continue
                    if not self._fold(place, alive, bar):
                        break
                    left = len(self.folds) - at - 1
                    self._tell(place)
                    while left and self.budget_s and self._cost(alive) * left > self._left() and len(alive) > self._least(alive):
                        if self._left() > (rungs - 1) * rung_ends and self._cost(alive) < self._left() - (rungs - 1) * rung_ends:
                            break  # this rung has time for one more fold
                        rungs -= 1
                        alive = self._halved(alive)
            except KeyboardInterrupt:
                self.note = "Interrupted: the leaderboard holds what was finished."
                self.progress.say("interrupted: the runs that are finished count", "yellow")

    def _load(self) -> None:
        for method in self.methods:
            for seed, fold in self.folds:
                result = runs.read(runs.file_of(self.folder, method, seed, fold), method)
                if result is not None:
                    self.found.setdefault(method.name, {})[seed, fold] = result

    def _fold(self, place: Place, alive: list[Method], bar: Any) -> bool:
        """Every method's run on one fold. False where the time is up."""
        (seed, number), fold = place, self.folds[place]
        trained: dict[str, Bundle] = {}
        for method in alive:
            if place in self.found.get(method.name, {}):
                continue
            shared = self._shared(method, alive, place, trained)
            if self._left() <= self._expected(method):
                self.note = "The time was up before every run was made."
                return False
            bar.about(f"seed {seed}, fold {number + 1}: {method.name}")
            done = self.bench.run(method, fold, seed + method.shift, shared, self._left() if self.budget_s else None)
            if done is None:
                self.note = "The time was up before every run was made."
                return False
            result, bundle = done
            if self.encoders == "shared" and method.kind == "single":
                trained[method.views[0]] = bundle
            runs.write(runs.file_of(self.folder, method, seed, number), method, result)
            self.found.setdefault(method.name, {})[place] = result
            bar.step()
        return True

    def _shared(self, method: Method, alive: list[Method], place: Place, trained: dict[str, Bundle]) -> dict[str, Bundle] | None:
        """In "shared" mode the single models whose encoders a fusion uses; one that an earlier call made is trained again."""
        if self.encoders != "shared" or method.kind == "single":
            return None
        seed, _ = place
        for single in self.methods:
            if single.kind == "single" and single.views[0] in method.views and single.views[0] not in trained:
                done = self.bench.run(single, self.folds[place], seed)
                assert done is not None
                trained[single.views[0]] = done[1]
        return {view: trained[view] for view in method.views}

    def _tell(self, place: Place) -> None:
        rows = self._standings(0)
        first = ", ".join(f"{r.name} {r.score:.4g}" for r in rows[:4] if r.runs)
        self.progress.say(f"seed {place[0]}, fold {place[1] + 1} done: {first}")

    def _left(self) -> float:
        return math.inf if self.budget_s is None else self.budget_s - (clock.monotonic() - self.started)

    def _expected(self, method: Method) -> float:
        """Seconds of one run: of its own runs, or of any of its kind; 0 where nothing is known."""
        own = [r.about["seconds"] for r in self.found.get(method.name, {}).values()]
        kin = [r.about["seconds"] for m in self.methods if m.kind == method.kind for r in self.found.get(m.name, {}).values()]
        return float(np.mean(own)) if own else float(np.mean(kin)) if kin else 0.0

    def _cost(self, alive: list[Method]) -> float:
        return sum(self._expected(m) for m in alive)

    def _kept(self, rows: list[Standing]) -> list[str]:
        single = next((r.name for r in rows if r.kind == "single" and r.runs), None)
        return [n for n in (single, BASELINE) if n is not None]

    def _least(self, alive: list[Method]) -> int:
        return len(self._kept(self._standings(0))) + 1

    def _halved(self, alive: list[Method]) -> list[Method]:
        rows = self._standings(0)
        sign = 1.0 if self._task().higher else -1.0
        names = {m.name for m in alive}
        kept = survivors({r.name: sign * r.score for r in rows if r.name in names}, self._kept(rows))
        left = [m.name for m in alive if m.name not in kept]
        self.progress.say(f"left behind to keep the time: {', '.join(left)}")
        return [m for m in alive if m.name in kept]

    def _task(self) -> Task:
        return self._judge()[0]

    def _judge(self) -> tuple[Task, Cells]:
        """The main target's task, for its figures alone, and its labels."""
        ready = self.bench.ready["representation"]
        if not hasattr(self, "_judged"):
            bundle, data = self.bench.bundle(self.methods[0], next(iter(self.folds.values())), 0)
            task = bundle.model.tasks[bundle.model.targets.index(self.bench.main)]
            truth = data.targets[self.bench.main].cells(np.arange(ready.data.size))
            self._judged = task, truth
        return self._judged

    def _standings(self, draws: int) -> list[Standing]:
        return standings(self.methods, self.found, self.folds, *self._judge(), self.bench.main, draws)

    def result(self) -> Comparison:
        rows, (task, _) = self._standings(1000), self._judge()
        told = verdict(rows, self.found, self.folds, task, self.bench.main)
        seeds = len({seed for seed, _ in self.folds})
        return Comparison(self.bench.main, task.metric, task.higher, rows, told, seeds, len(self.folds) // seeds, self.split, self.note)


def _check(seeds: int, folds: int, encoders: str) -> None:
    if not isinstance(seeds, int) or seeds < 1:
        raise RecipeError(f"--seeds {seeds}", "is too few", expected="1 or more")
    if not isinstance(folds, int) or folds < 2:
        raise RecipeError(f"--folds {folds}", "is too few", expected="2 or more")
    if encoders not in ENCODERS:
        raise RecipeError(f"--encoders '{encoders}'", "unknown", expected=" or ".join(ENCODERS))


def _parted(settings: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Settings of columns and training, and those of fusions by name."""
    if "fusion" in settings:
        option = next(iter(settings["fusion"]))
        raise RecipeError(
            f"setting 'fusion.{option}'", "means no fusion in particular here", fix=f"name it: --set NAME.{option}=..., e.g. lowrank.rank=8"
        )
    return {k: v for k, v in settings.items() if k not in registered}, {k: v for k, v in settings.items() if k in registered}


def _folds(ready: Ready, seeds: int, folds: int) -> tuple[dict[Place, Fold], str]:
    run, labelled = ready.run, ready.rows
    cut = windows(run.table, run.schema.window) if run.schema.window else None
    splitter = Splitter(run.table, run.schema, cut)
    made: dict[Place, Fold] = {}
    told = ""
    for seed in range(seeds):
        parts, told = splitter.folds(folds, seed)
        for number, fold in enumerate(parts):
            kept = (np.intersect1d(part, labelled) for part in (fold.train, fold.held, fold.test))
            made[seed, number] = Fold(*kept)
    for (_, number), fold in made.items():
        if min(map(len, (fold.train, fold.held, fold.test))) < 1:
            raise DataError(run.table.name, f"leaves fold {number + 1} without rows to learn from or to test on", fix="fewer folds")
    return made, told


def _possible(bench: runs.Bench, wanted: list[Method], fold: Fold, progress: Progress, strict: bool) -> list[Method]:
    """Methods that can take the targets; of `all` the others are left out and said so, a named one is an error."""
    kept = []
    for method in wanted:
        try:
            bench.bundle(method, fold, 0)
            kept.append(method)
        except RecipeError as error:
            if strict:
                raise
            progress.say(f"note: left out: {error}", "yellow")
    return kept


def _claim(folder: Path, mark: str, overwrite: bool) -> None:
    """The folder belongs to this comparison: the same table, options and folds."""
    file = folder / "compare.json"
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--out '{folder}'", "is a file", fix="choose another folder")
    if file.is_file():
        try:
            old = json.loads(file.read_text("utf-8")).get("fingerprint")
        except (OSError, ValueError, AttributeError):
            old = None
        if old != mark:
            if not overwrite:
                raise RecipeError(
                    f"--out '{folder}'",
                    "holds a comparison of another table or with other options",
                    fix="choose another, or give --overwrite",
                )
            shutil.rmtree(folder / "runs", ignore_errors=True)
    elif folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(f"--out '{folder}'", "holds other things", fix="choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"fingerprint": mark}), "utf-8")
    except OSError as error:
        raise RecipeError(f"--out '{folder}'", f"cannot be written ({error.strerror})", fix="choose another") from None
