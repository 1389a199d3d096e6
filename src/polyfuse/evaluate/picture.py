"""Pictures: curves of robustness, a panel a kind and a line a view; of learning, a line a view; a comparison, a row a method."""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import RecipeError

if TYPE_CHECKING:
    from .robustness import Curve, Robustness

# Okabe and Ito 2008, "Color Universal Design", without yellow: told apart by colour-blind readers; markers and dashes serve in grey
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1.5, 1)), (0, (8, 2, 1, 2, 1, 2)))
_MARKERS = "os^DvP*X"
_NAMED_PAIRS = 6  # more would make the legend longer than the picture
_FONTS = (  # for names in scripts that the default font does not have; those that are installed are asked in this order
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "WenQuanYi Micro Hei", "Malgun Gothic"),
    *("Arial Unicode MS", "Noto Sans", "Noto Sans Arabic", "Noto Sans Devanagari"),
)
_TITLES = {
    "missing": ("Cells missing", "share of cells"),
    "noise": ("Cells noisy", "level of noise"),
    "swap": ("Cells of another row", "share of cells"),
}
_ABSENT = "needs matplotlib, which is not installed"
_FIX = 'pip install "polyfuse[plot]"'
log = logging.getLogger("polyfuse")


def need_matplotlib() -> None:
    """
    Raises:
        RecipeError: it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise RecipeError("a picture", _ABSENT, fix=_FIX)


def draw_beside(drawing: Callable[[Any, Path], None], found: Any, path: Path) -> None:
    """A picture that goes with tables: without matplotlib these stand alone, and a warning says what would draw it."""
    if find_spec("matplotlib") is not None:
        drawing(found, path)
        return
    path.unlink(missing_ok=True)  # one of an earlier run would show other figures than the tables
    log.warning("%s was not drawn: it %s; %s", path.name, _ABSENT, _FIX)


def draw(found: "Robustness", path: Path) -> None:
    """Write a PNG: score against rate, intervals shaded, the naive score dotted, pairs of views thinner."""
    kinds = list(dict.fromkeys(c.kind for c in found.curves))
    family = _family()
    figure = _figure(3.6 * len(kinds) + 2.6, 3.9)
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    lines: dict[str, Any] = {}
    for ax, kind in zip(axes, kinds):
        curves = [c for c in found.curves if c.kind == kind]
        single, pairs = [c for c in curves if len(c.views) == 1], [c for c in curves if len(c.views) == 2]
        for at, curve in enumerate(pairs):
            named = len(pairs) <= _NAMED_PAIRS
            style = {"color": "0.45" if named else "0.65", "linestyle": _DASHES[1 + at % 4 if named else 1]}
            lines[_label(curve.name) if named else "pairs of views"] = _line(ax, curve, **style, linewidth=1.0, zorder=2)
        for at, curve in enumerate(single):
            style = {"color": _COLOURS[at % len(_COLOURS)], "linestyle": _DASHES[at // len(_COLOURS) % len(_DASHES)]}
            style |= {"marker": _MARKERS[at % len(_MARKERS)], "markersize": 5}
            lines[_label(curve.name)] = _line(ax, curve, **style, linewidth=2.0, zorder=3)
        if found.naive is not None:
            lines["looks at no input"] = ax.axhline(found.naive, color="black", linestyle=":", linewidth=1.2, zorder=1)
        ax.set_title(_TITLES[kind][0], fontsize=11)
        ax.set_xlabel(_TITLES[kind][1])
        ax.xaxis.set_major_formatter(lambda rate, _: f"{rate:.0%}")
        _tidy(ax)
    axes[0].set_ylabel(f"{found.metric} of {_label(found.target)}{'' if found.higher else ' (less is better)'}", family=family)
    last = sorted(lines, key=lambda name: (lines[name].get_linestyle() == ":", lines[name].get_linewidth() == 1.0))
    text = {"family": family, "size": 9}
    figure.legend([lines[n] for n in last], last, loc="outside right upper", frameon=False, prop=text, handlelength=3)
    _save(figure, path)


def draw_learning(card: dict[str, Any], path: Path) -> None:
    """Write a PNG: the main target's metric over the epochs with one view shown and with all, the naive score dotted.

    Args:
        card: of a bundle, with "alone" and "history".
    """
    from matplotlib.ticker import MaxNLocator

    found, history, nan = card["alone"], card["history"], float("nan")
    family = _family()
    figure = _figure(7.2, 3.9)
    ax = figure.subplots()
    epochs = [entry["epoch"] + 1 for entry in history]
    whole = [entry.get(f"{found['target']} {found['metric']}", nan) for entry in history]
    marker: dict[str, Any] = {"markersize": 4, "markevery": max(1, len(epochs) // 12)}
    lines: dict[str, Any] = {"all views": ax.plot(epochs, whole, color="black", linewidth=2.4, marker="." if len(epochs) == 1 else "")[0]}
    for at, view in enumerate(found["views"]):
        style: dict[str, Any] = {"color": _COLOURS[at % (len(_COLOURS) - 1)], "marker": _MARKERS[at % len(_MARKERS)], **marker}
        values = [entry.get("alone", {}).get(view, nan) for entry in history]
        lines[f"{_label(view)} alone"] = ax.plot(epochs, values, linestyle=_DASHES[at // 6 % len(_DASHES)], linewidth=1.8, **style)[0]
    if found["naive"] is not None:
        lines["looks at no input"] = ax.axhline(found["naive"], color="black", linestyle=":", linewidth=1.2, zorder=1)
    lines["epoch that was kept"] = ax.axvline(card["best_epoch"] + 1, color="0.6", linestyle="--", linewidth=1.2, zorder=1)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(f"{found['metric']} of {_label(found['target'])}", family=family)
    ax.set_title("How fast each view learns, on held-out rows", fontsize=11)
    _tidy(ax)
    text = {"family": family, "size": 9}
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", frameon=False, prop=text, handlelength=3)
    _save(figure, path)


def draw_comparison(found: Any, path: Path) -> None:
    """Write a PNG of a `Comparison`: every method's score with its interval, best on top; a line at the best single view."""
    rows = [r for r in found.rows if r.runs][::-1]
    family = _family()
    figure = _figure(7.2, 1.4 + 0.27 * max(len(rows), 3))
    ax = figure.subplots()
    single = found.best_single
    if single is not None:
        ax.axvline(single.score, color="0.5", linestyle="--", linewidth=1.2, zorder=1, label="best view alone")
    styles = {"single": ("#D55E00", "s", "one view alone"), "pair": ("#E69F00", "D", "two views"), "fusion": ("#0072B2", "o", "all views")}
    for kind, (colour, marker, label) in styles.items():
        at = [i for i, r in enumerate(rows) if r.kind == kind]
        if not at:
            continue
        mine = [rows[i] for i in at]
        known = [isfinite(r.low) for r in mine]
        errors = [[r.score - r.low if k else 0 for r, k in zip(mine, known)], [r.high - r.score if k else 0 for r, k in zip(mine, known)]]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none", "elinewidth": 1.4}
        ax.errorbar([r.score for r in mine], at, xerr=errors, label=label, zorder=3, **style)
    ax.set_yticks(range(len(rows)), [_label(r.name) + ("" if r.whole else f" ({r.runs}/{r.of} runs)") for r in rows], family=family)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xlabel(
        f"{found.metric} of {_label(found.target)}{'' if found.higher else ' (less is better)'}, 95 % interval over rows", family=family
    )
    _tidy(ax, axis="x")
    if rows:
        figure.legend(loc="outside upper right", ncols=4, frameon=False, prop={"family": family, "size": 9})
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches, with a canvas that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(ax: Any, axis: str = "both") -> None:
    """Faint lines behind the curves, no box around them."""
    ax.grid(color="0.9", linewidth=0.8, axis=axis)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a script without a font here is shown as boxes
        figure.savefig(path, format="png")


def _family() -> list[str]:
    from matplotlib import font_manager

    installed = {f.name for f in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(f for f in _FONTS if f in installed)]


def _line(ax: Any, curve: "Curve", **style: Any) -> Any:
    rates = [p["rate"] for p in curve.points]
    nan = float("nan")
    low, high = ([nan if p[end] is None else p[end] for p in curve.points] for end in ("low", "high"))
    if len(curve.views) == 1:
        ax.fill_between(rates, low, high, color=style["color"], alpha=0.15, linewidth=0, zorder=1)
    return ax.plot(rates, [nan if v is None else v for v in curve.values], **style)[0]


def _label(name: str) -> str:
    """A name as it is: `$` would begin a formula, and a leading `_` hide it from the legend."""
    text = name if len(name) <= 40 else f"{name[:39]}…"
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")
