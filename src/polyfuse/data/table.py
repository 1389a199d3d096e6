"""Reading tables: CSV, TSV, Parquet, JSON Lines, folders of class folders, and whatever speaks Arrow in memory.

A CSV is read as text only: what a cell is, its codec decides. A table larger than memory is laid out once as an Arrow
file and memory-mapped, so that everything after reading sees one kind of table.
"""

import codecs as encodings
import csv
import io
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..core import DataError, did_you_mean

_PACKED = (".gz", ".zst", ".bz2", ".lz4")
_TEXT = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": None}
_LINES = (".jsonl", ".ndjson", ".json")
_INDEX = re.compile(r"__index_level_\d+__")  # pandas writes its nameless row labels as such a column
_HEAD = 2**21  # bytes in which a CSV's header must end
_BLOCK = 2**22  # bytes of a CSV that are parsed at a time
_LONG = 2**28  # where one cell is longer than that
_MANY = 20  # refused rows that are listed; all are counted


@dataclass
class Table:
    """A table in Arrow form, with what reading it noticed.

    Args:
        arrow: the columns; possibly memory-mapped.
        name: for messages, e.g. "pets.csv".
        base: folder that relative paths of media start from.
        notes: what reading noticed: a guessed delimiter, an encoding, refused rows.
        refused_rows: (line, why) of rows that could not be read.
    """

    arrow: pa.Table
    name: str = "the table"
    base: Path | None = None
    notes: list[str] = field(default_factory=list)
    refused_rows: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.arrow.num_rows

    @property
    def names(self) -> list[str]:
        return self.arrow.column_names

    def column(self, name: str) -> pa.ChunkedArray:
        if name not in self.names:
            raise DataError(
                f"column '{name}'", f"is not in {self.name}", expected=f"one of {', '.join(self.names)}", fix=did_you_mean(name, self.names)
            )
        return self.arrow.column(name)

    def row_name(self, row: int) -> str:
        """Rows as people count them.

        Example:
            >>> read({"a": [1, 2]}).row_name(1)
            'row 2'
        """
        return f"row {row + 1}"

    def take(self, rows: np.ndarray) -> "Table":
        return Table(self.arrow.take(pa.array(rows)), self.name, self.base, list(self.notes))


def read(source: Any, *, base: str | Path | None = None, memory_mb: float = 1024, scratch: Path | None = None) -> Table:
    """Any table as a Table.

    Args:
        source: a path to .csv, .tsv, .parquet, .jsonl (also .gz, .zst), a folder of class folders, a list of dicts, a dict of
            columns, a Table, or anything with the Arrow stream interface (pandas, polars, DuckDB, Hugging Face datasets).
        base: folder that relative paths of media start from; by default the table's own.
        memory_mb: a larger file is laid out in `scratch` and memory-mapped.
        scratch: a folder that outlives the table; a temporary one by default.

    Raises:
        DataError: no such file, not a table, no columns, two columns of one name.
    """
    if isinstance(source, str | Path):
        table = _from_path(Path(source), memory_mb, scratch)
    else:
        table = source if isinstance(source, Table) else Table(_from_memory(source), "the table", Path.cwd())
    if base is not None:
        table = Table(table.arrow, table.name, Path(base), table.notes, table.refused_rows)
    counted = [n for n in table.names if _INDEX.fullmatch(n)]
    if counted:
        table = Table(table.arrow.drop_columns(counted), table.name, table.base, table.notes, table.refused_rows)
    seen: set[str] = set()
    for name in table.names:
        if name in seen:
            raise DataError(f"column '{name}'", f"occurs twice in {table.name}", fix="rename one of them")
        seen.add(name)
    return table


def write(table: pa.Table, path: str | Path) -> None:
    """To .csv, .parquet or .jsonl, written beside its place and renamed into it."""
    path = Path(path)
    kinds = {".csv": _write_csv, ".parquet": pyarrow.parquet.write_table, ".jsonl": _write_lines}
    if path.suffix.lower() not in kinds:
        raise DataError(f"file '{path}'", f"has the ending '{path.suffix}'", expected=f"one of {', '.join(kinds)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        kinds[path.suffix.lower()](table, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"file '{path}'", f"cannot be written ({error.strerror})", fix="choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(table: pa.Table, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # Arrow's own writer quotes every name and every text
        writer.writerow(table.column_names)
        for batch in table.to_batches():
            writer.writerows(zip(*(c.to_pylist() for c in batch.columns)))


def _write_lines(table: pa.Table, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for batch in table.to_batches():
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


# -- in memory --------------------------------------------------------------------------------------------------


def _from_memory(source: Any) -> pa.Table:
    if isinstance(source, pa.Table):
        return source
    if hasattr(source, "__arrow_c_stream__"):
        try:
            table = pa.table(source)
            return table.cast(pa.schema([field.with_type(_classic(field.type)) for field in table.schema], table.schema.metadata))
        except (ValueError, TypeError, pa.ArrowException) as error:
            if not isinstance(error, pa.ArrowException) or not hasattr(source, "columns"):
                raise DataError("the table", f"cannot be read as columns ({_first(error)})", expected="columns of values") from None
        return _columns(source.to_dict("list"))  # a pandas column of mixed types
    if isinstance(source, dict):
        return _columns(source)
    if isinstance(source, list):
        if not all(isinstance(row, dict) for row in source):
            raise DataError("the table", "is a list of other things than dicts", expected="one dict per row")
        names = list(dict.fromkeys(k for row in source for k in row))
        return _columns({name: [row.get(name) for row in source] for name in names})
    data: Any = getattr(source, "data", None)
    if isinstance(getattr(data, "table", None), pa.Table):  # a Hugging Face dataset without the stream interface
        indices = getattr(source, "_indices", None)
        return data.table if indices is None else data.table.take(indices.column(0))
    raise DataError(
        "the table", f"is a {type(source).__name__}", expected="a path, a data frame, an Arrow table, a dict of columns or a list of dicts"
    )


def _classic(kind: pa.DataType) -> pa.DataType:
    """The type without views, of which Arrow cannot take rows: polars hands out texts and bytes so, within lists and structs too."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return (pa.list_ if pa.types.is_list(kind) else pa.large_list)(_classic(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _classic(field.type)) for field in kind])
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _classic(kind.value_type))
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _columns(columns: dict[str, Any]) -> pa.Table:
    for name, values in columns.items():
        if isinstance(values, str | bytes | dict) or not (hasattr(values, "__len__") and hasattr(values, "__iter__")):
            raise DataError(f"column '{name}'", f"is a {type(values).__name__}", expected="a list with one value per row")
    names = [_utf8(str(k)) for k in columns]
    lengths = {len(v) for v in columns.values()}
    if len(lengths) > 1:
        raise DataError("the table", f"has columns of {' and '.join(map(str, sorted(lengths)))} rows", expected="columns of one length")
    return pa.table([_array(list(v)) for v in columns.values()], names=names)


def _array(values: list[Any]) -> pa.Array:
    """Python values as an Arrow column; what Arrow has no type for (mixed types, arrays of two dimensions) becomes text or lists."""
    values = [v.tolist() if isinstance(v, np.ndarray) else os.fspath(v) if isinstance(v, Path) else v for v in values]
    values = [None if _no_value(v) else v for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else _utf8(v if isinstance(v, str) else _json(v)) for v in values])


def _no_value(value: Any) -> bool:
    """NaN, NaT and pandas' NA: how data frames say missing."""
    if isinstance(value, float | np.floating | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return type(value).__name__ in ("NAType", "NaTType")


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError("the table", f"holds a {type(value).__name__} that cannot be written as text ({_first(error)})") from None


def _utf8(text: str) -> str:
    """Halves of surrogate pairs, which no file can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()


# -- files ------------------------------------------------------------------------------------------------------


def _from_path(path: Path, memory_mb: float, scratch: Path | None) -> Table:
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"file '{path}'", "does not exist", expected="a table", fix=near)
    if path.is_dir():
        return _class_folders(path)
    if path.stat().st_size == 0:
        raise DataError(f"file '{path}'", "is empty (zero bytes)", expected="a table with a header and rows")
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _PACKED
    kind = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    try:
        table = _from_file(path, kind, packed, memory_mb, scratch)
    except OSError as error:
        raise DataError(f"file '{path}'", f"cannot be read ({_first(error)})", fix="check that the file is whole") from None
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise DataError(f"file '{path}'", f"is no table ({_first(error)})", expected=f"what its ending '{kind}' says") from None
    if not table.names:
        raise DataError(f"file '{path}'", "has no columns", expected="a table with a header and rows")
    table.name, table.base = path.name, path.parent
    return table


def _from_file(path: Path, kind: str, packed: bool, memory_mb: float, scratch: Path | None) -> Table:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1" or kind in (".parquet", ".pq"):
        return _parquet(path, memory_mb)
    if kind in _LINES:
        return _json_lines(path)
    if kind in _TEXT:
        return _csv(path, _TEXT[kind], packed, memory_mb, scratch)
    if kind in (".arrow", ".feather", ".ipc"):
        return Table(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    raise DataError(
        f"file '{path}'",
        f"has the ending '{''.join(path.suffixes) or 'none'}'",
        expected="a table: .csv, .tsv, .parquet or .jsonl, also with .gz or .zst",
    )


def _class_folders(path: Path) -> Table:
    files, labels = [], []
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for file in sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")):
            files.append(f"{folder.name}/{file.name}")
            labels.append(folder.name)
    if not files:
        raise DataError(f"folder '{path}'", "holds no files in folders", expected="a table file, or one folder of files per class")
    return Table(pa.table({"file": files, "label": labels}), path.name, path)


def _parquet(path: Path, memory_mb: float) -> Table:
    try:
        return Table(pyarrow.parquet.read_table(path, memory_map=path.stat().st_size > memory_mb * 2**20))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"file '{path}'", f"cannot be read as Parquet ({_first(error)})", fix="write the file again") from None


def _json_lines(path: Path) -> Table:
    with pa.input_stream(str(path), compression="detect") as stream:
        text = _text(path, stream)
    rows: list[dict[str, Any]] = []
    refused: list[tuple[int, str]] = []
    # a file may hold one list of objects instead
    for number, line in enumerate([text] if text.lstrip().startswith("[") else text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            refused.append((number, f"not JSON ({error})"))
            continue
        if number == 1 and isinstance(row, list) and all(isinstance(r, dict) for r in row):
            rows += row
        elif isinstance(row, dict):
            rows.append(row)
        else:
            refused.append((number, "not an object"))
    if len(refused) > len(rows):
        raise DataError(f"file '{path}'", f"line {refused[0][0]} is {refused[0][1]}", expected="JSON Lines: one object per line")
    return Table(_from_memory(rows), notes=_refused_notes(refused), refused_rows=refused)


def _text(path: Path, stream: Any) -> str:
    data = stream.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"file '{path}'", f"is not UTF-8 (byte {error.start})", expected="JSON Lines in UTF-8") from None


def _csv(path: Path, delimiter: str | None, packed: bool, memory_mb: float, scratch: Path | None) -> Table:
    notes: list[str] = []
    encoding = _encoding(path, packed)
    if encoding == "cp1252":
        notes.append(f"{path.name} is not UTF-8 and is read as Windows-1252 (Latin-1)")
    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(_HEAD).decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    if not head.strip():
        raise DataError(f"file '{path}'", "holds nothing but white space", expected="a table with a header and rows")
    guessed = _delimiter(head, delimiter or ",")
    if guessed != (delimiter or ","):
        notes.append(f"{path.name} is separated by {guessed!r}")
    names, above, ends = _header(head, guessed, path, notes)
    if ends:
        return Table(pa.table({n: pa.array([], pa.string()) for n in names}), notes=notes)
    refused: list[tuple[int, str]] = []

    def bad_row(row: Any) -> str:
        refused.append((row.number or 0, f"{row.actual_columns} cells where the header has {row.expected_columns}"))
        return "skip"

    def parsed(block: int) -> pa.Table:
        refused.clear()
        reader = pyarrow.csv.open_csv(
            pa.input_stream(str(path), compression="detect"),
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=above, skip_rows_after_names=1, encoding=encoding, use_threads=False, block_size=block
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=guessed, newlines_in_values=True, invalid_row_handler=bad_row),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={n: pa.string() for n in names}, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True
            ),
        )
        large = packed or path.stat().st_size > memory_mb * 2**20
        return _laid_out(reader, reader.schema, scratch) if large else reader.read_all()

    try:
        try:
            arrow = parsed(_BLOCK)
        except pa.ArrowInvalid as error:
            if "straddl" not in str(error):
                raise
            arrow = parsed(_LONG)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"file '{path}'", f"cannot be read as CSV ({_first(error)})", fix="check quotes and delimiter, or write Parquet"
        ) from None
    return Table(arrow, notes=notes + _refused_notes(refused), refused_rows=refused)


def _laid_out(batches: Iterable[pa.RecordBatch], schema: pa.Schema, scratch: Path | None) -> pa.Table:
    """Record batches as an Arrow file that is memory-mapped: flat memory however long the table is."""
    folder = scratch or Path(tempfile.mkdtemp(prefix="polyfuse-"))
    handle, name = tempfile.mkstemp(dir=folder, suffix=".arrow")
    try:
        with open(handle, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    except (pa.ArrowInvalid, OSError):
        os.unlink(name)
        raise
    return pa.ipc.open_file(pa.memory_map(name)).read_all()


def _encoding(path: Path, packed: bool) -> str:
    decoder = encodings.getincrementaldecoder("utf-8")()
    with pa.input_stream(str(path), compression="detect") as stream:
        first = True
        while block := stream.read(2**20):
            if first and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                return "utf-16"
            first = False
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return "cp1252"
    return "utf-8"


def _delimiter(head: str, usual: str) -> str:
    """The one of , ; tab | that cuts the first lines most evenly; the usual one unless another is clearly right."""
    lines = [line for line in head.split("\n")[:20] if line.strip()][:-1] or head.split("\n")[:1]

    def evenness(candidate: str) -> tuple[bool, int]:
        counts = [_unquoted(line).count(candidate) for line in lines]
        return (len(set(counts)) == 1 and counts[0] > 0, counts[0])

    if evenness(usual)[1] > 0:
        return usual
    best = max(",;\t|", key=evenness)
    return best if evenness(best)[1] > 0 else usual


def _unquoted(line: str) -> str:
    return "".join(line.split('"')[::2])


def _header(head: str, delimiter: str, path: Path, notes: list[str]) -> tuple[list[str], int, bool]:
    """-> names, how many empty lines stand above them, and whether the file ends with them."""
    if "\0" in head.split("\n")[0]:
        raise DataError(f"file '{path}'", "is no text: it holds zero bytes", expected="a CSV in UTF-8", fix="write the file again")
    lines = list(io.StringIO(head, newline=""))  # splitlines would cut at other marks too
    above = next(n for n, line in enumerate(lines) if line.strip())
    rows = csv.reader(lines[above:], delimiter=delimiter)
    try:
        names = next(rows)
    except (csv.Error, StopIteration) as error:
        raise DataError(f"file '{path}'", f"has no readable header ({error})", expected="names of the columns in the first line") from None
    ends = len(head) < _HEAD // 4 and not any(line.strip() for line in lines[above + rows.line_num :])
    for at, name in enumerate(names):
        if not name.strip():
            names[at] = f"column_{at + 1}"
            notes.append(f"column {at + 1} of {path.name} has no name and is called 'column_{at + 1}'")
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"column '{twice[0]}'", f"occurs twice in {path.name}", fix="rename one of them")
    return names, above, ends


def _refused_notes(refused: list[tuple[int, str]]) -> list[str]:
    if not refused:
        return []
    listed = "; ".join(f"line {line}: {why}" if line else why for line, why in refused[:_MANY])
    told = "1 row could not be read and is" if len(refused) == 1 else f"{len(refused)} rows could not be read and are"
    return [f"{told} left out: {listed}" + (" ..." if len(refused) > _MANY else "")]


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
