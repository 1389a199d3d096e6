"""Fit codecs on the training rows, then bring every column of a table into the store."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import Codec, Column, DataError, TableCodec, TabularCodec, Value
from .cells import Opener, digest, raw_values
from .store import Prepared, PreparedTable, Store, in_order, key_of, open_entry
from .table import Table
from .window import WindowIndex

Tick = Callable[[int], None]
_FIRST = 32  # cells by which a column is known again before all of it is read
_ESTIMATE = 16  # cells measured to say beforehand what room a column will take


@dataclass
class Source:
    """A table with what is needed to get at its cells.

    Args:
        windows: for a long table, which readings make each row.
        threads: how many cells are worked on at a time.
    """

    table: Table
    opener: Opener
    windows: WindowIndex | None = None
    threads: int = 1

    def __len__(self) -> int:
        return len(self.windows) if self.windows is not None else len(self.table)

    def raw(self, column: Column, rows: np.ndarray | None = None) -> Iterator[Any]:
        return raw_values(self.table, column, rows, self.windows)

    def read(self, codec: Codec, raw: Any) -> Any | None:
        return None if raw is None else codec.read(self.opener.open(raw, codec))


def fit_codec(source: Source, column: Column, codec: Codec, rows: np.ndarray) -> None:
    """Learn the codec's state from the training rows; unreadable cells are passed over (preparing lists them)."""
    if isinstance(codec, TabularCodec):
        values, present, _ = read_tabular(source, column, codec, rows)
        codec.fit(v for v, p in zip(values, present) if p)
        return

    def readable() -> Iterator[Any]:
        for raw in source.raw(column, rows):
            try:
                value = source.read(codec, raw)
            except DataError:
                continue
            if value is not None:
                yield value

    codec.fit(readable())


def prepare(source: Source, column: Column, codec: Codec, store: Store, tick: Tick | None = None) -> Prepared:
    """Every cell of a column read, cleaned and stored; at once where the store has it already.

    Only a table that begins like one that was prepared before is worth a pass that just looks at the content; any other
    is opened once, and looked at, read and cleaned in the same pass.
    """
    start, folder = _start(source, column, codec), None
    if store.begun(start):
        seen = _Seen(np.full(len(source), -1, np.int64))
        for _ in _pass(source, column, codec, seen, False, tick):
            pass
        folder = store.find(key_of(codec, column.options, seen.known))
    if folder is not None:
        try:
            found = open_entry(folder)
        except (OSError, ValueError, KeyError):  # cleared under way by another process, or damaged: made again
            shutil.rmtree(folder, ignore_errors=True)
            folder = None
    if folder is None:
        store.check_room(column.name, _room(source, column, codec))
        seen = _Seen(np.full(len(source), -1, np.int64))
        values = _pass(source, column, codec, seen, True, tick)
        folder = store.write(start, lambda: key_of(codec, column.options, seen.known), column.name, codec, values)
        found = open_entry(folder)
    arrays, offsets, bad, digests = found
    index, order, refused = seen.index, list(seen.known), seen.refused
    # units are stored in about the order of first occurrence, the refused ones left out
    place = np.full(len(order) + 1, -1, np.int64)  # the last entry serves the missing cells' -1
    position = {d: i for i, d in enumerate(digests)}
    for unit, d in enumerate(order):
        place[unit] = position.get(d, -1)
    if bad:
        first_row: dict[int, int] = {}
        for row, unit in enumerate(index):
            if unit >= 0 and order[unit] in bad:
                refused[row] = _with_row(bad[order[unit]], column, source, row, first_row.setdefault(unit, row))
    return Prepared(place[index], arrays, offsets, refused, folder.name)


@dataclass
class _Seen:
    """What a pass over a column found.

    Attributes:
        index: [rows] which distinct content each row has; -1 = missing or not to be opened.
        known: {digest: its number}, in order of first occurrence.
        refused: {row: why} of cells that could not even be opened.
    """

    index: np.ndarray
    known: dict[bytes, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def _pass(source: Source, column: Column, codec: Codec, seen: _Seen, clean: bool, tick: Tick | None) -> Iterator[tuple[bytes, Any]]:
    """One pass over the cells. Fills `seen`; with `clean`, yields each distinct cell's digest and its value or why it is refused."""

    claimed: dict[bytes, object] = {}  # which thread's turn cleans a content that recurs; setdefault is atomic

    def work(chunk: list[Any]) -> list[Any]:
        out: list[Any] = []
        for raw in chunk:
            try:
                opened = None if raw is None else source.opener.open(raw, codec)
                key = None if opened is None else digest(opened)
            except DataError as error:
                out.append(error)
                continue
            turn = object()
            mine = clean and key is not None and claimed.setdefault(key, turn) is turn
            out.append(None if key is None else (key, _cleaned(codec, opened) if mine else None))
        return out

    threads = source.threads if codec.media or clean else 1
    for row, found in enumerate(in_order(work, source.raw(column), threads)):
        if isinstance(found, DataError):
            seen.refused[row] = str(_located(found, column, source, row))
        elif found is not None:
            key, value = found
            seen.index[row] = seen.known.setdefault(key, len(seen.known))
            if value is not None:
                yield key, value
        if tick and row % 64 == 63:
            tick(64)


def _cleaned(codec: Codec, opened: Any) -> Value | DataError | None:
    """None for a cell that turns out to be missing ("   " as text): it is not stored."""
    try:
        value = codec.read(opened)
        return None if value is None else codec.clean(value)
    except DataError as error:
        return error


def _start(source: Source, column: Column, codec: Codec) -> str:
    """A key of the column's first cells: what a column that was prepared before must share."""
    rows = np.arange(min(_FIRST, len(source)))
    digests = []
    for raw in source.raw(column, rows):
        try:
            digests.append(b"" if raw is None else digest(source.opener.open(raw, codec)))
        except DataError:
            digests.append(b"!")
    return key_of(codec, column.options, digests)


def room(source: Source, column: Column, codec: Codec, store: Store) -> int:
    """About how many bytes preparing the column would add to the store; 0 where it looks as if it were there."""
    return 0 if store.begun(_start(source, column, codec)) else _room(source, column, codec)


def _room(source: Source, column: Column, codec: Codec) -> int:
    """About how many bytes the column will take at most, from a few cells spread over it."""
    sample = np.unique(np.linspace(0, max(len(source) - 1, 0), min(_ESTIMATE, len(source))).astype(np.int64))
    sizes = [0]
    for raw in source.raw(column, sample):
        try:
            value = source.read(codec, raw)
            sizes.append(0 if value is None else sum(a.nbytes for a in codec.clean(value).values()))
        except DataError:
            continue
    return int(sum(sizes) / max(len(sample), 1) * len(source))


def read_tabular(
    source: Source, column: Column, codec: TabularCodec, rows: np.ndarray | None = None
) -> tuple[Any, np.ndarray, dict[int, str]]:
    """Every cell of a tabular column: values [rows], present [rows] and the refused ones {row: why}."""
    array = source.table.column(column.reads[0])
    if source.windows is not None:
        array = array.take(pa.array(source.windows.target_row))
    if rows is not None:
        array = array.take(pa.array(rows))
    values, present, bad = codec.read_column(array)
    refused = {r: str(_located(e, column, source, int(rows[r]) if rows is not None else r)) for r, e in bad.items()}
    return values, np.asarray(present, bool), refused


def prepare_tabular(source: Source, column: Column, codec: TabularCodec) -> Prepared:
    """One tabular column in memory (a target)."""
    values, present, refused = read_tabular(source, column, codec)
    at = np.flatnonzero(present)
    index = np.full(len(present), -1, np.int64)
    index[at] = np.arange(len(at))
    arrays = codec.clean_many([values[i] for i in at]) if len(at) else {k: v[None][:0] for k, v in codec.filler().items()}
    return Prepared(index, arrays, None, refused)


def prepare_table(
    source: Source, columns: list[Column], codec: TableCodec, scratch: Path | None = None
) -> tuple[PreparedTable, dict[str, dict[int, str]]]:
    """All tabular input columns as one view; also {column: {row: why refused}}.

    With `scratch` the arrays are memory-mapped files there, for tables larger than memory.
    """
    arrays = codec.empty(len(source)) if scratch is None else _mapped(codec, len(source), scratch)
    refused = {}
    for m, (column, member) in enumerate(zip(columns, codec.members)):
        prepared = prepare_tabular(source, column, member)
        refused[column.name] = prepared.refused
        at = np.flatnonzero(prepared.present)
        arrays["present"][at, m] = True
        if member.numbers:
            arrays["value"][at, codec.value_slices[column.name]] = prepared.arrays["value"]
        if member.cardinality:
            arrays["index"][at, codec.index_columns[column.name]] = prepared.arrays["index"][:, 0]
    return PreparedTable(arrays), refused


def _mapped(codec: TableCodec, rows: int, scratch: Path) -> dict[str, np.ndarray]:
    name = hashlib.blake2b(codec.column.encode(), digest_size=6).hexdigest()
    out = {}
    for key, empty in codec.empty(0).items():
        shape = (rows, *empty.shape[1:])
        out[key] = (
            np.memmap(scratch / f"{name}-{key}.bin", empty.dtype, "w+", shape=shape) if np.prod(shape) else np.zeros(shape, empty.dtype)
        )
    return out


def _located(error: DataError, column: Column, source: Source, row: int) -> DataError:
    if source.windows is not None:
        row = int(source.windows.target_row[row])
    return error.at(f"column '{column.name}', {source.table.row_name(row)} of {source.table.name}")  # type: ignore[return-value]


def _with_row(message: str, column: Column, source: Source, row: int, first: int) -> str:
    """A stored message names its column only; content may recur in many rows and tables."""
    about = message.split(": ", 1)[-1]
    return (
        str(_located(DataError("", about.rstrip(".")), column, source, row))
        if row == first
        else (f"column '{column.name}', {source.table.row_name(row)}: the same cell as {source.table.row_name(first)}")
    )
