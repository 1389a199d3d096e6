"""Rows to a batch without a store: the way of a prediction. The same read and clean as in training."""

from typing import Any

import torch

from ..core import Batch, Cells, Codec, Column, DataError, TableCodec
from .cells import Opener

Warnings = list[list[str]]


def raw_of(row: dict[str, Any], column: Column) -> Any:
    """The raw cell of a column in a row given as a dict: by its own name, or a tuple of one value per source; None = missing."""
    if not column.sources or column.name in row:
        return _given(row.get(column.name))
    values = [_given(row.get(source)) for source in column.sources]
    return None if all(v is None for v in values) else tuple(values)


def _given(raw: Any) -> Any:
    return None if isinstance(raw, float) and raw != raw else raw  # NaN is how data frames say missing


def assemble(raws: dict[str, list[Any]], size: int, views: dict[str, Codec], opener: Opener) -> tuple[Batch, Warnings]:
    """Read and clean raw cells {column: one per row} into the batch of the views.

    A cell that cannot be read is absent, and its row gets a warning that says why.
    """
    warnings: Warnings = [[] for _ in range(size)]
    cells = {}
    for view, codec in views.items():
        if isinstance(codec, TableCodec):
            packed: list[dict[str, Any]] = [{} for _ in range(size)]
            for member in codec.members:
                for row, value in _read(raws.get(member.column), member, opener, warnings):
                    packed[row][member.column] = value
            rows = [i for i, p in enumerate(packed) if p]
            values: list[Any] = [packed[i] for i in rows]
        else:
            found = _read(raws.get(view), codec, opener, warnings)
            rows, values = [row for row, _ in found], [value for _, value in found]
        cells[view] = Cells(codec.collate(values) if values else {}, torch.tensor(rows, dtype=torch.long), size)
    return Batch(cells, size), warnings


def truth(raws: list[Any], codec: Codec, opener: Opener) -> tuple[Cells, Warnings]:
    """The Cells of a target column."""
    warnings: Warnings = [[] for _ in raws]
    found = _read(raws, codec, opener, warnings)
    x = codec.collate([v for _, v in found]) if found else {k: v[:0] for k, v in codec.collate([codec.filler()]).items()}
    return Cells(x, torch.tensor([r for r, _ in found], dtype=torch.long), len(raws)), warnings


def _read(raws: list[Any] | None, codec: Codec, opener: Opener, warnings: Warnings) -> list[tuple[int, Any]]:
    out = []
    for row, raw in enumerate(raws or ()):
        if raw is None:
            continue
        try:
            value = codec.read(opener.open(raw, codec))
            if value is not None:
                out.append((row, codec.clean(value)))
        except DataError as error:
            warnings[row].append(f"{error} The cell is treated as missing.")
    return out
