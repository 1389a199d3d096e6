"""The prepared store: every cell is read, decoded and cleaned once, into memory-mapped files keyed by content.

An entry is a folder named by a hash of what went in: the bytes of the cells, the codec with its version, options and
state. It is written beside its place and renamed into it, so that two processes may build it at once and a
half-written one is never seen. Cells of varying length lie flat with offsets; a cell that occurs in many rows is
stored once. Knows codecs only by their contract.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..core import Cells, Codec, DataError, Value

FORMAT = 1
_CHUNK = 32  # cells one thread works on at a time
_BUFFER = 1 << 20  # bytes of a file that are written at a time


@dataclass
class Prepared:
    """One column (or view) of a table, ready to be read: `cells(rows)` gives the collated cells of any rows.

    Attributes:
        index: [rows of the table] int64: which stored unit each row has; -1 = missing or refused.
        arrays: {name: all units' values, one after the other}.
        offsets: [units + 1] where each unit starts, or None where all have the same shape.
        refused: {row: why}: cells that could not be read.
        key: a name for this content: equal where cells and codec are.
    """

    index: np.ndarray
    arrays: dict[str, np.ndarray]
    offsets: np.ndarray | None
    refused: dict[int, str] = field(default_factory=dict)
    key: str = ""

    @property
    def present(self) -> np.ndarray:
        return self.index >= 0

    def cells(self, rows: np.ndarray) -> Cells:
        units = self.index[rows]
        at = np.flatnonzero(units >= 0)
        return Cells(self.gather(units[at]), torch.from_numpy(at), len(rows))

    def gather(self, units: np.ndarray) -> dict[str, Tensor]:
        """{name: [P, ...]} of stored units, equal to `Codec.collate` of their values."""
        if self.offsets is None:
            return {k: torch.from_numpy(v[units]) for k, v in self.arrays.items()}
        starts = self.offsets[units]
        lengths = self.offsets[units + 1] - starts
        longest = max(int(lengths.max()) if len(units) else 1, 1)
        steps = np.arange(longest)
        mask = steps[None, :] < lengths[:, None]
        where = np.where(mask, starts[:, None] + steps[None, :], 0)
        out = {}
        for name, flat in self.arrays.items():
            x = flat[where] if len(flat) else np.zeros((*where.shape, *flat.shape[1:]), flat.dtype)
            if not mask.all():
                x[~mask] = 0
            out[name] = torch.from_numpy(x)
        out["mask"] = torch.from_numpy(mask)
        return out


class Features(Prepared):
    """What an encoder made of a view's cells, in their place: {"features" [P, N, F] float32 or float16, "mask" [P, N]}."""


@dataclass
class PreparedTable:
    """The view `table`: its three arrays for every row of the table (see `core.TableCodec`)."""

    arrays: dict[str, np.ndarray]

    @cached_property
    def key(self) -> str:
        """A name for this content."""
        h = hashlib.blake2b(digest_size=20)
        for name, array in sorted(self.arrays.items()):
            h.update(f"{name}{array.shape}".encode())
            h.update(np.ascontiguousarray(array).data if array.size else b"")
        return h.hexdigest()

    @property
    def index(self) -> np.ndarray:
        """[rows]: every row is a unit of its own; -1 where the whole view is missing."""
        return np.where(self.present, np.arange(len(self.arrays["present"])), -1)

    @property
    def present(self) -> np.ndarray:
        return np.any(self.arrays["present"], axis=1)

    def gather(self, units: np.ndarray) -> dict[str, Tensor]:
        return {k: torch.from_numpy(v[units]) for k, v in self.arrays.items()}

    def cells(self, rows: np.ndarray) -> Cells:
        present = self.arrays["present"][rows]
        at = np.flatnonzero(present.any(1))
        x = {k: torch.from_numpy(v[rows[at]]) for k, v in self.arrays.items()}
        return Cells(x, torch.from_numpy(at), len(rows))


class Store:
    """The folder of all entries.

    Args:
        root: where; by default the user's cache folder, or POLYFUSE_CACHE.
        limit_gb: the least recently used entries go when all together take more; POLYFUSE_CACHE_GB, 20 by default.
    """

    def __init__(self, root: Path | str | None = None, limit_gb: float | None = None):
        from platformdirs import user_cache_path

        self.notes: list[str] = []
        self.limit = int(float(limit_gb if limit_gb is not None else os.environ.get("POLYFUSE_CACHE_GB", 20)) * 2**30)
        self.root = Path(root or os.environ.get("POLYFUSE_CACHE") or user_cache_path("polyfuse"))
        self._used: set[Path] = set()
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=self.root).close()
        except OSError as error:
            self.notes.append(f"cannot write to the cache {self.root} ({error.strerror}): using a temporary folder for this run")
            self.root = Path(tempfile.mkdtemp(prefix="polyfuse-"))
            weakref.finalize(self, shutil.rmtree, self.root, True)

    def entries(self) -> list[dict[str, Any]]:
        """What is stored, least recently used first: [{"key", "path", "bytes", "used", "column", "cells"}]."""
        found = []
        for meta in self.root.glob("??/*/meta.json"):
            try:
                info = json.loads(meta.read_text("utf-8"))
                found.append(
                    {
                        "key": meta.parent.name,
                        "path": meta.parent,
                        "used": meta.stat().st_mtime,
                        "bytes": sum(f.stat().st_size for f in meta.parent.iterdir()),
                        "column": info.get("column", ""),
                        "cells": info.get("units", 0),
                    }
                )
            except (OSError, ValueError):
                continue  # another process is clearing it, or it is not ours
        return sorted(found, key=lambda e: e["used"])

    def clear(self) -> int:
        """Remove everything, half-written entries too; returns the bytes freed."""
        freed = sum(e["bytes"] for e in self.entries())
        for folder in [*self.root.glob("??"), *self.root.glob("tmp-*"), self.root / "starts"]:
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def trim(self) -> None:
        """Keep the size limit: the least recently used entries go first, never one this process uses."""
        entries = self.entries()
        total = sum(e["bytes"] for e in entries)
        for entry in entries:
            if total <= self.limit:
                return
            if entry["path"] not in self._used:
                shutil.rmtree(entry["path"], ignore_errors=True)
                total -= entry["bytes"]
        self._sweep()

    def _sweep(self) -> None:
        for folder in self.root.glob("tmp-*"):  # left by a killed process
            try:
                if time.time() - folder.stat().st_mtime > 86400:
                    shutil.rmtree(folder, ignore_errors=True)
            except OSError:
                continue

    def find(self, key: str) -> Path | None:
        folder = self.root / key[:2] / key
        if not (folder / "meta.json").is_file():
            return None
        try:
            os.utime(folder / "meta.json")
        except OSError:
            pass  # a read-only cache that is already filled may be used
        self._used.add(folder)
        return folder

    def begun(self, start: str) -> bool:
        """Whether something that begins like this was ever prepared here."""
        return (self.root / "starts" / start).is_file()

    def write(
        self, start: str, key: Callable[[], str], column: str, codec: Codec, values: Iterable[tuple[bytes, Value | DataError]]
    ) -> Path:
        """Build an entry from (digest, cleaned value or the reason it is refused), and put it in its place.

        Args:
            start: by which `begun` will know that it is worth looking for.
            key: the entry's name; asked for when all values were taken.
        """

        def fill(folder: Path) -> None:
            _write_units(folder, column, codec, values)
            (self.root / "starts").mkdir(exist_ok=True, mode=0o700)
            (self.root / "starts" / start).touch()

        return self.put(fill, key, tries=1)  # values are there once

    def put(self, fill: Callable[[Path], None], key: Callable[[], str], *, tries: int = 3) -> Path:
        """An entry made by `fill`, which writes meta.json among others into the folder it is given; it appears when it is whole.

        Args:
            key: the entry's name; asked for after `fill`.
            tries: how often it is made where somebody clears the store under way.
        """
        folder, temporary = None, None
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.root))
            fill(temporary)
            folder = self.root / key()[:2] / key()
            folder.parent.mkdir(exist_ok=True, mode=0o700)
            if folder.exists() and not (folder / "meta.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # what a clearing that was cut short left
            os.replace(temporary, folder)
        except (OSError, SafetensorError) as error:
            if folder is None or not (folder / "meta.json").is_file():  # else: another process was first, and its entry is as good
                if isinstance(error, FileNotFoundError) or (temporary is not None and not temporary.is_dir()):
                    if tries > 1:
                        return self.put(fill, key, tries=tries - 1)
                    raise DataError(f"store {self.root}", "was cleared while it was written to", fix="run it again") from None
                raise DataError(
                    f"store {self.root}",
                    f"cannot be written ({getattr(error, 'strerror', error)})",
                    expected="room and the right to write",
                    fix="free room, `polyfuse cache --clear`, or set POLYFUSE_CACHE to another folder",
                ) from None
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        self._used.add(folder)
        self.trim()
        return folder

    def check_room(self, column: str, needed: int) -> None:
        """Stop before the work starts where it could not end."""
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise DataError(
                f"column '{column}'",
                f"needs about {size_text(needed)} in {self.root}, which has {size_text(free)} free",
                fix="free room, `polyfuse cache --clear`, or set POLYFUSE_CACHE to another folder",
            )
        if needed > self.limit:
            raise DataError(
                f"column '{column}'",
                f"needs about {size_text(needed)}, more than the store's limit of {size_text(self.limit)}",
                fix="raise POLYFUSE_CACHE_GB",
            )


def key_of(codec: Codec, options: dict[str, Any], digests: Iterable[bytes]) -> str:
    """The name of an entry: a hash of codec, options, state and the cells' digests in order."""
    h = hashlib.blake2b(digest_size=20)
    about = [FORMAT, type(codec).__name__, codec.version, options, codec.state()]
    h.update(json.dumps(about, sort_keys=True, default=str).encode())
    for digest in digests:
        h.update(digest)
    return h.hexdigest()


def open_entry(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None, dict[bytes, str], list[bytes]]:
    """-> arrays, offsets, refused {digest: why}, digests of the stored units in order."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    arrays = {}
    for name, about in meta["arrays"].items():
        shape = tuple(about["shape"])
        path = folder / f"{about['file']}.bin"
        arrays[name] = np.asarray(np.memmap(path, about["dtype"], "r", shape=shape)) if np.prod(shape) else np.zeros(shape, about["dtype"])
    offsets = np.load(folder / "offsets.npy") if meta["ragged"] else None
    raw = (folder / "digests.bin").read_bytes()
    digests = [raw[i : i + 16] for i in range(0, len(raw), 16)]
    return arrays, offsets, {bytes.fromhex(k): v for k, v in meta["refused"].items()}, digests


def _write_units(folder: Path, column: str, codec: Codec, values: Iterable[tuple[bytes, Value | DataError]]) -> None:
    files: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}
    offsets, refused, count = [0], {}, 0
    try:
        with open(folder / "digests.bin", "wb", _BUFFER) as digests:
            for digest, value in values:
                if isinstance(value, DataError):
                    refused[digest.hex()] = str(value)
                    continue
                for name, array in value.items():
                    array = np.ascontiguousarray(array)
                    tail = list(array.shape[1:] if codec.ragged else array.shape)
                    if name not in files:
                        files[name] = open(folder / f"{len(files)}.bin", "wb", _BUFFER)
                        about[name] = {"file": str(len(files) - 1), "dtype": array.dtype.str, "tail": tail}
                    assert about[name]["tail"] == tail and about[name]["dtype"] == array.dtype.str, (column, name, tail, about[name])
                    files[name].write(array.data if array.size else b"")
                offsets.append(offsets[-1] + (len(next(iter(value.values()))) if codec.ragged else 1))
                digests.write(digest)
                count += 1
    finally:
        for file in files.values():
            file.close()
    if not count:  # a column without one readable cell still has the shape of its filler, with no rows
        for n, (name, array) in enumerate(codec.filler().items()):
            about[name] = {"file": str(n), "dtype": array.dtype.str, "tail": list(array.shape[1:] if codec.ragged else array.shape)}
            (folder / f"{n}.bin").touch()
    arrays = {k: {"file": v["file"], "dtype": v["dtype"], "shape": [offsets[-1], *v["tail"]]} for k, v in about.items()}
    if codec.ragged:
        np.save(folder / "offsets.npy", np.asarray(offsets, np.int64))
    meta = {
        "format": FORMAT,
        "column": column,
        "codec": codec.name,
        "units": count,
        "ragged": codec.ragged,
        "arrays": arrays,
        "refused": refused,
    }
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), "utf-8")


def in_order(work: Callable[[list[Any]], list[Any]], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """work(chunk) over chunks of items on several threads; results in order, a bounded number under way."""
    items = iter(items)
    chunks = iter(lambda: list(islice(items, _CHUNK)), [])
    if threads <= 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    with ThreadPoolExecutor(threads) as executor:
        waiting = [executor.submit(work, chunk) for chunk in islice(chunks, 2 * threads)]
        while waiting:
            done = waiting.pop(0).result()
            waiting += [executor.submit(work, chunk) for chunk in islice(chunks, 1)]
            yield from done


def size_text(count: int) -> str:
    """Bytes as a person reads them.

    Example:
        >>> size_text(3 * 2**20)
        '3.0 MB'
    """
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError
