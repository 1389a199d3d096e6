"""Which rows train and which are held out, by a rule that fits the table."""

from dataclasses import dataclass

import numpy as np

from ..core import DataError, Schema
from .cells import raw_values
from .table import Table
from .window import WindowIndex, time_keys

_VALIDATION = {"val", "valid", "validation", "dev"}
_SMALL = 200  # classes


@dataclass
class Split:
    """Row numbers, and the rule in words."""

    train: np.ndarray
    held: np.ndarray
    rule: str


def hold_out(table: Table, schema: Schema, *, share: float = 0.15, seed: int = 0, index: WindowIndex | None = None) -> Split:
    """By the split column where there is one; else whole groups, the latest rows, or stratified by the target.

    Args:
        share: of the labelled rows that is held out.
        index: the table's windows, whose units are kept whole.

    Raises:
        DataError: fewer than 2 labelled rows, or nothing to train on.
    """
    count = len(table) if index is None else len(index)
    labels = [list(raw_values(table, c, None, index)) for c in schema.having("target")]
    labelled = np.array([any(column[i] is not None for column in labels) for i in range(count)], bool)
    rows = np.flatnonzero(labelled)
    if len(rows) < 2:
        names = ", ".join(f"'{c.name}'" for c in schema.having("target"))
        raise DataError(
            f"target {names}",
            f"{len(rows)} of {count} rows of {table.name} have a label",
            expected="at least 2, and better some hundreds",
            fix="label more rows",
        )
    rest = np.flatnonzero(~labelled)
    rng = np.random.default_rng((seed, 1))
    for role, rule in (("split", _by_column), ("group", _by_group), ("time", _by_time)):
        if schema.having(role):  # type: ignore[arg-type]
            name = schema.having(role)[0].name  # type: ignore[arg-type]
            values = list(raw_values(table, schema[name], None, index))
            held, told = rule(rows, values, name, share, rng)
            break
    else:
        if index is not None:
            held, told = _by_group(rows, index.unit.tolist(), schema.window.id if schema.window else "unit", share, rng)
        else:
            held, told = _by_target(rows, labels, schema, share, rng)
    if role == "split" and told.startswith("by"):
        kept = np.array([v not in (None, "") and str(v).lower() not in ("test", "holdout") for v in values], bool)
        rows = rows[kept[rows]]
    train = np.setdiff1d(rows, held)
    if not len(train):
        raise DataError(table.name, f"leaves no row to train on when split {told}", fix="check the split column, or do without it")
    return Split(np.sort(np.concatenate([train, rest])) if role != "split" else train, np.sort(held), told)


def _by_column(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    held = np.array([r for r in rows if str(values[r]).lower() in _VALIDATION], np.int64)
    if not len(held):
        held = rng.permutation([r for r in rows if str(values[r]).lower() not in ("test", "holdout")])[: max(1, int(share * len(rows)))]
    return held, f"by column '{name}'"


def _by_group(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    groups = sorted({str(values[r]) for r in rows})
    if len(groups) < 2:
        raise DataError(
            f"column '{name}'", "has one group only", expected="at least 2, for a group is never split", fix="do without --group"
        )
    chosen = set(rng.permutation(groups)[: max(1, round(share * len(groups)))].tolist())
    return np.array([r for r in rows if str(values[r]) in chosen], np.int64), f"whole groups of '{name}'"


def _by_time(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    known = [r for r in rows if values[r] is not None]
    keys = dict(zip(known, time_keys([values[r] for r in known], name)))
    order = np.array(sorted((r for r in known if keys[r] is not None), key=keys.__getitem__), np.int64)
    if len(order) < 2:
        raise DataError(
            f"column '{name}'", "has no time in nearly all rows", expected="a time in every row", fix="do without --time-column"
        )
    return order[-max(1, int(share * len(order))) :], f"the latest by '{name}'"


def _by_target(rows: np.ndarray, labels: list[list], schema: Schema, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    size = max(1, round(share * len(rows)))
    if schema.having("target")[0].modality == "category":
        classes: dict[str, list[int]] = {}
        for r in rows:
            if labels[0][r] is not None:
                classes.setdefault(str(labels[0][r]), []).append(int(r))
        if 1 < len(classes) <= max(_SMALL, len(rows) // 4):
            return _stratified(classes, size, rng), "stratified at random"
    return rng.permutation(rows)[:size], "at random"


def _stratified(classes: dict[str, list[int]], size: int, rng: np.random.Generator) -> np.ndarray:
    """Each class gives its share, the largest remainders first; a class of one row stays in training."""
    total = sum(map(len, classes.values()))
    wanted = {k: size * len(v) / total for k, v in classes.items()}
    taken = {k: min(int(wanted[k]), len(v) - 1) for k, v in classes.items()}
    tie = dict(zip(sorted(classes), rng.random(len(classes))))
    for k in sorted(classes, key=lambda k: (int(wanted[k]) - wanted[k], tie[k])):
        if sum(taken.values()) >= size:
            break
        if taken[k] < len(classes[k]) - 1:
            taken[k] += 1
    held = [r for k in sorted(classes) for r in rng.permutation(classes[k])[: taken[k]]]
    return np.array(held, np.int64)
