"""Rows cut from a long table of one reading per row: each window ends at a reading and looks back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core import Column, DataError, RecipeError, Window, codecs, did_you_mean
from .table import Table


@dataclass
class WindowIndex:
    """Which readings make each window.

    Attributes:
        order: [rows of the table]: its rows sorted by unit and order.
        start, stop: [windows]: the window's readings are order[start:stop].
        target_row: [windows]: row of the table whose target, ids and other columns the window has.
        unit: [windows]: which unit it is of.
    """

    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    target_row: np.ndarray
    unit: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def parse_window(text: str) -> Window:
    """`id=unit,order=cycle,length=40[,stride=1][,horizon=0]` to a Window.

    Example:
        >>> parse_window("id=unit,order=cycle,length=40")
        Window(id='unit', order='cycle', length=40, stride=1, horizon=0)
    """
    known = ("id", "order", "length", "stride", "horizon")
    found: dict[str, str] = {}
    for piece in text.split(","):
        key, sep, value = piece.partition("=")
        key = key.strip()
        if not sep or key not in known:
            raise RecipeError(
                f"--window '{text}'",
                f"cannot read '{piece}'",
                expected="id=COLUMN,order=COLUMN,length=N[,stride=N][,horizon=N]",
                fix=did_you_mean(key, known),
            )
        found[key] = value.strip()
    for key in ("id", "order", "length"):
        if key not in found:
            raise RecipeError(f"--window '{text}'", f"lacks '{key}'", expected="id=COLUMN,order=COLUMN,length=N[,stride=N][,horizon=N]")
    numbers = {}
    for key in ("length", "stride", "horizon"):
        if key in found:
            if not found[key].isdecimal() or (key != "horizon" and int(found[key]) < 1):
                raise RecipeError(f"--window '{text}'", f"has {key}={found[key]!r}", expected="a whole number of at least 1 (horizon: 0)")
            numbers[key] = int(found[key])
    return Window(found["id"], found["order"], **numbers)


def windows(table: Table, window: Window) -> WindowIndex:
    """Cut the table. Windows at the start of a unit are shorter; nothing is padded.

    Raises:
        DataError: id or order is not a column, has empty cells, or two readings of a unit have the same order.
    """
    if window.length < 1 or window.stride < 1 or window.horizon < 0:
        raise RecipeError("window", f"is {window}", expected="length and stride of at least 1, and a horizon of 0 or more")
    unit = _keys(table, window.id, numeric=False)
    rank = _keys(table, window.order, numeric=True)
    order = np.lexsort((rank, unit))
    u, r = unit[order], rank[order]
    first = np.flatnonzero(np.r_[True, u[1:] != u[:-1]]) if len(u) else np.zeros(0, np.int64)
    twice = np.flatnonzero((u[1:] == u[:-1]) & (r[1:] == r[:-1]))
    if len(twice):
        row = int(order[twice[0] + 1])
        raise DataError(
            f"column '{window.order}', {table.row_name(row)} of {table.name}",
            f"repeats a value within one '{window.id}'",
            expected="one reading per unit and order",
            fix="remove the duplicates, or order by another column",
        )
    last = np.r_[first[1:], len(u)]
    start, stop, target, owner = [], [], [], []
    for n, (a, b) in enumerate(zip(first, last)):
        ends = np.arange(b - window.horizon, a, -window.stride)[::-1]  # exclusive ends, counted back from the unit's last reading
        stop.append(ends)
        start.append(np.maximum(ends - window.length, a))
        target.append(order[ends - 1 + window.horizon])
        owner.append(np.full(len(ends), n))

    def whole(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    return WindowIndex(order, whole(start), whole(stop), whole(target), whole(owner))


def window_cells(table: Table, column: Column, index: WindowIndex, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """One float array [T, sources] per window; an empty or unreadable reading is NaN, which the series codec takes as a gap."""
    matrix = np.stack([_floats(table, s) if s in table.names else np.full(len(table), np.nan) for s in column.sources], 1)[index.order]
    for w in range(len(index)) if rows is None else rows:
        yield matrix[index.start[w] : index.stop[w]]


def _keys(table: Table, name: str, numeric: bool) -> np.ndarray:
    """Sortable keys of a column, told apart by their text; with `numeric`, in the order of `time_keys`."""
    array = table.column(name)
    try:
        codes = pc.dictionary_encode(pc.cast(array, pa.large_string())).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"column '{name}'", f"holds {array.type}", expected="numbers, words or dates, for rows are cut by it") from None
    codes = codes if isinstance(codes, pa.DictionaryArray) else codes.chunk(0)
    words = codes.dictionary.to_pylist()
    if array.null_count or any(w.strip().lower() in ("", "nan") for w in words):
        raise DataError(f"column '{name}'", f"has empty cells in {table.name}", expected="a value in every row, for rows are cut by it")
    keys = time_keys(words, name) if numeric else words
    if None in keys:
        odd = words[keys.index(None)]
        raise DataError(f"column '{name}'", f"holds {odd[:40]!r} in {table.name}", expected="numbers in every row, or times in every row")
    place = {key: i for i, key in enumerate(sorted(set(keys)))}  # two ways to write one number are one place
    return np.array([place[k] for k in keys], np.int64)[codes.indices.to_numpy(zero_copy_only=False)]


def time_keys(values: list[Any], name: str) -> list[Any]:
    """What orders rows: numbers where nearly all are (so that 10 follows 9), else times, else text.

    A value that is none among numbers or times has no place, None.
    """
    clock = codecs.build("time", name)
    for key in (_number, clock.read):
        keys = [_tried(key, v) for v in values]
        if sum(k is not None for k in keys) >= 0.9 * len(values):
            return keys
    return [str(v) for v in values]


def _number(value: Any) -> int | float | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)  # exact, as the nanoseconds of a clock need it
    number = value if isinstance(value, int) else float(value)
    return number if number == number else None


def _tried(key: Callable[[Any], Any], value: Any) -> Any:
    try:
        return key(value)
    except (TypeError, ValueError, OverflowError):  # a DataError is a ValueError
        return None


def _floats(table: Table, name: str) -> np.ndarray:
    array = table.column(name)
    if pa.types.is_dictionary(array.type):
        array = pc.cast(array, array.type.value_type)
    if pa.types.is_string_view(array.type):
        array = pc.cast(array, pa.large_string())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), None, pc.utf8_trim_whitespace(array))
    try:
        values = pc.cast(array, pa.float64()).to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = np.array([_float(v) for v in array.to_pylist()], np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return np.nan
