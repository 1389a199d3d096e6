"""A table of mixed columns as one matrix of numbers, learned without a target."""

import time as clock
from collections import Counter
from typing import Any

import numpy as np
import torch

from .bundle import Bundle, build
from .card import versions
from .core import DataError, Inputs, Layout, TableCodec
from .core.progress import Progress
from .data import Opener, Store, Table, look, raw_values
from .data.rows import assemble
from .learners.design import Design
from .presets import Course, Plan, features_for
from .presets import Table as Features
from .ready import Run, make_ready, use_threads
from .recipe import parse_settings, resolve

_CHUNK = 256  # rows that are described at a time
_VALUES = 100  # most frequent values of a category that are told apart


def describe(
    table: Table,
    store: Store,
    progress: Progress,
    *,
    columns: dict[str, str] | None = None,
    join: dict[str, tuple[str, list[str]]] | None = None,
    settings: dict[str, Any] | list[str] | None = None,
    size: str = "m",
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[Bundle, Design]:
    """Fit every column's untrained encoder.

    Args:
        columns, join, settings, size, seed, threads, device: as `polyfuse.fit` has them.
    Returns:
        a bundle that predicts nothing, whose `embed` gives the encoders' features, and what makes a matrix of these.
    Raises:
        DataError: no column is left to describe.
    """
    schema = look(table, columns=columns, join=join).schema
    if not schema.having("input"):
        what = "has no column to describe: each is empty, constant, or only tells rows apart"
        raise DataError(table.name, what, fix='declare one: columns={"NAME": "MODALITY"}')
    recipe = resolve(schema, fusion="concat", size=size, seed=seed, settings=parse_settings(settings))
    for column in schema.having("input"):
        if column.modality == "category":
            recipe["codecs"][column.name].setdefault("most", _VALUES)
    ready = make_ready(Run(schema, recipe, table, progress, store, use_threads(threads), 0.1, False), whole=True)
    plan = Plan("features", np.inf, features_for(ready.data, recipe, sparse=False), {}, [], 0)
    features = Features(ready, [], ready.rows, [])
    course = Course(ready, plan, features, clock.monotonic(), seed, device, None)
    course.encode()
    about = {"features": plan.features, "widths": course.widths, "members": []}
    bundle = build({**recipe, "ensemble": about}, {name: codec.state() for name, codec in ready.codecs.items()}, versions())
    for view, describer in zip(bundle.model.described, bundle.model.describers):
        describer.encoders = torch.nn.ModuleList(course.encoders[view])
    bundle.model.eval()
    design = new_design(bundle)
    x, there = features.lazy(bundle.model.described, np.arange(len(features.rows)))
    design.fit_transform(x, there, np.zeros((len(there), 0)))
    return bundle, design.eval()


def new_design(bundle: Bundle) -> Design:
    """What makes a matrix of the features of the bundle's encoders, not fitted yet: no value of a category is told by a target."""
    model = bundle.model
    inputs = Inputs.of({view: d.layout(False) for view, d in zip(model.described, model.describers)})
    return Design(inputs, most_values=int(inputs.cardinality.max(initial=0)))


@torch.inference_mode()
def matrix(bundle: Bundle, design: Design, table: Table) -> np.ndarray:
    """[rows, D] float32: what varied in the rows of `describe`, standardised; a category's value and a flag are 0 or 1."""
    opener, found = Opener(table.base), []
    for at in range(0, len(table), _CHUNK):
        rows = np.arange(at, min(at + _CHUNK, len(table)))
        raws = {c.name: list(raw_values(table, c, rows)) for c in bundle.schema.having("input")}
        seen = bundle.model.encode(assemble(raws, len(rows), bundle.views, opener)[0])
        found.append(design(*seen.inputs(bundle.model.described)).numpy())
    return np.concatenate(found)


def names(bundle: Bundle, design: Design) -> list[str]:
    """Of the columns of the matrix: numbers "COLUMN_0" ..., values "COLUMN_red", flags "COLUMN_there"; no two alike."""
    described = list(zip(bundle.model.described, bundle.model.describers))
    flags = [name for view, describer in described for own in describer.layouts for name in _flags(bundle, view, own)]
    owners = [flags[owner] for owner in design.inputs.owner]  # each feature's
    many, place, numbered = Counter(owners), Counter[str](), []
    for owner in owners:
        numbered.append(f"{owner}_{place[owner]}" if many[owner] > 1 else owner)
        place[owner] += 1
    found = [numbered[f] for f in design.number.tolist()]
    hot: dict[int, str] = {}
    for f, start, end in zip(design.few.tolist(), design.few_start.tolist(), design.few_start[1:].tolist()):
        values = ["other", *bundle.codecs[owners[f]].values]  # type: ignore[attr-defined]
        for value, column in zip(values, design.few_column[start:end].tolist()):
            if column >= 0:
                hot[column] = f"{owners[f]}_{'rare' if column in hot else value}"  # several values have one column
    found += [hot[column] for column in sorted(hot)]
    unique: dict[str, None] = {}
    for name in found + [f"{flags[flag]}_there" for flag in design.flag.tolist()]:
        while name in unique:
            name += "_"
        unique[name] = None
    return list(unique)


def _flags(bundle: Bundle, view: str, layout: Layout) -> list[str]:
    """What each flag of an encoder is of: a column of the table, the view, or a place in a vector."""
    codec = bundle.views[view]
    if isinstance(codec, TableCodec):
        return [m.column for m in codec.members]
    return [view] if layout.flags == 1 else [f"{view}_{i}" for i in range(layout.flags)]
