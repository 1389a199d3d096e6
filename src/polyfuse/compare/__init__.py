"""compare: every view alone and every fusion on the same folds, seeds, encoders and budget; a leaderboard and a verdict."""

import os
import time as clock
from pathlib import Path
from typing import Any

import numpy as np

from ..core import DataError, RecipeError, Schema
from ..core import fusions as registered
from ..core.progress import Progress
from ..data import Fold, Splitter, Store, read, windows
from ..fit import alone, fingerprint, scratch_folder, seconds
from ..ready import Ready, Run, find_schema, first_of, make_ready, use_threads
from ..recipe import parse_objectives, parse_settings, resolve
from . import runs
from .claim import claim
from .match import Match
from .plan import BASELINE, Method, every, methods_of
from .standing import Comparison, Place, Standing

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
    objectives: dict[str, Any] | list[str] | None = None,
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
    own training part; the fold's test rows only judge. The best single view is the one with the best mean over folds. What is
    learned without the target (scales, vocabularies, encoders that are fitted and do not train) is learned once, of all rows.

    Args:
        rows: a path or anything in memory that is a table (see `fit`).
        target: the column to predict, or several.
        fusions: "all", names, or {label: name or {"name": ..., "seed": shift of its seeds, **options}}.
        pairs: also every two views, joined by `concat`.
        seeds: how often the folds are cut anew.
        folds: of each cut.
        time: budget of the whole call, seconds or "20m". Where it cannot carry every method to the end, the worse half is
            left behind again and again (successive halving), the single views and `concat` never.
        out: folder for leaderboard.csv, comparison.json, comparison.png (with matplotlib) and the runs. The same call goes on where
            a killed one stopped, and a later one with more fusions or seeds runs only what is new.
        encoders: "own", each method trains its encoders with its fusion, end to end; "shared", in each fold the encoders are
            those of the views' single models, run once and stored, and only the fusions train: many times faster, but what
            shows only when views meet (does this sound belong to that picture?) such encoders never learned, and of their
            earlier layers a multi-scale fusion sees none. Encoders that do not train at all are run once, either way.
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("compare", "runs in one process", fix="start it without torchrun or accelerate launch")
    workers = use_threads(threads)
    with scratch_folder() as folder, alone(out):
        table = read(rows, scratch=folder)
        for note in table.notes:
            progress.say(f"note: {note}", "yellow")
        found = find_schema(table, schema, target, task, columns, ignore, join, window, group, time_column, split_column, weight, progress)
        settings, of_fusions = _parted(parse_settings(set), {c.name for c in found.columns})

        def ready_at(fusion: str) -> Ready:
            beside = parse_objectives(objectives)
            recipe = resolve(
                found, fusion=fusion, size=size, seed=0, settings=settings, task=task, main=main or first_of(target), objectives=beside
            )
            run = Run(Schema.from_json(recipe["schema"]), recipe, table, progress, Store(), workers, max_refused, allow_outside)
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
        again = "Folds by time are the same for every seed: one is used." if seeds > 1 and ready.run.schema.having("time") else ""
        cut, split = _folds(ready, 1 if again else seeds, folds)
        notes = _told(ready, cut) + [again] * bool(again)
        for note in notes:
            progress.say(f"note: {note}", "yellow")
        bench.store_frozen()
        wanted = _possible(bench, wanted, next(iter(cut.values())), progress, strict=not every(fusions))
        for method in references:
            bench.bundle(method, next(iter(cut.values())), 0)  # a fault shows before hours of training
        place = Path(out) if out is not None else folder / "comparison"
        mark = fingerprint({**ready.run.recipe, "encoders": encoders}, table, None) + f"-{folds}"
        claim(place, "compare", mark, overwrite, another="a comparison of another table or with other options", old=("runs",))
        match = Match(bench, [*references, *wanted], cut, split, place, encoders, progress, started, budget_s, notes)
        match.go()
        result = match.result()
        if out is not None:
            result.write(place)
    return result


def _check(seeds: int, folds: int, encoders: str) -> None:
    if not isinstance(seeds, int) or seeds < 1:
        raise RecipeError(f"--seeds {seeds}", "is too few", expected="1 or more")
    if not isinstance(folds, int) or folds < 2:
        raise RecipeError(f"--folds {folds}", "is too few", expected="2 or more")
    if encoders not in ENCODERS:
        raise RecipeError(f"--encoders '{encoders}'", "unknown", expected=" or ".join(ENCODERS))


def _parted(settings: dict[str, dict[str, Any]], columns: set[str]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Settings of columns and training, and those of fusions by name; a column that is called like a fusion keeps its own."""
    if "fusion" in settings:
        option = next(iter(settings["fusion"]))
        raise RecipeError(
            f"setting 'fusion.{option}'", "means no fusion in particular here", fix=f"name it: --set NAME.{option}=..., e.g. lowrank.rank=8"
        )
    of_fusions = {k: v for k, v in settings.items() if k in registered and k not in columns}
    return {k: v for k, v in settings.items() if k not in of_fusions}, of_fusions


def _folds(ready: Ready, seeds: int, folds: int) -> tuple[dict[Place, Fold], str]:
    run, labelled = ready.run, ready.rows
    _check_classes(ready)
    cut = windows(run.table, run.schema.window) if run.schema.window else None
    splitter = Splitter(run.table, run.schema, cut, run.recipe["main"])
    made: dict[Place, Fold] = {}
    told = ""
    for seed in range(seeds):
        parts, told = splitter.folds(folds, seed)
        for number, fold in enumerate(parts):
            kept = (np.intersect1d(part, labelled) for part in (fold.train, fold.held, fold.test))
            made[seed, number] = Fold(*kept)
    for (_, number), fold in made.items():
        if min(map(len, (fold.train, fold.held, fold.test))) < 1:
            raise DataError(
                run.table.name, f"leaves fold {number + 1} without rows to learn from or to test on", fix="more rows, or fewer folds"
            )
    return made, told


def _classes(ready: Ready) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of the main target that have a class, and which; None for a target without classes."""
    main = ready.run.recipe["main"]
    if ready.run.schema[main].modality != "category":
        return None
    cells = ready.data.targets[main].cells(np.arange(ready.data.size))
    return cells.rows.numpy(), cells.x["index"][:, 0].numpy()


def _check_classes(ready: Ready) -> None:
    found = _classes(ready)
    if found is None:
        return
    _, counts = np.unique(found[1], return_counts=True)
    if counts.max(initial=0) < 2:
        raise DataError(
            f"target '{ready.run.recipe['main']}'",
            f"has {len(counts)} classes in {counts.sum()} rows: none can be learned from one row and tested on another",
            expected="fewer classes, each with several rows",
            fix="name another --target, or declare it a number: --column NAME=number",
        )


def _told(ready: Ready, cut: dict[Place, Fold]) -> list[str]:
    """What is odd about which rows have which view, in words."""
    notes, classes = [], _classes(ready)
    for view, prepared in ready.data.views.items():
        present = prepared.present
        for part, verb, so in (("train", "learn from", "nothing of it is learned there"), ("test", "test on", "it cannot help there")):
            lacking = sum(not present[getattr(fold, part)].any() for fold in cut.values())
            if lacking:
                notes.append(f"'{view}' is absent in every row that {lacking} of {len(cut)} folds {verb}: {so}.")
        if classes is None:
            continue
        rows, index = classes
        with_it = np.unique(index[present[rows]])
        if len(with_it) == 1 and with_it[0] and 1 < present[rows].sum() < len(rows) and len(np.unique(index)) > 1:
            name = ready.codecs[ready.run.recipe["main"]].values[with_it[0] - 1]  # type: ignore[attr-defined]
            notes.append(f"'{view}' is there only in rows of the class '{name}': that it is there gives the class away.")
    return notes


def _possible(bench: runs.Bench, wanted: list[Method], fold: Fold, progress: Progress, strict: bool) -> list[Method]:
    """Methods that can take the targets; of `all` the others are left out and said so, a named one is an error."""
    kept = []
    for method in wanted:
        try:
            bundle, _ = bench.bundle(method, fold, 0)
            kept.append((bundle.model.size, method))
        except RecipeError as error:
            if strict:
                raise
            progress.say(f"note: left out: {error}", "yellow")
    # of all, the baseline and the small ones come first: they are there when the time is short
    return [m for _, m in (kept if strict else sorted(kept, key=lambda k: (k[1].name != BASELINE, k[0])))]
