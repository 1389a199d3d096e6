"""search: better options for a network or a learner, trial after trial on the same rows, over one prepared table."""

import os
import time as clock
from pathlib import Path
from typing import Any

from ..bundle import check_place
from ..compare.claim import claim
from ..core import RecipeError, Schema
from ..core import learners as registered
from ..core.progress import Progress
from ..data import Store, read
from ..fit import alone, fingerprint, fit, scratch_folder, seconds
from ..ready import Run, find_schema, first_of, use_threads
from ..recipe import parse_objectives, parse_settings, resolve
from .command import command
from .hunt import Hunt
from .journal import Journal, Trial, need_optuna
from .result import SearchResult
from .space import Settings, check_space, default_space, defaults, merged, parse_space
from .trials import Learned, Networks, Tables, cut, ensemble, usual_folds

__all__ = ["SearchResult", "Trial", "search"]


def search(
    rows: Any,
    target: str | list[str] | None = None,
    *,
    fusion: str | None = None,
    learner: str | None = None,
    space: dict[str, Any] | list[str] | None = None,
    trials: int = 50,
    folds: int | None = None,
    time: float | str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    fit_to: str | Path | None = None,
    seed: int = 0,
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
    absent: list[str] | None = None,
    size: str = "m",
    device: str | None = None,
    threads: int | None = None,
    quiet: bool = True,
    set: dict[str, Any] | list[str] | None = None,
    max_refused: float = 0.1,
    allow_outside: bool = False,
) -> SearchResult:
    """Look for better options of one network or one learner. The defaults are the first trial.

    Every trial learns from the same rows and is scored on the same others. Codecs are fitted and cells prepared once, encoders
    that do not train are run once, and what a learner once learned is in the store. A trial that does worse than most did at
    the same epoch or fold is given up; one that fails or diverges is noted and the search goes on.

    The score of the best of many trials is optimistic: it was chosen by these very rows. `compare`, or rows kept apart, say what
    it is worth.

    Args:
        rows: a path or anything in memory that is a table (see `fit`).
        target: the column to predict, or several; the main one is scored.
        fusion: of the network; `concat` unless a learner is named.
        learner: search this learner, on the features of all views together, instead of a network.
        space: what may change: ["fusion.rank=2..16", "train.rate=log:1e-4..1e-2", "photo.encoder=image-cnn|image-resnet"], or a
            dict of the same in which a list holds choices. By default the options of the fusion and the rate, decay and drop
            of training, or the options of the learner, around their defaults.
        trials: how many, those from before included.
        folds: each trial learns from all but one of so many parts, in turn; 1 = some rows are held out. By default 5 or, of
            many rows, 3 for a learner, 1 for a network.
        time: budget of the trials, seconds or "20m". The defaults are always tried.
        out: folder for trials.csv, best.json and optuna's journal. The same call goes on where an earlier one stopped.
        overwrite: replace another search in `out`.
        fit_to: a bundle fitted with the best options on all rows is written here.
        seed: of splits, trainings and proposals.
        set: options that stay as they are.

    The other arguments are those of `fit`.

    Raises:
        DataError, RecipeError: a table, part, option or range that cannot be; a folder that holds another search; no optuna.

    Example:
        found = polyfuse.search("pets.csv", "adopted", fusion="lowrank", time="20m", out="pets.search")
        print("\\n".join(found.lines()))
    """
    asked = dict(locals())
    started, budget_s = clock.monotonic(), seconds(time)
    progress = Progress(quiet)
    _check(fusion, learner, trials, folds)
    need_optuna()
    workers = use_threads(threads)
    if fit_to is not None:
        check_place(Path(fit_to), overwrite)
    with scratch_folder() as scratch, alone(out):
        table = read(rows, scratch=scratch)
        for note in table.notes:
            progress.say(f"note: {note}", "yellow")
        found = find_schema(table, schema, target, task, columns, ignore, join, window, group, time_column, split_column, weight, progress)
        settings = parse_settings(set)
        fixed: dict[str, Any] = {"size": size, "seed": seed, "task": task, "main": main or first_of(target), "absent": absent or ()}
        fixed |= {"fusion": fusion or "concat", "objectives": parse_objectives(objectives)}

        def recipe_of(given: Settings) -> dict[str, Any]:
            return resolve(found, settings={part: options for part, options in given.items() if part != learner}, **fixed)

        def run_of(recipe: dict[str, Any]) -> Run:
            return Run(Schema.from_json(recipe["schema"]), recipe, table, progress, Store(), workers, max_refused, allow_outside)

        recipe = recipe_of(settings)
        wanted = parse_space(space) or default_space(recipe, learner, settings)
        wanted = check_space(wanted, settings, learner, recipe_of)
        tables = Tables(recipe_of, run_of)
        ready = tables.at(settings)
        parts, split = cut(ready, folds, usual_folds(learner, len(ready.rows)), seed)
        common = (tables, parts, seed, device)
        work = Networks(*common) if learner is None else Learned(*common, learner)
        place = Path(out) if out is not None else scratch / "search"
        texts = {key: str(span) for key, span in wanted.items()}
        about = {**recipe, "learner": [learner, settings.get(learner or "")], "space": texts, "split": [split, seed]}
        another = "a search of another table, space or with other options"
        claim(place, "search", fingerprint(about, table, None), overwrite, another=another, old=("answers", "optuna.jsonl"))
        work.begin(settings)
        journal = Journal(place / "optuna.jsonl", wanted, seed, work.warmup)
        hunt = Hunt(journal, work, settings, place / "answers", progress, None if budget_s is None else started + budget_s)
        hunt.go(trials, defaults(wanted, recipe, learner, settings))
        result = hunt.result(ready.run.recipe["main"], texts, split)
        chosen = merged(settings, result.best.options if result.best else {})
        result.command = command(asked, chosen)
        if out is not None:
            result.write(place)
        if result.best is None:
            what = f"no trial came to its end; the first: {result.trials[0].reason}"
            raise RecipeError("search", what, fix="another space, or more rows")
        if learner is not None and fit_to is not None:
            bundle = ensemble(run_of(recipe_of(chosen)), learner, chosen.get(learner, {}), device)
            bundle.save(fit_to, overwrite=overwrite)
            progress.say(f"wrote {fit_to}")
    if learner is None and fit_to is not None:
        own: dict[str, Any] = {"out": fit_to, "schema": found, "device": device, "threads": threads, "quiet": quiet, "overwrite": overwrite}
        own |= {"max_refused": max_refused, "allow_outside": allow_outside}
        fit(rows, set={f"{part}.{o}": v for part, options in chosen.items() for o, v in options.items()}, **fixed, **own)
    return result


def _check(fusion: str | None, learner: str | None, trials: int, folds: int | None) -> None:
    if fusion and learner:
        raise RecipeError(f"--learner {learner}", "cannot go with --fusion, which is of a network", fix="leave out one of them")
    if learner is not None:
        registered.get(learner)
    if not isinstance(trials, int) or trials < 1:
        raise RecipeError(f"--trials {trials}", "is too few", expected="1 or more")
    if folds is not None and (not isinstance(folds, int) or folds < 1):
        raise RecipeError(f"--folds {folds}", "is too few", expected="1, for held-out rows, or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("search", "runs in one process", fix="start it without torchrun or accelerate launch")
