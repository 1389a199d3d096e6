"""fit: a table and the name of its target in, a Bundle out. The steps are functions one can read in order."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .bundle import Bundle, check_place
from .card import make_card, summary
from .core import DataError, RecipeError, Schema
from .core.progress import Progress
from .data import Store, Table, read
from .learners import Interrupted, TrainOptions, train
from .presets import BUDGETS, checked, start
from .ready import Run, announce, find_schema, first_of, make_ready, new_bundle, use_threads
from .recipe import parse_objectives, parse_settings, resolve
from .tracking import tracker

DEFAULT: str | None = "good"  # the preset where nothing is named that only a network has


def fit(
    rows: Any,
    target: str | list[str] | None = None,
    *,
    out: str | Path | None = None,
    val: Any = None,
    preset: str | None = None,
    fusion: str | None = None,
    task: str | None = None,
    schema: Schema | str | Path | None = None,
    recipe: dict[str, Any] | str | Path | None = None,
    columns: dict[str, str] | None = None,
    ignore: list[str] | None = None,
    join: dict[str, tuple[str, list[str]]] | None = None,
    window: Any = None,
    group: str | None = None,
    time_column: str | None = None,
    split_column: str | None = None,
    weight: str | None = None,
    size: str = "m",
    time: float | str | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    threads: int | None = None,
    quiet: bool = True,
    set: dict[str, Any] | list[str] | None = None,
    max_refused: float = 0.1,
    allow_outside: bool = False,
    absent: list[str] | None = None,
    objectives: dict[str, Any] | list[str] | None = None,
    main: str | None = None,
    log_to: str | None = None,
    store: Store | None = None,
    dry_run: bool = False,
) -> Bundle:
    """Learn from a table of mixed columns.

    Under a preset every view is described by an encoder that needs no training, learners and networks are fitted fold by fold,
    on each view alone and on all, and those that help are weighed into one answer; the card says whether fusing pays. With
    `fusion` exactly that network is trained and nothing else.

    Every argument has its default so that a table and a target are enough; that is why there are so many.

    Args:
        rows: a path (CSV, TSV, Parquet, JSON Lines, a folder of class folders), or anything in memory that pandas, polars,
            DuckDB, Hugging Face datasets or pyarrow call a table, or a list of dicts.
        target: the column to predict, or several.
        out: folder to save the bundle in; while it trains, `.NAME.run` beside it holds what `resume` needs.
        val: a table of validation rows; by default some of `rows` are held out.
        preset: "fast", "good" or "best": how far to go, in at most 2, 10 and 60 minutes unless `time` says otherwise. "good" where
            nothing is named that only a network has (fusion, objectives, absent, settings of fusion, train or loss).
        fusion: train one network with this fusion.
        task: "binary", "multiclass", "multilabel", "regression" or "quantile"; found from the target unless named.
        schema: a Schema or the file `look` wrote, instead of guessing.
        recipe: the recipe of an earlier bundle (its folder, its file, or the dict): that fit is repeated.
        columns: {column: modality}, overruling the guess; "COLUMN": "ignore" leaves it out, as `ignore` does.
        join: {name: (modality, [columns or globs])}: one cell of several columns.
        window: a Window, or "id=unit,order=cycle,length=40": rows cut from a long table of one reading per row.
        group, time_column, split_column: columns that steer the split into training and validation rows.
        weight: column with each row's weight in the loss.
        size: "s", "m" or "l": width 64, 128 or 256.
        time: budget of the whole call, seconds or "10m"; the recipe records the step it ended at and replays it.
        threads: of torch, and how many cells are read or learners fitted at a time; by default one for each processor that this
            process may use, be it by its affinity or as a container's share.
        seed: same seed, rows and options on one machine: the same weights.
        resume: go on where a killed run with the same options stopped.
        set: {"part.option": value} or ["part.option=value"].
        absent: patterns of absence to train for, each a view or several, e.g. ["photo", "photo+sound"]: training shows a share
            `train.absent_share` of the rows without exactly these, so that the answers without them are as good as can be.
        objectives: auxiliary losses with their weights, {"contrastive": 0.1} or ["contrastive=0.1"]; `polyfuse parts objectives`.
        main: of several targets the one whose metric chooses the checkpoint; the first unless named.
        max_refused: largest share of a column's cells that may be unreadable before fit stops.
        log_to: "tensorboard", "mlflow" or "wandb".
        store: where prepared cells, features and finished steps are kept; the user's own by default.
        dry_run: say what would be done and how long it would take, and give back this Plan instead of a Bundle.

    Raises:
        DataError, RecipeError, BundleError: each says where, what, what was expected and how to fix it.

    Example:
        bundle = polyfuse.fit("pets.csv", "adopted", out="pets.bundle", time="5m")
    """
    started = clock.monotonic()
    budget_s = seconds(time)
    world = _world(device)
    first = world is None or world.is_main_process
    progress = Progress(quiet or not first)
    if out is not None and first:
        check_place(Path(out), overwrite or resume)  # a killed fit under a preset may have left its best so far there
    workers = use_threads(threads)
    given = _recipe(recipe)
    with scratch_folder() as scratch, alone(out if first else None):
        table = read(rows, scratch=scratch)
        val_table = None if val is None else read(val, scratch=scratch)
        for t in (table, val_table) if val_table is not None else (table,):
            for note in t.notes:
                progress.say(f"note: {note}", "yellow")
        if given is not None:
            if "distilled" in given:
                raise RecipeError("the recipe", "is of a student, which its teacher made", fix="`polyfuse distil` with that teacher")
            made = {k: v for k, v in given.items() if k != "ensemble"}  # which members there are is found anew
            preset = made.get("preset")
        else:
            found = find_schema(
                table, schema, target, task, columns, ignore, join, window, group, time_column, split_column, weight, progress
            )
            settings = parse_settings(set)
            preset = _preset(preset, {"fusion": fusion, "objective": objectives, "absent": absent, "log-to": log_to}, settings)
            made = resolve(
                found,
                fusion=fusion or "concat",
                size=size,
                seed=seed,
                settings=settings,
                task=task,
                absent=absent or (),
                objectives=parse_objectives(objectives),
                main=main or first_of(target),
            )
            if preset:
                made["preset"] = preset
        # a fusion at feature level has rewritten the schema
        run = Run(
            Schema.from_json(made["schema"]),
            made,
            table,
            progress,
            store or Store(),
            workers,
            max_refused,
            allow_outside,
        )
        for note in run.store.notes:
            progress.say(f"note: {note}", "yellow")
        if preset or dry_run:
            return _under(run, val_table, out, device, (started, budget_s), dry_run)
        if out is not None and first:
            check_place(Path(out), overwrite)
        with world.main_process_first() if world else nullcontext():
            folder = _run_folder(out, made, table, val_table, resume, first)
        with tracker(log_to if first else None, Path(out).parent if out else Path.cwd(), made) as log:
            bundle = _train(run, val_table, folder, resume, device, None if budget_s is None else (started, budget_s), log)
        bundle.card["seconds"] = round(clock.monotonic() - started, 2)
        if out is not None and first:
            bundle.save(out, overwrite=overwrite)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            progress.say(f"wrote {out}")
    if world:
        world.wait_for_everyone()
    return bundle


def _train(
    run: Run,
    val_table: Table | None,
    folder: Path | None,
    resume: bool,
    device: str | None,
    budget: tuple[float, float] | None,
    log: Callable[[dict[str, Any]], None] | None,
) -> Bundle:
    ready = make_ready(run, val_table)
    announce(run, ready.rows, ready.held)
    bundle = new_bundle(ready)
    if folder:
        _write_start(folder, run.recipe, bundle)
    options = TrainOptions(**run.recipe["train"])
    plan = run.recipe.get("plan")
    budget_s = None if budget is None or plan else max(1.0, budget[1] - (clock.monotonic() - budget[0]))
    try:
        done = train(
            bundle.model,
            ready.data,
            ready.rows,
            ready.held,
            options,
            seed=run.recipe["seed"],
            device=device,
            budget_s=budget_s,
            replay=plan,
            loss_weights=run.recipe["loss"],
            absent=run.recipe.get("absent", ()),
            main=run.recipe.get("main"),
            folder=folder,
            resume=resume,
            progress=run.progress,
            log=log,
        )
    except Interrupted:
        raise RecipeError("fit", "was interrupted before the first epoch ended", fix="run it again; with --out, --resume goes on") from None
    if done.interrupted:
        run.progress.say("interrupted: keeping the best model so far", "yellow")
    run.recipe["plan"] = done.plan if (budget is not None or plan or done.interrupted) else None
    bundle.card = make_card(ready, bundle, done)
    for line in summary(bundle.card):
        run.progress.say(line)
    for line in bundle.card["warnings"]:
        run.progress.say(f"warning: {line}", "yellow")
    return bundle


def _under(
    run: Run,
    val_table: Table | None,
    out: str | Path | None,
    device: str | None,
    budget: tuple[float, float | None],
    dry_run: bool,
) -> Any:
    """The fit under a preset: whenever there is a better answer, it is what lies in `out`."""
    preset, started = run.recipe["preset"], budget[0]

    def save(bundle: Bundle) -> None:
        bundle.card["seconds"] = round(clock.monotonic() - started, 2)
        bundle.save(out, overwrite=True)  # type: ignore[arg-type]

    ready = make_ready(run, val_table, whole=val_table is None and not run.schema.having("split"))
    course = start(ready, preset, budget[1] or BUDGETS[preset], started, device, save if out is not None else None)
    announce(run, ready.rows, ready.held, folded=not len(ready.held))
    for line in course.plan.lines():
        run.progress.say(line)
    if dry_run:
        return course.plan
    course.encode()
    course.learn()
    bundle = course.bundle()
    bundle.card["seconds"] = round(clock.monotonic() - started, 2)
    if out is not None:
        save(bundle)
    verdict = [line for found in bundle.card["verdict"].values() for line in found["told"]]
    for line in [*summary(bundle.card), *verdict]:
        run.progress.say(line)
    for line in bundle.card["warnings"]:
        if line not in verdict:
            run.progress.say(f"warning: {line}", "yellow")
    if out is not None:
        run.progress.say(f"wrote {out}")
    return bundle


def _preset(preset: str | None, networks: dict[str, Any], settings: dict[str, dict[str, Any]]) -> str | None:
    """The preset that holds; None where something is named that only a network has."""
    named = [option for option, value in networks.items() if value]
    if preset is None:
        return None if named or {"fusion", "train", "loss"} & settings.keys() else DEFAULT
    if named:
        what = f"cannot go with --{named[0]}, which is for one network"
        raise RecipeError(f"--preset {preset}", what, fix=f"leave out --preset or --{named[0]}")
    return checked(preset)


def _world(device: str | None) -> Any:
    """accelerate's state where several processes run this same fit (`accelerate launch`, `torchrun`); else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


# -- what is written --------------------------------------------------------------------------------------------


def _run_folder(
    out: str | Path | None, recipe: dict[str, Any], table: Table, val_table: Table | None, resume: bool, main: bool
) -> Path | None:
    """The folder that holds checkpoints, and the promise that it belongs to these very options and data."""
    if out is None:
        if resume:
            raise RecipeError("--resume", "needs --out", fix="name the folder that the killed run had")
        return None
    out = Path(out)
    folder = out.parent / f".{out.name}.run"
    mark = fingerprint(recipe, table, val_table)
    if folder.is_dir():
        try:
            old = json.loads((folder / "run.json").read_text("utf-8")).get("fingerprint")
        except (OSError, ValueError):
            old = None
        if resume and old not in (None, mark):
            raise RecipeError(
                f"--resume of '{out}'",
                "has other data or options than the run that was stopped",
                fix="give the same ones, or start anew without --resume",
            )
        if main and (not resume or old is None):
            shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", {"fingerprint": mark})
    except OSError as error:
        raise DataError(f"folder '{out.parent}'", f"cannot be written ({error.strerror})", fix="choose another --out") from None
    return folder


def fingerprint(recipe: dict[str, Any], table: Table, val_table: Table | None) -> str:
    h = hashlib.blake2b(json.dumps(recipe, sort_keys=True, default=str).encode(), digest_size=16)
    for t in (table, val_table):
        if t is not None:
            h.update(f"{t.arrow.schema}{len(t)}".encode())
            for batch in t.arrow.slice(0, 100_000).to_batches():
                h.update(batch.serialize())
    return h.hexdigest()


def _write_start(folder: Path, recipe: dict[str, Any], bundle: Bundle) -> None:
    """Recipe and codec states are on disk before the first step."""
    _write(folder / "recipe.json", recipe)
    _write(folder / "codecs.json", {n: c.state() for n, c in bundle.codecs.items()})


def _write(path: Path, data: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, ensure_ascii=False, default=str), "utf-8")
    os.replace(temporary, path)


def _recipe(given: dict[str, Any] | str | Path | None) -> dict[str, Any] | None:
    if given is None or isinstance(given, dict):
        return json.loads(json.dumps(given)) if given is not None else None
    path = Path(given)
    path = path / "recipe.json" if path.is_dir() else path
    try:
        recipe = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe '{path}'", f"cannot be read ({error})", expected="the recipe.json of a bundle") from None
    if not isinstance(recipe, dict) or "schema" not in recipe:
        raise RecipeError(f"recipe '{path}'", "is not a recipe", expected="the recipe.json of a bundle")
    return recipe


def seconds(time: float | str | None) -> float | None:
    """A budget in seconds.

    Example:
        >>> seconds("10m"), seconds("1h30m"), seconds(45)
        (600.0, 5400.0, 45.0)
    """
    if time is None:
        return None
    if isinstance(time, str):
        import re

        found = re.fullmatch(r"\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*", time.lower())
        if not found or not any(found.groups()):
            raise RecipeError(f"--time '{time}'", "is not a duration", expected="e.g. 90s, 10m or 1h30m")
        h, m, s = (float(g or 0) for g in found.groups())
        time = 3600 * h + 60 * m + s
    if not math.isfinite(time) or time <= 0:
        raise RecipeError(f"--time '{time}'", "is no length of time", expected="more than 0 seconds")
    return float(time)


@contextmanager
def alone(out: str | Path | None) -> Iterator[None]:
    """One fit at a time writes to `out`; of a process that was killed the system frees the lock."""
    if out is None:
        yield
        return
    path = Path(out)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RecipeError(f"--out '{out}'", "is being written by another run", fix="wait for that one, or choose another --out") from None
    except OSError as error:
        raise RecipeError(f"--out '{out}'", f"cannot be written there ({error.strerror})", fix="choose another --out") from None
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Where a table larger than memory is laid out; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="polyfuse-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
