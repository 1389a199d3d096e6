"""What `predict` gives: one answer per row, as dicts, a table or a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .data import write


class Predictions(list):
    """One dict per row: {"answer": {target: {...}}, "warnings": [...], "error": None or why there is no answer}.

    Attributes:
        notes: what holds for all rows, e.g. a column that is not in the table.
        carried: {column: values}: ids of the rows, in order.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], notes: Sequence[str] = (), carried: dict[str, list[Any]] | None = None):
        super().__init__(rows)
        self.notes, self.carried = list(notes), carried or {}

    def values(self, target: str | None = None) -> list[Any]:
        """The plain answers of one target (the only one unless named)."""
        return [r["answer"][target or next(iter(r["answer"]))]["value"] if r["answer"] else None for r in self]

    def table(self) -> pa.Table:
        """One row each: ids, `TARGET`, `TARGET probability`, `TARGET probability CLASS` ..., `warnings`, `error`."""
        columns: dict[str, list[Any]] = {k: list(v) for k, v in self.carried.items()}
        flat = [_flat(r["answer"]) for r in self]
        for name in dict.fromkeys(k for row in flat for k in row):
            columns[name] = [row.get(name) for row in flat]
        columns["warnings"] = [" | ".join(r["warnings"]) or None for r in self]
        columns["error"] = [r["error"] for r in self]
        return pa.table(columns)

    def to_pandas(self) -> Any:
        return self.table().to_pandas()

    def write(self, path: str | Path) -> None:
        """To .csv, .parquet or .jsonl."""
        write(self.table(), path)


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for target, found in answer.items():
        out[target] = found["value"]
        probability = found.get("probability")
        if isinstance(probability, dict):
            if isinstance(found["value"], str):
                out[f"{target} probability"] = probability.get(found["value"])
            out |= {f"{target} probability {k}": p for k, p in probability.items()}
        for level, value in (found.get("quantiles") or {}).items():
            out[f"{target} quantile {level}"] = value
    return out
