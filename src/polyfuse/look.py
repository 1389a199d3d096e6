"""look: what each column of a table is, and why."""

from pathlib import Path
from typing import Any

from . import parts as _parts  # noqa: F401  fills the registries
from .data import Looked, parse_window, read
from .data import look as infer


def look(
    rows: Any,
    target: str | list[str] | None = None,
    *,
    columns: dict[str, str] | None = None,
    ignore: list[str] | None = None,
    join: dict[str, tuple[str, list[str]]] | None = None,
    window: Any = None,
    task: str | None = None,
    out: str | Path | None = None,
) -> Looked:
    """Guess each column's modality and role, with the reason, and write the schema where `out` says.

    Args:
        rows: a path or anything in memory that is a table (see `fit`).
        target: the column or columns to predict, if known.
        columns: {column: modality}, overruling the guess.
        out: where schema.json goes; edit it and give it to `fit` as `schema`.
    """
    table = read(rows)
    window = parse_window(window) if isinstance(window, str) else window
    targets = [target] if isinstance(target, str) else list(target or [])
    looked = infer(table, target=targets, columns=columns or {}, ignore=ignore or [], join=join or {}, window=window, task=task)
    if out is not None:
        looked.write(out)
    return looked
