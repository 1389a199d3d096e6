"""From a table to something a learner can start from: split, codecs fitted, every cell prepared, the network made."""

import ctypes
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .bundle import Bundle, build
from .core import Codec, DataError, RecipeError, Schema, TableCodec, TabularCodec, codecs, did_you_mean
from .core.progress import Progress
from .data import (
    Dataset,
    Features,
    Joined,
    Opener,
    Source,
    Store,
    Table,
    fit_codec,
    hold_out,
    look,
    parse_window,
    prepare,
    prepare_table,
    prepare_tabular,
    room,
    schema_from_file,
    size_text,
    windows,
)
from .model import members_of, views_of
from .recipe import choose_tasks


def use_threads(wanted: int | None) -> int:
    """How many cells are read, and learners fitted, at a time; torch takes no more threads than that.

    Args:
        wanted: as many. By default one for each processor that this process may use: in a container or a queue's job these are
            fewer than the machine has, and more threads than processors wait for one another.
    """
    threads = wanted or processors()
    torch.set_num_threads(wanted or min(threads, torch.get_num_threads()))
    return threads


def processors(share: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use: those that it is bound to, and no more than its container's share of time.

    Args:
        share: where Linux tells the latter, as microseconds in every so many, or "max" (control groups, version 2).
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, every = share.read_text().split()
    except (OSError, ValueError):
        return bound  # another system, or no container
    return bound if most == "max" else max(1, min(bound, math.ceil(int(most) / int(every))))


@dataclass
class Run:
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


@dataclass
class Ready:
    """A table made ready to learn from: split, codecs fitted, every cell prepared."""

    run: Run
    codecs: dict[str, Codec]
    data: Dataset
    rows: np.ndarray
    held: np.ndarray

    def only(self, views: Sequence[str]) -> "Ready":
        """The same with these views alone."""
        data = replace(self.data, views={v: self.data.views[v] for v in views}, codecs={v: self.data.codecs[v] for v in views})
        schema = self.run.schema.only([c for codec in data.codecs.values() for c in members_of(codec)])
        run = replace(self.run, schema=schema, recipe={**self.run.recipe, "schema": schema.to_json()})
        return replace(self, run=run, codecs={c.name: self.codecs[c.name] for c in schema.columns if c.name in self.codecs}, data=data)


def find_schema(
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
    """The schema given, or guessed from the table; it has a target and an input."""
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
            raise RecipeError(table.name, "has no target named", expected=f"one of {', '.join(table.names)}", fix="name it: --target NAME")
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
            window=parse_window(window) if isinstance(window, str) else window,
            task=task,
        )
        made = looked.schema
        for line in looked.lines():
            progress.say(line)
        for column in looked.columns:
            if column.role == "ignore" and column.refused:
                progress.say(f"warning: '{column.name}' is left out: {column.refused} of its cells cannot be read", "yellow")
    if not made.having("target"):
        raise RecipeError("schema", "has no target", fix='give one column the role "target", or --target NAME')
    if not made.having("input"):
        raise RecipeError(
            "schema", "has no input column", fix="`polyfuse look` says why each was left out; overrule with --column NAME=MODALITY"
        )
    return made


def first_of(target: str | list[str] | None) -> str | None:
    """The first target in the order in which they were named, whatever their order in the table; it is the main one."""
    return target[0] if isinstance(target, list) and target else target or None  # type: ignore[return-value]


def make_ready(run: Run, val_table: Table | None = None, *, whole: bool = False, given: dict[str, Codec] | None = None) -> Ready:
    """Split, fit the codecs on the training rows, prepare every cell, and fill in the tasks of the recipe.

    Args:
        whole: every row is a training row, none is held out: who calls cuts folds.
        given: codecs that are fitted already; the other columns' are fitted here.
    """
    source = _source(run, run.table)
    rows, held, run.split = (np.arange(len(source)), np.zeros(0, np.int64), "") if whole else _split(run, source, val_table)
    fitted = _fit_codecs(run, source, rows, given or {})
    choose_tasks(run.recipe, {c.name: fitted[c.name] for c in run.schema.having("target")})
    data = _dataset(run, source, fitted, "training rows")
    rows = _labelled(run, data, rows, "training")
    if val_table is not None:
        data, held = _joined(data, _dataset(run, _source(run, val_table), fitted, "validation rows"))
    held = _labelled(run, data, held, "validation", required=False)
    _give_back()
    return Ready(run, fitted, data, rows, held)


def _give_back() -> None:
    """Return to the system what reading and preparing freed: it grows with the table, and training needs none of it."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc keeps freed pages otherwise
    if trim is not None:
        trim(0)


def new_bundle(ready: Ready) -> Bundle:
    """The recipe's network before its first step: seeded, its tasks and encoders fitted to what needs no training."""
    torch.manual_seed(ready.run.recipe["seed"])
    bundle = build(ready.run.recipe, {n: c.state() for n, c in ready.codecs.items()})
    bundle.model.fit_tasks({t: ready.data.targets[t].cells(ready.rows).x for t in bundle.model.targets})
    for objective in bundle.model.objectives.values():
        objective.fit({t: target.cells(ready.rows).x for t, target in ready.data.targets.items()})
    for view, encoder in zip(bundle.model.views, bundle.model.encoders):
        if not isinstance(ready.data.views[view], Features):
            encoder.fit(_stream(ready.data, view, ready.rows))
    return bundle


def _source(run: Run, table: Table) -> Source:
    cut = windows(table, run.schema.window) if run.schema.window else None
    return Source(table, Opener(table.base, run.allow_outside), cut, run.threads)


def _split(run: Run, source: Source, val_table: Table | None) -> tuple[np.ndarray, np.ndarray, str]:
    if val_table is not None:
        return np.arange(len(source)), np.zeros(0, np.int64), f"validation rows are those of {val_table.name}"
    split = hold_out(run.table, run.schema, seed=run.recipe["seed"], index=source.windows, main=run.recipe.get("main"))
    return split.train, split.held, split.rule


def _fit_codecs(run: Run, source: Source, rows: np.ndarray, given: dict[str, Codec]) -> dict[str, Codec]:
    fitted = {}
    for column in run.schema.columns:
        if column.name in given:
            fitted[column.name] = given[column.name]
        elif column.role in ("input", "target"):
            codec = codecs.build(column.modality, column.name, **run.recipe["codecs"].get(column.name, {}))
            fit_codec(source, column, codec, rows)
            fitted[column.name] = codec
    return fitted


def _dataset(run: Run, source: Source, fitted: dict[str, Codec], label: str) -> Dataset:
    views = views_of(run.schema, fitted)
    prepared: dict[str, Any] = {}
    refused: dict[str, dict[int, str]] = {}
    needed = sum(room(source, run.schema[view], codec, run.store) for view, codec in views.items() if not isinstance(codec, TableCodec))
    if needed:
        run.progress.say(f"preparing {label}: takes about {size_text(needed)} in {run.store.root}")
    with run.progress.bar(f"preparing {label}", len(source) * len(views)) as bar:
        for view, codec in views.items():
            bar.about(view)
            if isinstance(codec, TableCodec):
                members = [run.schema[m.column] for m in codec.members]
                prepared[view], of_members = prepare_table(source, members, codec)
                refused |= of_members
            else:
                prepared[view] = prepare(source, run.schema[view], codec, run.store, bar.step)
                refused[view] = prepared[view].refused
    targets = {}
    for column in run.schema.having("target"):
        codec = fitted[column.name]
        if isinstance(codec, TabularCodec):
            targets[column.name] = prepare_tabular(source, column, codec)
        else:
            targets[column.name] = prepare(source, column, codec, run.store)
        refused[column.name] = targets[column.name].refused
    for name, bad in refused.items():
        run.refused.setdefault(name, {}).update(bad)
        if len(bad) > run.max_refused * len(source):
            first = "\n  ".join(list(bad.values())[:3])
            raise DataError(
                f"column '{name}'",
                f"{len(bad)} of {len(source)} cells cannot be read, the first:\n  {first}",
                expected=f"at most {run.max_refused:.0%} unreadable",
                fix="correct them, --ignore the column, or raise --max-refused",
            )
    return Dataset(prepared, targets, views, len(source), _weights(run, source))


def _weights(run: Run, source: Source) -> np.ndarray | None:
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
    views = {k: Joined(v, other.views[k], data.size) for k, v in data.views.items()}
    targets = {k: Joined(v, other.targets[k], data.size) for k, v in data.targets.items()}
    weight = None if data.weight is None else np.concatenate([data.weight, np.ones(other.size, np.float32)])
    return Dataset(views, targets, data.codecs, data.size + other.size, weight), np.arange(data.size, data.size + other.size)  # type: ignore[arg-type]


def _labelled(run: Run, data: Dataset, rows: np.ndarray, what: str, required: bool = True) -> np.ndarray:
    """Only rows with a label take part; all where the schema has no target, for then a teacher answers."""
    if not data.targets:
        return rows
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


def announce(run: Run, rows: np.ndarray, held: np.ndarray, folded: bool = False) -> None:
    say = run.progress.say
    for column in run.schema.having("target"):
        say(f"target '{column.name}': {run.recipe['parts'][column.name]['task']}")
    say(f"{len(rows)} rows to learn from" + f", {len(held)} held out" * (not folded) + f" ({run.split})")
    if not len(held) and not folded:
        say("warning: no row could be held out, so no epoch is chosen and no score is known: label more rows, or give --val", "yellow")
    for name, bad in run.refused.items():
        if bad:
            say(f"refused: {len(bad)} cells of '{name}', e.g. {next(iter(bad.values()))}", "yellow")


def _stream(data: Dataset, view: str, rows: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
    for at in range(0, len(rows), 256):
        cells = data.views[view].cells(rows[at : at + 256])
        if len(cells.rows):
            yield cells.x
