"""From finished runs to a leaderboard and a verdict in words."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import Cells, DataError, Task
from ..core.intervals import bootstrap, once, ratio
from ..data import Fold
from ..evaluate.metrics import affordable, figures
from ..evaluate.paired import Paired, corrected_t, holm
from ..evaluate.picture import draw_beside, draw_comparison
from .plan import BASELINE, Method
from .runs import Result

LEVEL = 0.05  # of the tests
JOINED = ("pair", "fusion")  # kinds of methods that see more than one view
_FEW = 5  # runs a method below which hardly any gain can be shown
_NAMED = 12  # methods that the verdict lists by name
Place = tuple[int, int]
"""(seed, fold) of a run."""


@dataclass
class Standing:
    """One row of the leaderboard. Differences are oriented: above zero is better, whichever way the metric points.

    Attributes:
        name, kind, views, fusion: the method (see `Method`).
        runs, of: how many of its runs are finished, and how many there are.
        score: mean over runs of the main target's metric; low, high its 95 % bootstrap interval over rows.
        spread: standard deviation over runs.
        over_single, over_baseline: the difference to the best single view and to `concat` over the runs both have.
        p_single, p_baseline: its p-value, corrected for shared training rows and for the number of fusions.
        parameters, seconds, latency_ms, robustness: means over runs.
        metrics: {target: {metric: mean over runs}}.
    """

    name: str
    kind: str
    views: tuple[str, ...]
    fusion: str
    runs: int
    of: int
    score: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    over_single: Paired | None = None
    over_baseline: Paired | None = None
    p_single: float | None = None
    p_baseline: float | None = None
    parameters: float = math.nan
    seconds: float = math.nan
    latency_ms: float = math.nan
    robustness: float = math.nan
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.runs == self.of


@dataclass
class Comparison:
    """What `compare` finds.

    Attributes:
        target, metric, higher: the main target, its metric, whether more of it is better.
        rows: the leaderboard, best first; methods that were not reached come last.
        verdict: sentences.
        seeds, folds, split: the design; `split` in words.
        note: what the reader must know (a budget that ended it), or "".
    """

    target: str
    metric: str
    higher: bool
    rows: list[Standing]
    verdict: list[str]
    seeds: int
    folds: int
    split: str
    note: str = ""

    def __getitem__(self, name: str) -> Standing:
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"{name!r}: the methods are {', '.join(found)}")
        return found[name]

    @property
    def best_single(self) -> Standing | None:
        return _first(self.rows, "single")

    @property
    def best(self) -> Standing | None:
        """The best method that joins views and has all its runs."""
        return _first([r for r in self.rows if r.whole], *JOINED)

    def lines(self) -> list[str]:
        """The leaderboard as text, then the verdict."""
        head = (
            "",
            self.metric,
            "95 % interval",
            "over best single",
            "p",
            f"over {BASELINE}",
            "p",
            "parameters",
            "s",
            "ms a row",
            "robust",
            "runs",
        )
        table = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[c]) for line in table) for c in range(len(head))]
        told = [
            "  ".join(cell.ljust(w) if not c else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths))).rstrip() for line in table
        ]
        return [*told, "", *self.verdict, *([self.note] if self.note else [])]

    def to_json(self) -> dict[str, Any]:
        return _finite(asdict(self))

    def table(self) -> list[dict[str, Any]]:
        """One flat dict a method, as in leaderboard.csv."""
        flat = []
        for row in self.rows:
            entry = {k: v for k, v in asdict(row).items() if k not in ("over_single", "over_baseline", "metrics", "views")}
            entry["views"] = " + ".join(row.views)
            for name, found in (("over_single", row.over_single), ("over_baseline", row.over_baseline)):
                entry |= {name: found and found.value, f"{name}_low": found and found.low, f"{name}_high": found and found.high}
            entry |= {f"{target} {metric}": value for target, metrics in row.metrics.items() for metric, value in metrics.items()}
            flat.append(_finite(entry))
        return flat

    def write(self, folder: str | Path) -> Path:
        """leaderboard.csv, comparison.json and, with matplotlib, comparison.png."""
        folder = Path(folder)
        rows = self.table()
        names = list(dict.fromkeys(k for row in rows for k in row))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            (folder / "comparison.json").write_text(json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
            draw_beside(draw_comparison, self, folder / "comparison.png")
        except OSError as error:
            raise DataError(f"folder '{folder}'", f"cannot be written ({error.strerror})", fix="choose another") from None
        return folder


def standings(
    methods: Sequence[Method],
    found: Mapping[str, Mapping[Place, Result]],
    folds: Mapping[Place, Fold],
    task: Task,
    truth: Cells,
    target: str,
    draws: int = 1000,
) -> list[Standing]:
    """The leaderboard of these runs, best first.

    Args:
        found: {method: {(seed, fold): its result}}.
        folds: every (seed, fold) there is.
        task: of the main target, untempered: outs are tempered already.
        truth: the main target of all rows of the table.
        draws: of the bootstrap; 0 leaves the intervals out, for a look while it runs.
    """
    rows = []
    found = {m.name: {place: r for place in folds if (r := found.get(m.name, {}).get(place))} for m in methods}
    for method in methods:
        results = found[method.name]
        row = Standing(method.name, method.kind, method.views, method.fusion["name"], len(results), len(folds))
        if results:
            scores = np.array([r.score for r in results.values() if math.isfinite(r.score)])
            row.score = float(scores.mean()) if len(scores) else math.nan
            row.spread = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
            row.metrics = _means([r.metrics for r in results.values()])
            for name in ("parameters", "seconds", "latency_ms", "robustness"):
                values = [r.about[name] for r in results.values() if name in r.about]
                setattr(row, name, float(np.mean(values)) if values else math.nan)
            if draws:
                row.low, row.high = _interval(results, task, truth, target, draws, row.score)
        rows.append(row)
    sign = 1.0 if task.higher else -1.0
    rows.sort(key=lambda r: (not r.runs, -sign * r.score if math.isfinite(r.score) else math.inf))
    against = _design(folds, task)
    for reference, difference, p in (
        (_first(rows, "single"), "over_single", "p_single"),
        (next((r for r in rows if r.name == BASELINE and r.runs), None), "over_baseline", "p_baseline"),
    ):
        if reference is None:
            continue
        for row in rows:
            if row is not reference and row.runs:
                setattr(row, difference, paired(found[row.name], found[reference.name], *against))
        tested = {r.name: getattr(r, difference).p for r in rows if r.kind in JOINED and getattr(r, difference)}
        for name, value in holm(tested).items():
            setattr(next(r for r in rows if r.name == name), p, value)
    return rows


def paired(first: Mapping[Place, Result], second: Mapping[Place, Result], sign: float, share: float, grain: float) -> Paired:
    """How much better the first is, over the runs that both have and in which the metric is defined (see `_design`)."""
    differences = np.array([sign * (first[p].score - second[p].score) for p in first if p in second])
    return corrected_t(differences[np.isfinite(differences)], share, grain)


def _design(folds: Mapping[Place, Fold], task: Task) -> tuple[float, float, float]:
    """What the test has to know: 1 or -1, whether more is better; test rows to training rows; the metric's smallest step."""
    share = float(np.mean([len(f.test) / len(f.train) for f in folds.values()]))
    grain = float(np.mean([1 / len(f.test) for f in folds.values()])) if task.metric == "accuracy" else 0.0
    return 1.0 if task.higher else -1.0, share, grain


def verdict(
    rows: Sequence[Standing], found: Mapping[str, Mapping[Place, Result]], folds: Mapping[Place, Fold], task: Task, target: str
) -> list[str]:
    """Does fusing pay here, by how much, which method, and what is within noise of it: plain sentences."""
    whole = [r for r in rows if r.whole]
    best, single = _first(whole, *JOINED), _first(rows, "single")
    if best is None or single is None:
        return [f"No verdict on '{target}' yet: no fusion has all its runs. Give it more time, or fewer seeds, folds or fusions."]
    named = next((r for r in whole if r.name == BASELINE), None)
    shown = [r for r in (best, named) if r is not None and r.over_single is not None and r.over_single.value > 0]
    if best.p_single is None or not math.isfinite(best.over_single.low if best.over_single else math.nan):
        told = [
            f"One run a method cannot tell whether fusing pays for '{target}': {_told(best, single, task)}. Give it more folds or seeds."
        ]
    elif best in shown and best.p_single < LEVEL:
        told = [f"Fusing pays for '{target}': {_told(best, single, task)}, p = {_p(best.p_single)}."]
    elif named in shown and named is not best and named.over_single.p < LEVEL / 2:  # type: ignore[union-attr]
        # it was named before any run, so that a test of its own, at half the level, needs no correction for the others
        told = [f"Fusing pays for '{target}': {_told(named, single, task)}, p = {_p(named.over_single.p)} for {BASELINE} tested by itself."]  # type: ignore[arg-type, union-attr]
    elif best not in shown and best.p_single < LEVEL:
        told = [f"Fusing does not pay for '{target}': {_told(best, single, task)}, p = {_p(best.p_single)}."]
    else:
        told = [f"No gain from fusing is shown for '{target}': {_told(best, single, task)}, p = {_p(best.p_single)}."]
        if best.runs < _FEW:
            told.append(f"{best.runs} runs a method can show only a very large gain: give it more folds or seeds.")
    others, against = [r for r in whole if r.kind in JOINED and r is not best], _design(folds, task)
    behind = {r.name: paired(found[best.name], found[r.name], *against).p for r in others}
    near = [name for name, p in holm(behind).items() if p >= LEVEL]
    near = [r.name for r in whole if r.name in near]
    if near:
        cheap = min([best, *(r for r in whole if r.name in near)], key=lambda r: r.parameters)
        smallest = f" The smallest of them is {cheap.name}." if cheap is not best else ""
        more = f" and {len(near) - _NAMED} more" if len(near) > _NAMED else ""
        told.append(f"Within noise of {best.name}: {', '.join(near[:_NAMED])}{more}.{smallest}")
    elif behind:
        told.append(f"{best.name} is better than every other method that has all its runs.")
    unfinished = [r.name for r in rows if r.runs and not r.whole]
    unreached = [r.name for r in rows if not r.runs]
    if unfinished:
        told.append(f"Stopped early, by successive halving or for want of time: {', '.join(unfinished)}.")
    if unreached:
        told.append(f"Not reached: {', '.join(unreached)}.")
    return told


def _told(row: Standing, single: Standing, task: Task) -> str:
    found, gain = row.over_single, ""
    if found is not None and math.isfinite(found.low):
        gain = f" ({_signed(found.value)}, 95 % interval {_signed(found.low)} to {_signed(found.high)})"
    return f"{row.name} reaches {task.metric} {row.score:.4g}, the best single view ({single.views[0]}) {single.score:.4g}{gain}"


def _first(rows: Sequence[Standing], *kinds: str) -> Standing | None:
    return next((r for r in rows if r.kind in kinds and r.runs), None)


def _interval(results: Mapping[Place, Result], task: Task, truth: Cells, target: str, draws: int, score: float) -> tuple[float, float]:
    """Bootstrap over rows of the score: the metric of each run's rows as often as they were drawn, and the mean over runs."""
    rows = np.unique(np.concatenate([r.rows for r in results.values()]))
    rows = rows[np.isin(rows, truth.rows.numpy())]
    parts = []
    for result in results.values():
        labelled = np.isin(result.rows, rows)
        here = result.rows[labelled]
        if len(here):
            at = torch.from_numpy(np.searchsorted(truth.rows.numpy(), here))
            cells = Cells({k: v[at] for k, v in truth.x.items()}, torch.from_numpy(np.flatnonzero(labelled)), len(labelled))
            parts.append((np.searchsorted(rows, here), figures(task, result.out(target), cells)[task.metric]))

    def mean(counts: np.ndarray) -> np.ndarray:
        found = np.stack([figure(counts[:, where]) for where, figure in parts])
        known = np.isfinite(found)  # a run of which one class alone was drawn has no AUC
        return ratio(np.where(known, found, 0.0).sum(0), known.sum(0).astype(np.float64))

    if not parts:
        return math.nan, math.nan
    low, high = bootstrap(mean, len(rows), affordable(task, draws, sum(len(where) for where, _ in parts)))
    shift = score - once(mean, len(rows))  # not 0 where calibrated answers score otherwise than the answers did
    return low + shift, high + shift


def _means(metrics: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    targets = dict.fromkeys(t for m in metrics for t in m)
    names = {t: dict.fromkeys(n for m in metrics for n in m.get(t, {})) for t in targets}
    return {t: {n: float(np.mean([m[t][n] for m in metrics if n in m.get(t, {})])) for n in names[t]} for t in targets}


def _cells(row: Standing) -> tuple[str, ...]:
    if not row.runs:
        return (row.name, *[""] * 10, "not reached")
    single, baseline = row.over_single, row.over_baseline
    return (
        row.name,
        f"{row.score:.4g}",
        f"[{row.low:.4g}, {row.high:.4g}]" if math.isfinite(row.low) else "",
        _signed(single.value) if single else "",
        _p(row.p_single if single and math.isfinite(single.low) else None),
        _signed(baseline.value) if baseline else "",
        _p(row.p_baseline if baseline and math.isfinite(baseline.low) else None),
        f"{row.parameters:,.0f}",
        f"{row.seconds:.1f}" if row.seconds >= 1 else f"{row.seconds:.2f}",
        f"{row.latency_ms:.1f}",
        f"{row.robustness:.3f}" if math.isfinite(row.robustness) else "",
        f"{row.runs}/{row.of}",
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "<.001"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: None stands there."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
