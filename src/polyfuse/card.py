"""A bundle's card: what it is, from which data, how good, made by which versions."""

import platform
import time as clock
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from . import __version__
from .bundle import Bundle
from .evaluate import evaluate as score
from .evaluate import knowledge
from .evaluate import told as starving
from .learners import Training, outputs
from .ready import Ready


def make_card(ready: Ready, bundle: Bundle, done: Training) -> dict[str, Any]:
    run, data, rows, held = ready.run, ready.data, ready.rows, ready.held
    metrics: dict[str, Any] = {}
    reports: dict[str, Any] = {}
    if len(held):
        outs, truths = outputs(bundle.model, data, held)
        for target, part in zip(bundle.model.targets, bundle.model.tasks):
            if len(truths[target].rows):
                metrics[target] = score(part, outs[target], truths[target])
                reports[target] = part.report(outs[target], truths[target])
    alone = knowledge(bundle.model, data, rows, held, run.recipe.get("main") or bundle.targets[0])
    return {
        "data": {**about_data(ready, rows, len(held)), "dropped": {v: round(rate, 4) for v, rate in done.drop.items()}},
        "main": run.recipe.get("main"),
        "metrics": metrics,
        "report": reports,
        "history": done.history,
        "alone": alone,
        "warnings": starving(alone),
        "best_epoch": done.best_epoch,
        "model": {
            "fusion": run.recipe["fusion"]["name"],
            "encoders": {v: e.name for v, e in zip(bundle.model.views, bundle.model.encoders)},
            "parameters": bundle.model.size,
        },
        **versions(),
    }


def about_data(ready: Ready, rows: np.ndarray, judged: int) -> dict[str, Any]:
    """What was learned from: `rows` took part, by `judged` rows the figures were found."""
    run = ready.run
    return {
        "name": run.table.name,
        "rows": len(run.table),
        "trained_on": len(rows),
        "held_out": judged,
        "split": run.split,
        "present": {v: round(float(p), 4) for v, p in zip(ready.data.views, ready.data.present(rows).mean(0))},
        "refused": {n: len(b) for n, b in run.refused.items() if b},
        "refused_examples": {n: list(b.values())[:5] for n, b in run.refused.items() if b},
    }


def versions() -> dict[str, Any]:
    """By what a bundle was made, and when."""
    return {
        "versions": {
            "polyfuse": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "made": clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime()),
    }


def summary(card: dict[str, Any]) -> list[str]:
    """The card's figures as lines."""
    lines = []
    for target, metrics in card["metrics"].items():
        figures = []
        for name, figure in list(metrics.items())[:4]:
            figures.append(f"{name} {_text(figure)}")
        role = " (main)" if len(card["metrics"]) > 1 and target == card.get("main") else ""
        lines.append(f"held-out rows, '{target}'{role}: " + ", ".join(figures))
    return lines


def lone_views(card: dict[str, Any]) -> list[str]:
    """What each view answers when it is the only one, as lines; none for a card without that."""
    found = card.get("alone") or {}
    lines = []
    for view, figure in found.get("views", {}).items():
        lines.append(f"  '{view}' alone: {found['metric']} {_text(figure)}")
    return lines


def _text(figure: dict[str, float]) -> str:
    """A figure and, where it has one, its interval."""
    around = f" [{figure['low']:.4g}, {figure['high']:.4g}]" if figure.get("low") is not None else ""
    return f"{figure['value']:.4g}{around}"


def description(bundle: Bundle) -> list[str]:
    """What a bundle is, as lines: parts, data, columns, figures, warnings."""
    card = bundle.card
    model, data = card["model"], card["data"]
    lines = [
        f"fusion {model['fusion']}, {model['parameters']:,} parameters, made {card['made']} by polyfuse {card['versions']['polyfuse']}",
        f"trained on {data['trained_on']} rows of {data['name']}, {data['held_out']} held out ({data['split']})",
    ]
    for c in bundle.schema.columns:
        lines.append(f"  {c.name:<24} {c.role:<7} {c.modality:<9} {model['encoders'].get(c.name, '')}".rstrip())
    lines += [line for found in card.get("verdict", {}).values() for line in found["told"]] + members(card)
    return lines + summary(card) + lone_views(card) + [f"warning: {line}" for line in card.get("warnings", [])]


def members(card: dict[str, Any]) -> list[str]:
    """The members of an ensemble as lines, the weightiest first: what each is worth alone, and its part in the answer."""
    found = sorted(card.get("members", []), key=lambda m: -m["weight"])
    wide = max((len(m["name"]) for m in found), default=0)
    lines = []
    for m in found:
        score = "" if m["score"] is None else f"{m['score']:.4g}"
        part = f"{m['weight']:.0%}" if m["weight"] else "where others are missing" if m["spare"] else "not used"
        lines.append(f"  {m['name']:<{wide}}  {score:<8}{part}")
    return lines
