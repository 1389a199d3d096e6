"""What a bundle is worth and what it costs: score, numbers, bytes, time for one row."""

import statistics
import tempfile
import time as clock
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..data import Table, raw_values, windows

_CALLS = 15  # one-row predictions that are timed
_WARM = 2  # before these


def footprint(bundle: Bundle, table: Table, allow_outside: bool = False) -> dict[str, Any]:
    """{"parts", "parameters", "bytes", "latency_ms"}: what answers, its numbers, its folder, and the time that one row takes."""
    return {
        "parts": bundle.card.get("model", {}).get("fusion", ""),
        "parameters": bundle.model.size,
        "bytes": disk(bundle),
        "latency_ms": latency(bundle, table, allow_outside),
    }


def disk(bundle: Bundle) -> int:
    """Bytes of its folder."""
    with tempfile.TemporaryDirectory(prefix="polyfuse-") as folder:
        return sum(f.stat().st_size for f in bundle.save(Path(folder) / "bundle").iterdir())


def latency(bundle: Bundle, table: Table, allow_outside: bool = False) -> float:
    """Milliseconds that `predict_rows` takes for one row, the median over a few of the table's rows."""
    cut = windows(table, bundle.schema.window) if bundle.schema.window else None
    rows = np.arange(min(_CALLS, len(table) if cut is None else len(cut)))
    there = [c for c in bundle.schema.having("input") if any(r in table.names for r in c.reads)]
    cells = {c.name: list(raw_values(table, c, rows, cut)) for c in there if c.sources or c.name in table.names}
    took = []
    for call in range(_WARM + _CALLS):
        row = {name: values[call % len(rows)] for name, values in cells.items()}
        start = clock.perf_counter()
        bundle.predict_rows([row], base=table.base, allow_outside=allow_outside)
        took.append(1000 * (clock.perf_counter() - start))
    return statistics.median(took[_WARM:])


def lines(found: dict[str, Any]) -> list[str]:
    """What was distilled, as a table of before and after: the card's entry "distilled" in words.

    Args:
        found: "before" and "after" (each as of `footprint`, with "score" {target: {"metric", "value", "low", "high"}}),
            "difference" {target: {"metric", "value", "low", "high"}}, "scored_on" and "notes".
    """
    before, after = found["before"], found["after"]
    rows = [("", "before", "after")]
    for target, score in before["score"].items():
        rows.append((f"{score['metric']} of '{target}'", _figure(score), _figure(after["score"][target])))
    rows += [
        ("parameters", f"{before['parameters']:,}", f"{after['parameters']:,}"),
        ("on disk", f"{before['bytes'] / 1e6:.2f} MB", f"{after['bytes'] / 1e6:.2f} MB"),
        ("one row", f"{before['latency_ms']:.1f} ms", f"{after['latency_ms']:.1f} ms"),
    ]
    wide = [max(len(row[i]) for row in rows) for i in range(3)]
    table = [f"  {a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
    lost = [
        f"'{target}': {d['metric']} changes by {_figure(d, sign='+')} (above zero is better)" for target, d in found["difference"].items()
    ]
    return [f"scored on {found['scored_on']}", *table, *lost, *(f"note: {line}" for line in found["notes"])]


def _figure(figure: dict[str, Any], sign: str = "") -> str:
    around = f" [{figure['low']:{sign}.4g}, {figure['high']:{sign}.4g}]" if figure.get("low") is not None else ""
    return f"{figure['value']:{sign}.4g}{around}"
