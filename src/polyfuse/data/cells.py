"""How a raw cell gets to `Codec.read`: taken out of the table, its file opened safely, its content given a digest."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import Codec, Column, DataError, did_you_mean
from .table import Table
from .window import WindowIndex, window_cells

_CHUNK = 4096


def raw_values(table: Table, column: Column, rows: np.ndarray | None = None, index: WindowIndex | None = None) -> Iterator[Any]:
    """The raw cells of a column, None for missing; never the whole column in memory at once.

    A column of several sources gives a tuple of one raw value each (None where all are missing); a source that the
    table does not have is missing. In a table cut into windows, a column of sources that is not tabular gives one
    array [T, sources] a window, and every other column its value in the window's target row.
    """
    if index is not None:
        if column.sources and column.role == "input":
            yield from window_cells(table, column, index, rows)
            return
        rows = index.target_row if rows is None else index.target_row[rows]
    if not column.sources:
        yield from _plain(table.column(column.name), rows)
        return
    count = len(table) if rows is None else len(rows)
    each = [_plain(table.column(s), rows) if s in table.names else iter([None] * count) for s in column.sources]
    for values in zip(*each):
        yield None if all(v is None for v in values) else values


def _plain(array: pa.ChunkedArray, rows: np.ndarray | None) -> Iterator[Any]:
    if rows is None:
        for chunk in array.chunks:
            for at in range(0, len(chunk), _CHUNK):
                yield from (None if v == "" else v for v in chunk.slice(at, _CHUNK).to_pylist())
        return
    for at in range(0, len(rows), _CHUNK):
        yield from (None if isinstance(v, str) and v == "" else v for v in array.take(pa.array(rows[at : at + _CHUNK])).to_pylist())


class Opener:
    """Turns the raw cell of a media column into bytes or arrays: the one place that opens a user's files.

    Args:
        base: the folder that paths start from and may not leave; None = the working folder.
        allow_outside: paths may lead anywhere.
        most_bytes: larger files are refused.
    """

    def __init__(self, base: Path | None, allow_outside: bool = False, most_bytes: int = 512 * 2**20):
        self.base = Path(base or Path.cwd())
        self.root = self.base.resolve()
        self._base = str(self.base)
        self.allow_outside, self.most_bytes = allow_outside, most_bytes
        self._folders: dict[str, bool] = {}

    def open(self, raw: Any, codec: Codec) -> Any:
        """What `codec.read` gets: for a media codec the file's bytes in place of its path.

        Raises:
            DataError: no such file, a folder, outside the base folder, empty or too large.
        """
        if not codec.media or raw is None:
            return raw
        if isinstance(raw, str):
            text = raw.strip()
            if text.startswith("["):
                return self._listed(text, codec)
            return self._bytes(text, codec)
        if isinstance(raw, Path):
            return self._bytes(str(raw), codec)
        if isinstance(raw, bytearray | memoryview):
            return bytes(raw)
        if isinstance(raw, dict) and raw.get("array") is None and ("bytes" in raw or "path" in raw):
            return raw["bytes"] if raw.get("bytes") is not None else self.open(raw.get("path"), codec)
        if isinstance(raw, list | tuple) and any(isinstance(v, str | bytes | dict | Path) for v in raw):
            opened = [self.open(v, codec) for v in raw]
            return tuple(opened) if isinstance(raw, tuple) else opened
        if hasattr(raw, "getexif") and hasattr(raw, "convert"):  # a Pillow image
            return np.asarray(raw)
        return raw

    def _listed(self, text: str, codec: Codec) -> Any:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise codec.error(
                f"cannot read {text[:40]!r} as a list ({error})", expected='JSON such as ["a.png", "b.png"] or [1, 2.5]'
            ) from None
        return self.open(found, codec)

    def _bytes(self, text: str, codec: Codec) -> bytes:
        if "://" in text:
            raise codec.error(f"is an address ({text[:80]!r})", expected="a path of a file", fix="download the file first")
        if "\0" in text or len(text) > 4096:
            raise codec.error(f"holds {text[:40]!r}", expected="a path of a file")
        path = os.path.join(self._base, text)
        try:
            about = os.lstat(path)
            link = stat.S_ISLNK(about.st_mode)
            if not self.allow_outside and not self._inside(path, link):
                raise codec.error(f"leads outside the table's folder ({text!r})", fix="move the file, or give --allow-outside")
            if link:
                about = os.stat(path)
            if stat.S_ISDIR(about.st_mode):
                raise codec.error(f"is a folder ({text!r})", expected="a file")
            if not stat.S_ISREG(about.st_mode):
                raise codec.error(f"is no plain file ({text!r})", expected="a file")  # a pipe would wait for ever
            if about.st_size == 0:
                raise codec.error(f"the file {text!r} is empty (zero bytes)")
            if about.st_size > self.most_bytes:
                raise codec.error(
                    f"the file {text!r} has {about.st_size / 2**20:.0f} MB", expected=f"at most {self.most_bytes / 2**20:.0f} MB"
                )
            with open(path, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise codec.error(
                f"there is no file {text!r}", expected=f"a path relative to {self.root.name or self.root}", fix=self._near(Path(path))
            ) from None
        except OSError as error:
            raise codec.error(f"cannot open {text[:80]!r} ({error.strerror})", expected="a readable file") from None

    def _inside(self, path: str, link: bool) -> bool:
        """Whether the path, links followed, lies below the base folder; folders that many cells share are followed once."""
        folder, name = os.path.split(path)
        if link or name in ("", ".", ".."):
            return Path(os.path.realpath(path)).is_relative_to(self.root)
        if folder not in self._folders:
            self._folders[folder] = Path(os.path.realpath(folder)).is_relative_to(self.root)
        return self._folders[folder]

    @staticmethod
    def _near(path: Path) -> str:
        if not path.parent.is_dir():
            return ""
        names = [p.name for _, p in zip(range(1000), path.parent.iterdir())]
        return did_you_mean(path.name, names)


def digest(value: Any) -> bytes:
    """16 bytes that name the content of an opened cell: equal content, equal digest."""
    h = hashlib.blake2b(digest_size=16)
    _feed(h, value)
    return h.digest()


def _feed(h: Any, value: Any) -> None:
    if isinstance(value, bytes):
        h.update(b"b")
        h.update(value)
    elif isinstance(value, str):
        h.update(b"s" + value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, np.ndarray):
        h.update(f"a{value.dtype.str}{value.shape}".encode())
        h.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        h.update(f"{type(value).__name__}{len(value)}".encode())
        for v in value:
            _feed(h, v)
    elif isinstance(value, dict):
        for k in sorted(value, key=str):
            _feed(h, str(k))
            _feed(h, value[k])
    else:
        h.update(f"{type(value).__name__}{value!r}".encode("utf-8", "surrogatepass"))


__all__ = ["DataError", "Opener", "digest", "raw_values"]
