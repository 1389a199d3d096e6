"""How a score falls as cells go missing, get noisy or are mixed up: per view and per pair of views."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Batch, Cells, Codec, DataError, Draws, RecipeError, Tokens, did_you_mean
from ..core.progress import Bar, Progress
from ..data import Dataset
from ..model import Model
from .metrics import evaluate, naive
from .picture import draw, draw_beside

KINDS = ("missing", "noise", "swap")
RATES = tuple(step / 10 for step in range(10))

Batches = Iterable[tuple[Batch, np.ndarray]]
"""Batches with the cells of views and targets, and the rows' numbers in their table, which their draws belong to."""


@dataclass
class Curve:
    """The score of one kind of fault in some views, rate by rate.

    Attributes:
        kind: "missing", "noise" or "swap".
        views: one or two; the others are left as they are.
        points: [{"rate", "value", "low", "high"}]; the ends of the 95 % interval, and what is not defined, are None.
        relative: `area` of the curve.
        effective: `excess` of the curve over the reference's; None without one.
    """

    kind: str
    views: tuple[str, ...]
    points: list[dict[str, float | None]]
    relative: float | None = None
    effective: float | None = None

    @property
    def name(self) -> str:
        return " + ".join(self.views)

    @property
    def values(self) -> list[float | None]:
        return [p["value"] for p in self.points]


@dataclass
class Robustness:
    """What `Bundle.robustness` finds.

    Attributes:
        target, metric, higher: what is scored, by which metric, and whether more of it is better.
        rates: where the curves were measured; 0 is the first.
        curves: of each kind, views one by one and then in pairs.
        naive: the score of the best answer that looks at no input; None where the task has none.
        rows: rows that were scored.
        seed: of the draws.
        notes: what else to know.
    """

    target: str
    metric: str
    higher: bool
    rates: tuple[float, ...]
    curves: list[Curve]
    naive: float | None
    rows: int
    seed: int
    notes: list[str] = field(default_factory=list)

    def means(self) -> dict[str, dict[str, float | None]]:
        """{kind: {"relative", "effective"}}, averaged over single views."""
        found = {}
        for kind in dict.fromkeys(c.kind for c in self.curves):
            single = [c for c in self.curves if c.kind == kind and len(c.views) == 1]
            found[kind] = {"relative": _mean([c.relative for c in single]), "effective": _mean([c.effective for c in single])}
        return found

    def over(self, reference: "Robustness") -> "Robustness":
        """The same with `effective` set; curves of views that the reference does not have keep None."""
        theirs = {(c.kind, c.views): c.values for c in reference.curves}
        curves = [
            replace(c, effective=excess(self.rates, c.values, theirs[c.kind, c.views], self.higher)) if (c.kind, c.views) in theirs else c
            for c in self.curves
        ]
        return replace(self, curves=curves)

    def lines(self) -> list[str]:
        """A table for the terminal: at most four rates; all are in `to_json`."""
        shown = sorted({round(at) for at in np.linspace(0, len(self.rates) - 1, 4)})
        width = max([len(c.name) for c in self.curves] + [len("mean of single views")]) + 2
        known = "" if self.naive is None else f"; {self.naive:.3g} for an answer that looks at nothing"
        lines = [f"{self.metric} of '{self.target}' on {self.rows} rows{known}; {'more' if self.higher else 'less'} is better"]
        effective = any(c.effective is not None for c in self.curves)
        heads = [f"{self.rates[at]:.0%}" for at in shown] + ["relative"] + ["effective"] * effective
        for kind, mean in self.means().items():
            lines += ["", f"{kind:<{width}}" + "".join(f"{head:>10}" for head in heads)]
            for curve in (c for c in self.curves if c.kind == kind):
                figures = [curve.values[at] for at in shown] + [curve.relative] + [curve.effective] * effective
                lines.append(f"  {curve.name:<{width - 2}}" + "".join(f"{_text(f):>10}" for f in figures))
            figures = [mean["relative"]] + [mean["effective"]] * effective
            lines.append(f"  {'mean of single views':<{width - 2}}" + " " * 10 * len(shown) + "".join(f"{_text(f):>10}" for f in figures))
        return lines

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("target", "metric", "higher", "naive", "rows", "seed", "notes")}
        return plain | {
            "rates": list(self.rates),
            "means": self.means(),
            "curves": [
                {"kind": c.kind, "views": list(c.views), "relative": c.relative, "effective": c.effective, "points": c.points}
                for c in self.curves
            ],
        }

    def write(self, folder: str | Path) -> Path:
        """Write curves.csv, robustness.json and, with matplotlib, robustness.png into a folder, which is made where it is not."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "curves.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["kind", "views", "rate", "value", "low", "high"])
                writer.writerows([c.kind, c.name, *p.values()] for c in self.curves for p in c.points)
            (folder / "robustness.json").write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")
            draw_beside(draw, self, folder / "robustness.png")
        except OSError as error:
            raise DataError(f"folder '{folder}'", f"cannot be written ({error.strerror})", fix="choose another") from None
        return folder


def area(rates: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Relative robustness: the mean height of the curve, in the metric's own unit.

    The area under it by trapezoids, divided by the span of the rates, so that curves that end at 0.9 and at 1 compare.
    Source: Liang et al. 2021, "MultiBench", section on robustness, which leaves the area undivided over rates 0 to 1, and
    stretches it between the worst and the best of its methods, which needs these methods and is not done here.

    Example:
        >>> area([0.0, 0.5, 1.0], [1.0, 0.5, 0.5])
        0.625
    """
    if None in values or len(rates) < 2:
        return None
    heights = np.array(values, float)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(rates)).sum() / (rates[-1] - rates[0]))


def excess(rates: Sequence[float], values: Sequence[float | None], reference: Sequence[float | None], higher: bool = True) -> float | None:
    """Effective robustness: how far the curve lies, on the mean, on the better side of a reference that starts where it starts.

    The reference, moved as a whole so that both agree at rate 0, is what is expected of a model that is no more robust
    but as good on whole rows.
    Source: Taori et al. 2020, "Measuring Robustness to Natural Distribution Shifts in Image Classification", section 3, with
    the baseline of Liang et al. 2021, "MultiBench" (late fusion, shifted), who add up the differences where this averages.

    Example:
        >>> excess([0.0, 0.5, 1.0], [0.9, 0.8, 0.7], [0.8, 0.6, 0.4])
        0.1
    """
    if None in (*values, *reference):
        return None
    ours, theirs = np.array(values, float), np.array(reference, float)
    found = area(rates, ((ours - ours[0]) - (theirs - theirs[0])).tolist())
    return None if found is None else round(found if higher else -found, 12) + 0.0


def hidden(view: str, rows: np.ndarray, rate: float, seed: int = 0) -> Tensor:
    """[B] bool: whose cell of the view is gone at this rate; at a higher rate these and others."""
    return Draws(seed, 0, f"missing {view}", rows).uniform() < rate


@torch.inference_mode()
def curves(
    model: Model,
    codecs: dict[str, Codec],
    batches: Batches,
    target: str,
    *,
    kinds: Sequence[str] = KINDS,
    rates: Sequence[float] = RATES,
    views: Sequence[str] | None = None,
    pairs: bool = True,
    seed: int = 0,
    draws: int = 200,
    steps: int = 0,
    progress: Progress | None = None,
) -> Robustness:
    """The curves of a model: its main metric against the rate of a fault in one view, and in two at once.

    missing: a share of the cells is gone, which is the same as never having had it.
    noise: every cell of the view is noisy at this level; what level 1 is the codec says (`Codec.noise`).
    swap: a share of the cells is another row's cell of the batch: whole, plausible and wrong.

    The faults of two views are independent, and each the same as in its own curve. Draws are nested: what is hidden or
    swapped at one rate is so at every higher one, and noise only grows, so curves are smooth.
    Source: Liang et al. 2021, "MultiBench" (faults in one modality and in several); swapped cells are ours.

    Args:
        codecs: {view: its codec}, for their noise.
        target: which of the model's.
        rates: in [0, 1); 0 is added.
        views: which are tried; None = all.
        draws: of the bootstrap.
        steps: how many rows will come, for the progress bar.
    Raises:
        RecipeError: an unknown view, kind or target, or rates outside [0, 1).
        DataError: no row has a label.
    Cost:
        a batch is encoded once for `missing`, and once per view and rate for `noise` and `swap`; the fusion runs for every
        curve and rate. What is kept is one answer per row, curve and rate.
    """
    rates, views = checked_rates(rates), _checked_names("view", views, model.views)
    kinds, progress = _checked_names("kind", kinds, KINDS), progress or Progress(quiet=True)
    task = model.tasks[model.targets.index(_checked_names("target", [target], model.targets)[0])]
    groups = [(v,) for v in views] + (list(combinations(views, 2)) if pairs else [])
    model.eval()
    found: dict[tuple[Any, ...], list[Tensor]] = {}
    labels: list[Cells] = []
    with progress.bar("answers", steps * len(kinds) * (len(rates) - 1)) as bar:
        for batch, rows in batches:
            labels.append(batch.cells[target])
            for key, tokens in _faulty(model, codecs, batch, rows, kinds, rates, groups, seed, bar):
                found.setdefault(key, []).append(model.answers(tokens)[target].float().cpu())
    truth = _joined(labels)
    if not len(truth.rows):
        raise DataError(f"target '{target}'", f"has no readable label in {truth.size} rows", fix="robustness needs labelled rows")
    points = {}
    with progress.bar("intervals", len(found)) as bar:
        for key in list(found):
            out = torch.cat(found.pop(key))
            point = evaluate(task, out, truth, draws=draws, seed=seed, only=task.metric).get(task.metric, {})
            points[key] = {name: point.get(name) for name in ("value", "low", "high")}
            bar.step()
    made = []
    for kind in kinds:
        for group in groups:
            at_rates = [{"rate": rate, **points[(kind, group, rate) if rate else ()]} for rate in rates]
            made.append(Curve(kind, group, at_rates, area(rates, [p["value"] for p in at_rates])))
    return Robustness(target, task.metric, task.higher, rates, made, naive(task, truth).get(task.metric), len(truth.rows), seed)


def relative(
    model: Model, data: Dataset, rows: np.ndarray, target: str, *, rates: Sequence[float] = (0.0, 0.3, 0.6, 0.9), seed: int = 0
) -> float | None:
    """Relative robustness to missing cells, averaged over single views: the one figure for comparing many models.

    Args:
        rows: of the prepared table `data`, labelled.
    Returns:
        a mean height in the main metric's own unit; None where that is not defined on these rows.
    Cost:
        one encoding of the rows, and a fusion per view and rate.
    """
    device = next(model.parameters()).device
    batches = ((data.batch(rows[at : at + 128]).to(device), rows[at : at + 128]) for at in range(0, len(rows), 128))
    found = curves(model, {}, batches, target, kinds=("missing",), rates=rates, pairs=False, seed=seed, draws=0)
    return found.means()["missing"]["relative"]


def checked_rates(rates: Sequence[float]) -> tuple[float, ...]:
    """Ascending, from 0.

    Example:
        >>> checked_rates([0.6, 0.3])
        (0.0, 0.3, 0.6)
    """
    wrong = [r for r in rates if isinstance(r, bool) or not isinstance(r, int | float) or not 0 <= r < 1]
    if wrong or not any(rates):
        what = f"{wrong[0]!r} is among them" if wrong else "none is above 0"
        raise RecipeError("rates", what, expected="numbers in [0, 1), such as 0,.3,.6,.9")
    return tuple(sorted({0.0, *map(float, rates)}))


def _faulty(
    model: Model,
    codecs: dict[str, Codec],
    batch: Batch,
    rows: np.ndarray,
    kinds: Sequence[str],
    rates: Sequence[float],
    groups: Sequence[tuple[str, ...]],
    seed: int,
    bar: Bar,
) -> Iterator[tuple[tuple[Any, ...], Tokens]]:
    """The batch's tokens under every fault: ((kind, views, rate), or () for none, and tokens before the fusion)."""
    whole, device = model.encode(batch), next(iter(batch.cells.values())).rows.device
    yield (), whole
    for kind in kinds:
        for rate in rates[1:]:
            if kind == "missing":
                gone = {v: hidden(v, rows, rate, seed).to(device) for group in groups for v in group}
                for group in groups:
                    yield (kind, group, rate), whole.hide({model.spans[v]: gone[v] for v in group})
            else:
                changed = {v: _changed(model, codecs, batch, v, kind, rate, rows, seed) for (v,) in (g for g in groups if len(g) == 1)}
                for group in groups:
                    yield (kind, group, rate), whole.exchange({model.spans[v]: changed[v] for v in group})
            bar.step(batch.size)


def _changed(
    model: Model, codecs: dict[str, Codec], batch: Batch, view: str, kind: str, rate: float, rows: np.ndarray, seed: int
) -> Tokens:
    """Tokens in which only this view is encoded, from cells with the fault; the other views are absent."""
    cells = batch.cells[view]
    draws = Draws(seed, 0, f"{kind} {view}", rows[cells.rows.cpu().numpy()])
    if len(cells.rows):
        x = codecs[view].noise(cells.x, rate, draws) if kind == "noise" else _swapped(cells.x, rate, draws)
        cells = Cells(x, cells.rows, cells.size)
    return model.encode(Batch({v: cells if v == view else Cells({}, cells.rows[:0], cells.size) for v in model.views}, batch.size))


def _swapped(x: dict[str, Tensor], rate: float, draws: Draws) -> dict[str, Tensor]:
    """A share `rate` of the rows with the cell of another row; a row alone has no other and keeps its own."""
    here, u = torch.arange(len(draws)), draws.uniform(2)
    step = 1 + (u[:, 1] * (len(here) - 1)).long().clamp(max=max(len(here) - 2, 0))
    source = torch.where(u[:, 0] < rate, (here + step) % len(here), here)
    return {name: value[source.to(value.device)] for name, value in x.items()}


def _joined(labels: list[Cells]) -> Cells:
    """One target's cells of all batches, one after the other."""
    starts = np.cumsum([0] + [c.size for c in labels])
    some = [(int(at), c) for at, c in zip(starts, labels) if len(c.rows)]
    x = {name: torch.cat([c.x[name] for _, c in some]).cpu() for name in (some[0][1].x if some else ())}
    rows = torch.cat([c.rows.cpu() + at for at, c in some]) if some else torch.zeros(0, dtype=torch.long)
    return Cells(x, rows, int(starts[-1]))


def _checked_names(what: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(known if names is None else names))
    for name in names:
        if name not in known:
            raise RecipeError(f"{what} '{name}'", "is unknown", expected=f"one of {', '.join(known)}", fix=did_you_mean(name, known))
    if not names:
        raise RecipeError(f"{what}s", "none is named", expected=f"some of {', '.join(known)}")
    return names


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
