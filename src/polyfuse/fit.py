"""fit: a table and the name of its target in, a Bundle out. The steps are functions one can read in order."""

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from . import __version__
from .bundle import Bundle, build, check_place
from .core import Codec, DataError, RecipeError, Schema, TableCodec, codecs, did_you_mean
from .core.progress import Progress
from .data import (
    Dataset,
    Opener,
    Source,
    Store,
    Table,
    fit_codec,
    hold_out,
    look,
    prepare,
    prepare_table,
    prepare_tabular,
    read,
    schema_from_file,
    size_text,
    windows,
)
from .evaluate import evaluate as score
from .learners import Interrupted, TrainOptions, train
from .learners.net import outputs
from .model import views_of
from .recipe import choose_tasks, parse_settings, resolve
from .tracking import tracker


@dataclass
class _Run:
    """What the steps hand on."""

    schema: Schema
    recipe: dict[str, Any]
    table: Table
    progress: Progress
    store: Store
    threads: int
    max_refused: float
    allow_outside: bool
    refused: dict[str, dict[int, str]] = field(default_factory=dict)
    split: str = ""


def fit(
    rows: Any,
    target: str | list[str] | None = None,
    *,
    out: str | Path | None = None,
    val: Any = None,
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
    log_to: str | None = None,
) -> Bundle:
    """Train one network on a table of mixed columns.

    Every argument has its default so that a table and a target are enough; that is why there are so many.

    Args:
        rows: a path (CSV, TSV, Parquet, JSON Lines, a folder of class folders), or anything in memory that pandas, polars,
            DuckDB, Hugging Face datasets or pyarrow call a table, or a list of dicts.
        target: the column to predict, or several.
        out: folder to save the bundle in; while it trains, `.NAME.run` beside it holds what `resume` needs.
        val: a table of validation rows; by default some of `rows` are held out.
        fusion: which fusion; "concat" unless named.
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
        seed: same seed, rows and options on one machine: the same weights.
        resume: go on where a killed run with the same options stopped.
        set: {"part.option": value} or ["part.option=value"].
        max_refused: largest share of a column's cells that may be unreadable before fit stops.
        log_to: "tensorboard", "mlflow" or "wandb".

    Raises:
        DataError, RecipeError, BundleError: each says where, what, what was expected and how to fix it.

    Example:
        bundle = polyfuse.fit("pets.csv", "adopted", out="pets.bundle", time="5m")
    """
    started = clock.monotonic()
    budget_s = seconds(time)
    progress = Progress(quiet)
    if out is not None:
        check_place(Path(out), overwrite)
    if threads:
        torch.set_num_threads(threads)
    given = _recipe(recipe)
    with _scratch() as scratch:
        table = read(rows, scratch=scratch)
        val_table = None if val is None else read(val, scratch=scratch)
        for t in (table, val_table) if val_table is not None else (table,):
            for note in t.notes:
                progress.say(f"note: {note}", "yellow")
        if given is not None:
            made = given
            the_schema = Schema.from_json(made["schema"])
        else:
            the_schema = _schema(
                table, schema, target, task, columns, ignore, join, window, group, time_column, split_column, weight, progress
            )
            made = resolve(the_schema, fusion=fusion or "concat", size=size, seed=seed, settings=parse_settings(set), task=task)
        run = _Run(the_schema, made, table, progress, Store(), threads or os.cpu_count() or 1, max_refused, allow_outside)
        for note in run.store.notes:
            progress.say(f"note: {note}", "yellow")
        folder = _run_folder(out, made, table, val_table, resume)
        with tracker(log_to, Path(out).parent if out else Path.cwd(), made) as log:
            bundle = _train(run, val_table, folder, resume, device, None if budget_s is None else (started, budget_s), log)
    bundle.card["seconds"] = round(clock.monotonic() - started, 2)
    if out is not None:
        bundle.save(out, overwrite=overwrite)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        progress.say(f"wrote {out}")
    return bundle


@dataclass
class Ready:
    """A table made ready to learn from: split, codecs fitted, every cell prepared."""

    run: _Run
    codecs: dict[str, Codec]
    data: Dataset
    rows: np.ndarray
    held: np.ndarray


def make_ready(run: _Run, val_table: Table | None = None) -> Ready:
    """Split, fit the codecs on the training rows, prepare every cell, and fill in the tasks of the recipe."""
    source = _source(run, run.table)
    rows, held, run.split = _split(run, source, val_table)
    fitted = _fit_codecs(run, source, rows)
    choose_tasks(run.recipe, {c.name: fitted[c.name] for c in run.schema.having("target")})
    data = _dataset(run, source, fitted, "training rows")
    rows = _labelled(run, data, rows, "training")
    if val_table is not None:
        data, held = _joined(data, _dataset(run, _source(run, val_table), fitted, "validation rows"))
    held = _labelled(run, data, held, "validation", required=False)
    return Ready(run, fitted, data, rows, held)


def new_bundle(ready: Ready) -> Bundle:
    """The recipe's network before its first step: seeded, its tasks and encoders fitted to what needs no training."""
    torch.manual_seed(ready.run.recipe["seed"])
    bundle = build(ready.run.recipe, {n: c.state() for n, c in ready.codecs.items()})
    for target, part in zip(bundle.model.targets, bundle.model.tasks):
        part.fit(ready.data.targets[target].cells(ready.rows).x)
    for view, encoder in zip(bundle.model.views, bundle.model.encoders):
        encoder.fit(_stream(ready.data, view, ready.rows))
    return bundle


def _train(
    run: _Run,
    val_table: Table | None,
    folder: Path | None,
    resume: bool,
    device: str | None,
    budget: tuple[float, float] | None,
    log: Callable[[dict[str, Any]], None] | None,
) -> Bundle:
    ready = make_ready(run, val_table)
    _announce(run, ready.rows, ready.held)
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
    bundle.card = _card(ready, bundle, done)
    for line in summary(bundle.card):
        run.progress.say(line)
    return bundle


# -- the steps --------------------------------------------------------------------------------------------------


def _schema(
    table: Table,
    schema: Schema | str | Path | None,
    target: str | list[str] | None,
    task: str | None,
    columns: Any,
    ignore: Any,
    join: Any,
    window: Any,
    group: Any,
    time_column: Any,
    split_column: Any,
    weight: Any,
    progress: Progress,
) -> Schema:
    if not len(table):
        raise DataError(table.name, "has no rows", expected="a table with at least 2 rows")
    if schema is not None:
        made = schema if isinstance(schema, Schema) else schema_from_file(schema)
        missing = [r for c in made.columns if c.role != "ignore" for r in c.reads if r not in table.names]
        if missing:
            raise DataError(
                f"column '{missing[0]}'",
                f"of the schema is not in {table.name}",
                expected=f"one of {', '.join(table.names)}",
                fix=did_you_mean(missing[0], table.names),
            )
    else:
        targets = [target] if isinstance(target, str) else list(target or [])
        if not targets:
            raise RecipeError("fit", "has no target", expected=f"one of {', '.join(table.names)}", fix="name it: --target NAME")
        looked = look(
            table,
            target=targets,
            columns=columns or {},
            ignore=list(ignore or []),
            join=join or {},
            group=group,
            time=time_column,
            split=split_column,
            weight=weight,
            window=window,
            task=task,
        )
        made = looked.schema
        for line in looked.lines():
            progress.say(line)
    if not made.having("target"):
        raise RecipeError("schema", "has no target", fix='give one column the role "target", or --target NAME')
    if not made.having("input"):
        raise RecipeError(
            "schema", "has no input column", fix="`polyfuse look` says why each was left out; overrule with --column NAME=MODALITY"
        )
    return made


def _source(run: _Run, table: Table) -> Source:
    cut = windows(table, run.schema.window) if run.schema.window else None
    return Source(table, Opener(table.base, run.allow_outside), cut, run.threads)


def _split(run: _Run, source: Source, val_table: Table | None) -> tuple[np.ndarray, np.ndarray, str]:
    if val_table is not None:
        return np.arange(len(source)), np.zeros(0, np.int64), f"validation rows are those of {val_table.name}"
    split = hold_out(run.table, run.schema, seed=run.recipe["seed"], index=source.windows)
    return split.train, split.held, split.rule


def _fit_codecs(run: _Run, source: Source, rows: np.ndarray) -> dict[str, Codec]:
    fitted = {}
    for column in run.schema.columns:
        if column.role in ("input", "target"):
            codec = codecs.build(column.modality, column.name, **run.recipe["codecs"].get(column.name, {}))
            fit_codec(source, column, codec, rows)
            fitted[column.name] = codec
    return fitted


def _dataset(run: _Run, source: Source, fitted: dict[str, Codec], label: str) -> Dataset:
    views = views_of(run.schema, fitted)
    prepared: dict[str, Any] = {}
    refused: dict[str, dict[int, str]] = {}
    with run.progress.bar(f"preparing {label}", 2 * len(source) * len(views)) as bar:
        for view, codec in views.items():
            bar.about(view)
            if isinstance(codec, TableCodec):
                members = [run.schema[m.column] for m in codec.members]
                prepared[view], bad = prepare_table(source, members, codec)
                refused |= bad
            else:
                prepared[view] = prepare(source, run.schema[view], codec, run.store, bar.step)
                refused[view] = prepared[view].refused
    targets = {}
    for column in run.schema.having("target"):
        codec = fitted[column.name]
        targets[column.name] = prepare_tabular(source, column, codec) if codec.tabular else prepare(source, column, codec, run.store)
        refused[column.name] = targets[column.name].refused
    for name, bad in refused.items():
        run.refused.setdefault(name, {}).update(bad)
        if len(bad) > run.max_refused * len(source):
            first = "\n  ".join(list(bad.values())[:3])
            raise DataError(
                f"column '{name}'",
                f"{len(bad)} of {len(source)} cells cannot be read, the first:\n  {first}\n",
                expected=f"at most {run.max_refused:.0%}",
                fix="correct them, --ignore the column, or raise --max-refused",
            )
    return Dataset(prepared, targets, views, len(source), _weights(run, source))


def _weights(run: _Run, source: Source) -> np.ndarray | None:
    found = run.schema.having("weight")
    if not found:
        return None
    codec = codecs.build("number", found[0].name)
    weight = np.ones(len(source), np.float32)
    for row, raw in enumerate(source.raw(found[0])):
        value = 0.0 if raw is None else codec.read(raw) or 0.0
        if value < 0:
            raise DataError(f"column '{found[0].name}', {source.table.row_name(row)}", f"is the weight {value}", expected="a number >= 0")
        weight[row] = value
    if not weight.any():
        raise DataError(f"column '{found[0].name}'", "gives every row the weight 0", fix="correct it, or do without --weight")
    return weight / weight.mean()


def _joined(data: Dataset, other: Dataset) -> tuple[Dataset, np.ndarray]:
    """Training and validation tables as one dataset; the second's rows come after the first's."""
    from .data.batches import Joined

    views = {k: Joined(v, other.views[k], data.size) for k, v in data.views.items()}
    targets = {k: Joined(v, other.targets[k], data.size) for k, v in data.targets.items()}
    weight = None if data.weight is None else np.concatenate([data.weight, np.ones(other.size, np.float32)])
    return Dataset(views, targets, data.codecs, data.size + other.size, weight), np.arange(data.size, data.size + other.size)  # type: ignore[arg-type]


def _labelled(run: _Run, data: Dataset, rows: np.ndarray, what: str, required: bool = True) -> np.ndarray:
    """Only rows with at least one label and at least one input take part."""
    label = np.stack([t.present[rows] for t in data.targets.values()], 1).any(1)
    kept = rows[label]
    if required and len(kept) < 2:
        names = ", ".join(f"'{t}'" for t in data.targets)
        raise DataError(
            f"target {names}",
            f"{len(kept)} of {len(rows)} {what} rows have a readable label",
            expected="at least 2",
            fix="label more rows, or name another --target",
        )
    if lost := len(rows) - len(kept):
        run.progress.say(f"note: {lost} of {len(rows)} {what} rows have no label and are left out", "yellow")
    return kept


def _announce(run: _Run, rows: np.ndarray, held: np.ndarray) -> None:
    say = run.progress.say
    for column in run.schema.having("target"):
        say(f"target '{column.name}': {run.recipe['parts'][column.name]['task']}")
    say(f"{len(rows)} rows to train on, {len(held)} held out ({run.split})")
    for name, bad in run.refused.items():
        if bad:
            say(f"refused: {len(bad)} cells of '{name}', e.g. {next(iter(bad.values()))}", "yellow")
    used = sum(e["bytes"] for e in run.store.entries())
    say(f"prepared store: {size_text(used)} in {run.store.root}")


def _stream(data: Dataset, view: str, rows: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
    for at in range(0, len(rows), 256):
        cells = data.views[view].cells(rows[at : at + 256])
        if len(cells.rows):
            yield cells.x


# -- what is written --------------------------------------------------------------------------------------------


def _card(ready: Ready, bundle: Bundle, done: Any) -> dict[str, Any]:
    run, data, rows, held = ready.run, ready.data, ready.rows, ready.held
    metrics: dict[str, Any] = {}
    reports: dict[str, Any] = {}
    if len(held):
        outs, truths = outputs(bundle.model, data, held)
        for target, part in zip(bundle.model.targets, bundle.model.tasks):
            if len(truths[target].rows):
                metrics[target] = score(part, outs[target], truths[target])
                reports[target] = part.report(outs[target], truths[target])
    present = data.present(rows)
    return {
        "data": {
            "name": run.table.name,
            "rows": len(run.table),
            "trained_on": len(rows),
            "held_out": len(held),
            "split": run.split,
            "present": {v: round(float(p), 4) for v, p in zip(data.views, present.mean(0))},
            "refused": {n: len(b) for n, b in run.refused.items() if b},
            "refused_examples": {n: list(b.values())[:5] for n, b in run.refused.items() if b},
        },
        "metrics": metrics,
        "report": reports,
        "history": done.history,
        "best_epoch": done.best_epoch,
        "model": {
            "fusion": run.recipe["fusion"]["name"],
            "encoders": {v: e.name for v, e in zip(bundle.model.views, bundle.model.encoders)},
            "parameters": sum(p.numel() for p in bundle.model.parameters()),
        },
        "versions": {
            "polyfuse": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "made": clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime()),
    }


def summary(card: dict[str, Any]) -> list[str]:
    """The card's figures as lines."""
    lines = []
    for target, metrics in card["metrics"].items():
        told = []
        for name, figure in list(metrics.items())[:4]:
            around = f" [{figure['low']:.4g}, {figure['high']:.4g}]" if figure.get("low") is not None else ""
            told.append(f"{name} {figure['value']:.4g}{around}")
        lines.append(f"held-out rows, '{target}': " + ", ".join(told))
    return lines


def _run_folder(out: str | Path | None, recipe: dict[str, Any], table: Table, val_table: Table | None, resume: bool) -> Path | None:
    """The folder that holds checkpoints, and the promise that it belongs to these very options and data."""
    if out is None:
        if resume:
            raise RecipeError("--resume", "needs --out", fix="name the folder that the killed run had")
        return None
    out = Path(out)
    folder = out.parent / f".{out.name}.run"
    mark = _fingerprint(recipe, table, val_table)
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
        if not resume or old is None:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", {"fingerprint": mark})
    except OSError as error:
        raise DataError(f"folder '{out.parent}'", f"cannot be written ({error.strerror})", fix="choose another --out") from None
    return folder


def _fingerprint(recipe: dict[str, Any], table: Table, val_table: Table | None) -> str:
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
def _scratch() -> Iterator[Path]:
    """Where a table larger than memory is laid out; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="polyfuse-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
