"""look: what each column is, why, and how sure. Every codec is asked whether a column is its own; the surest wins."""

import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..core import Column, DataError, RecipeError, Role, Schema, TabularCodec, Window, codecs, did_you_mean, tasks
from .cells import Opener, digest, raw_values
from .table import Table

_SAMPLE = 2000  # cells of a column that are looked at
_FILES = 25  # media files that are looked for
_ALIKE = 8  # columns in a row whose names differ in a number only are told in one line
_FEW_CLASSES = 20  # whole numbers with at most this many distinct values are classes of a target


@dataclass
class ColumnReport:
    """What `look` found about one column. Counts are of the cells looked at."""

    name: str
    modality: str
    role: Role
    why: str
    sure: float
    seen: int = 0
    missing: int = 0
    refused: int = 0
    distinct: int = 0
    sample: list[str] = field(default_factory=list)


@dataclass
class Looked:
    """The guessed schema and the reasons."""

    schema: Schema
    columns: list[ColumnReport]

    def to_json(self) -> dict[str, Any]:
        return {**self.schema.to_json(), "why": {c.name: vars(c) for c in self.columns}}

    def lines(self) -> list[str]:
        """The report as text, a line a column; many joined or alike columns are told once."""
        rows = [("column", "role", "modality", "sure", "missing", "refused", "why")]
        for (stem, role, modality), run in groupby(self.columns, lambda c: (c.name.rstrip("0123456789"), c.role, c.modality)):
            alike = list(run)
            for c in alike if len(alike) < _ALIKE else ():
                share = f"{c.missing / c.seen:.0%}" if c.seen else "-"
                rows.append((c.name, role, modality, f"{c.sure:.2f}", share, str(c.refused), c.why + _shown(c.sample)))
            if len(alike) >= _ALIKE:
                missing = sum(c.missing for c in alike) / max(sum(c.seen for c in alike), 1)
                why = f"{len(alike)} columns alike; --join '{stem}=vector:{stem}*' makes them one cell"
                sure, refused = min(c.sure for c in alike), sum(c.refused for c in alike)
                rows.append((f"{alike[0].name} .. {alike[-1].name}", role, modality, f"{sure:.2f}", f"{missing:.0%}", str(refused), why))
        widths = [max(len(r[i]) for r in rows) for i in range(6)]
        return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[6]]) for row in rows]

    def write(self, path: str | Path) -> None:
        """schema.json: edit it and give it to `fit`."""
        Path(path).write_text(json.dumps(self.schema.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def schema_from_file(path: str | Path) -> Schema:
    """The schema that `look` wrote."""
    path = Path(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"schema '{path}'", f"cannot be read ({error.strerror})", fix="write one with `polyfuse look TABLE`") from None
    except ValueError as error:
        raise RecipeError(f"schema '{path}'", f"is not JSON ({error})", fix="write one with `polyfuse look TABLE`") from None
    if isinstance(data, dict):
        data.pop("why", None)
    schema = Schema.from_json(data)
    for column in schema.columns:
        if column.role in ("input", "target"):
            codecs.get(column.modality)
    return schema


def look(
    table: Table,
    *,
    target: Iterable[str] = (),
    columns: dict[str, str] | None = None,
    ignore: Iterable[str] = (),
    join: dict[str, tuple[str, list[str]]] | None = None,
    group: str | None = None,
    time: str | None = None,
    split: str | None = None,
    weight: str | None = None,
    window: Window | None = None,
    task: str | None = None,
) -> Looked:
    """Guess the schema of a table.

    Args:
        target: columns to predict.
        columns: {column: modality} that overrules the guess; "ignore" and "id" are roles that may stand there too.
        join: {name: (modality, [columns or globs])}: one cell of several columns.
        group, time, split, weight: columns with these roles.
        task: the task of the target, where it is given.

    Raises:
        RecipeError: a name that is no column, or a modality that does not exist.
    """
    target, ignore, columns, join = list(target), list(ignore), dict(columns or {}), dict(join or {})
    roles: dict[str, Role] = dict.fromkeys(ignore, "ignore")
    roles.update(dict.fromkeys(target, "target"))
    named: tuple[tuple[str | None, Role], ...] = ((group, "group"), (time, "time"), (split, "split"), (weight, "weight"))
    for name, role in named:
        if name:
            _free(name, role, roles)
            roles[name] = role
    for name in [*roles, *(c for c in columns if c not in join)]:
        _known(name, table)
    for name, modality in columns.items():
        if modality == "ignore" or modality == "id":
            _free(name, modality, roles)
            roles[name] = modality  # type: ignore[assignment]
        else:
            codecs.get(modality)
    if window:
        cut: tuple[tuple[str, Role], ...] = ((window.id, "group"), (window.order, "time"))
        for name, role in cut:
            _known(name, table)
            if roles.get(name) == "target":
                _free(name, role, roles)
            roles[name] = role
    joined = {name: (modality, _expanded(patterns, table, name, roles)) for name, (modality, patterns) in join.items()}
    inside = {s for _, sources in joined.values() for s in sources}
    rows = np.unique(np.linspace(0, max(len(table) - 1, 0), min(_SAMPLE, len(table))).astype(np.int64))
    opener = Opener(table.base)
    reports, made = [], []
    for name, (modality, sources) in joined.items():
        codecs.get(modality)
        reports.append(
            ColumnReport(name, modality, roles.get(name, "input"), f"{len(sources)} columns joined: {sources[0]} ... {sources[-1]}", 1.0)
        )
        made.append(Column(name, modality, roles.get(name, "input"), tuple(sources)))
    for name in table.names:
        if name in inside:
            continue
        values = [v for v in raw_values(table, Column(name, ""), rows)]
        report = _column(name, values, roles.get(name), columns.get(name), task, opener)
        reports.append(report)
        made.append(Column(name, report.modality, report.role))
    _name_copies(table, made, reports, rows, set(columns))
    order = {n: i for i, n in enumerate(table.names)}
    pairs = sorted(zip(made, reports), key=lambda p: order.get(p[0].reads[0], 0))
    made = [replace(m, role=r.role) for m, r in pairs]
    return Looked(Schema(tuple(made), window), [r for _, r in pairs])


def _column(name: str, values: list[Any], role: Role | None, forced: str | None, task: str | None, opener: Opener) -> ColumnReport:
    present = [v for v in values if v is not None]
    distinct = len({_key(v) for v in present})
    report = ColumnReport(name, "text", role or "input", "", 0.0, len(values), len(values) - len(present), 0, distinct, _samples(present))
    if role in ("group", "time", "split", "ignore", "id"):
        report.modality, report.why, report.sure = "category", f"declared as {role}", 1.0
        return report
    if role == "weight":
        report.modality, report.why, report.sure = "number", "declared as weight", 1.0
        return report
    if forced and forced not in ("ignore", "id"):
        report.modality, report.why, report.sure = forced, "declared", 1.0
    elif role == "target":
        report.modality, report.why = _target(name, present, distinct, task)
        report.sure = 1.0 if task else 0.9
        if report.modality in ("image", "audio", "video"):
            raise RecipeError(f"target '{name}'", f"holds {report.modality} files", expected="classes, numbers or labels")
    elif not present:
        report.role, report.modality, report.why, report.sure = "ignore", "text", "missing in every row", 1.0
        return report
    elif distinct == 1 and len(present) == len(values) and len(values) > 1:
        report.role, report.modality, report.why, report.sure = "ignore", "category", "the same value in every row", 1.0
        return report
    elif reason := _identifier(name, present, distinct):
        report.role, report.modality, report.why, report.sure = "id", "category", reason, 0.9
        return report
    else:
        claims = {m: codecs.get(m).claims(present) for m in codecs.names()}
        report.modality = max(claims, key=lambda m: claims[m])
        report.sure = claims[report.modality]
        report.why = f"{distinct} distinct values"
        if report.sure <= 0:
            report.modality, report.why = "text", "no modality claims it"
    _try_out(report, present, opener)
    return report


def _target(name: str, present: list[Any], distinct: int, task: str | None) -> tuple[str, str]:
    """-> the target's modality and the reason in words."""
    if not present:
        raise DataError(f"target '{name}'", "is missing in every row", expected="labels", fix="name another --target")
    first = next((v for v in present if v not in ([], "[]")), present[0])
    listed = isinstance(first, list | np.ndarray) or (isinstance(first, str) and first.lstrip().startswith("["))
    if task:
        allowed = tasks.get(task).modalities
        best = "vector" if listed and "vector" in allowed else allowed[0]
        return best, f"task {task}"
    if listed:
        items = first if not isinstance(first, str) else re.findall(r'"', first)
        texts = any(isinstance(v, str) for v in items)
        return ("labels", "lists of labels") if texts else ("vector", "lists of numbers")
    numbers = [n for n in map(_number, present) if n is not None]
    odd = len(present) - len(numbers)  # "NA", or a slip: refused, and the column stays an amount
    if odd <= (0.1 * len(present) if distinct > _FEW_CLASSES else 0) and not any(isinstance(v, bool) for v in present):
        whole = all(float(n).is_integer() for n in numbers) and not odd
        if whole and (distinct <= _FEW_CLASSES or (distinct <= 100 and distinct <= 0.02 * len(present))):
            return "category", f"{distinct} distinct whole numbers: classes; --task regression predicts the amount"
        return "number", f"{distinct} distinct numbers: an amount; --task multiclass takes them as classes"
    for separator in "|;,":
        pieces = [p.strip() for v in present for p in str(v).split(separator)]
        if len(pieces) > 1.2 * len(present) and len(set(pieces)) <= 0.5 * distinct and max(map(len, pieces)) <= 40:
            return "labels", f"several labels in a cell, separated by {separator!r}"
    return "category", f"{distinct} distinct values: classes"


def _identifier(name: str, present: list[Any], distinct: int) -> str:
    """Why a column only tells rows apart, or nothing."""
    if distinct < len(present) or len(present) < 20:
        return ""
    texts = [v for v in present if isinstance(v, str)]
    named = re.search(r"(^|[_\W])(id|uuid|guid|key|index|nr|no)$", name.lower()) or name.lower() in ("unnamed: 0", "column_1")
    numbers = [_number(v) for v in present]
    if all(n is not None and float(n).is_integer() for n in numbers) and named:
        return "whole numbers that differ in every row, and a name like an id's"
    plain = texts and all(not re.search(r"\s|[\\/]|\.\w{2,5}$", t) and not t.startswith(("[", "{")) and len(t) <= 64 for t in texts)
    letters = texts and sum(n is None for n in numbers) > 0.9 * len(numbers)
    dated = texts and sum(bool(re.match(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}", t)) for t in texts) > 0.5 * len(texts)
    if plain and letters and not dated and all(t.isascii() for t in texts):
        return "one word that differs in every row: it tells rows apart and teaches nothing"
    return ""


def _try_out(report: ColumnReport, present: list[Any], opener: Opener) -> None:
    """Read a few cells: how many are refused, and are the files there?"""
    codec = codecs.build(report.modality, report.name)
    step = max(1, len(present) // (_FILES if codec.media else 400))
    tried, first = 0, ""
    for raw in present[::step]:
        tried += 1
        try:
            codec.read(opener.open(raw, codec))
        except DataError as error:
            report.refused += 1
            first = first or error.what
    if report.refused:
        report.why += f"; {report.refused} of {tried} cells tried cannot be read ({first})"
    if isinstance(codec, TabularCodec) or not codec.media:
        return
    if tried and report.refused == tried and report.role == "input":
        report.role, report.sure = "ignore", 0.5
        report.why = f"looks like {report.modality} files, but none can be read ({first})"


def _name_copies(table: Table, columns: list[Column], reports: list[ColumnReport], rows: np.ndarray, forced: set[str]) -> None:
    """An input that is the target under another name would be learned instead of anything else: it is left out, and said."""
    by_name = {r.name: r for r in reports}
    for goal in [c for c in columns if by_name[c.name].role == "target" and not c.sources]:
        truth = [_key(v) for v in raw_values(table, goal, rows)]
        for column in columns:
            report = by_name[column.name]
            if report.role != "input" or column.sources or report.modality in ("image", "audio", "video") or column.name in forced:
                continue
            values = [_key(v) for v in raw_values(table, column, rows)]
            pairs = {(a, b) for a, b in zip(values, truth) if a is not None and b is not None}
            known = sum(a is not None and b is not None for a, b in zip(values, truth))
            one_to_one = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
            if known >= 20 and one_to_one and 1 < len(pairs) < 0.9 * known or (known >= 20 and all(a == b for a, b in pairs)):
                report.role, report.sure = "ignore", 0.9
                report.why = (
                    f"a copy of the target '{goal.name}'; declare it with --column {column.name}={report.modality} to use it all the same"
                )


def _free(name: str, role: str, roles: dict[str, Role]) -> None:
    """A column has one role; only what is ignored may be given another."""
    if roles.get(name, "ignore") != "ignore":
        raise RecipeError(f"column '{name}'", f"is to be both {roles[name]} and {role}", expected="one role", fix="name another column")


def _expanded(patterns: list[str], table: Table, name: str, roles: dict[str, Role]) -> list[str]:
    """The columns meant; a glob passes over those with a role of their own, such as the target."""
    out: list[str] = []
    for pattern in patterns:
        if any(ch in pattern for ch in "*?["):
            found = sorted((n for n in fnmatch.filter(table.names, pattern) if roles.get(n, "ignore") == "ignore"), key=_natural)
            if not found:
                raise RecipeError(f"--join {name}", f"no column is like '{pattern}'", expected=f"some of {', '.join(table.names[:20])}")
            out += found
        else:
            _known(pattern, table)
            _free(pattern, f"part of '{name}'", roles)
            out.append(pattern)
    if not out:
        raise RecipeError(f"--join {name}", "names no columns", expected="at least one column or glob")
    return list(dict.fromkeys(out))


def _natural(text: str) -> list[Any]:
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)]


def _known(name: str, table: Table) -> None:
    if name not in table.names:
        raise RecipeError(
            f"column '{name}'",
            f"is not in {table.name}",
            expected=f"one of {', '.join(table.names[:40])}",
            fix=did_you_mean(name, table.names),
        )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _key(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else digest(value)


def _samples(present: list[Any]) -> list[str]:
    return [re.sub(r"\s+", " ", str(v))[:40] for v in present[:3]]


def _shown(sample: list[str]) -> str:
    return f"  e.g. {' | '.join(sample)}" if sample else ""
