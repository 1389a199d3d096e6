"""What parts there are: one line each, options, size and cost, read from the parts themselves."""

import functools
import inspect
import json
import re
from dataclasses import fields
from typing import Any

from torch import nn

from .contract import REGISTRIES, fitted, task_of
from .core import Codec, Error, Registry, encoders, fusions, objectives, option_names, tasks
from .learners import TrainOptions

WIDTH = 128  # what parameters are counted at
VIEWS = ["a", "b", "c"]  # what a fusion is counted with
_UNCOUNTED = {"modalities": "a codec has no weights", "learners": "as many as the rows and features it learns from ask for"}


def list_parts(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every part of one kind, or of all.

    Returns:
        {noun: [{"name", "summary", "options": {option: default}, "parameters", "uncounted", "cost", "expresses", "doc"}]}:
        "parameters" are the trainable ones at width 128, of a fusion with three views, of an encoder, task or objective on its
        codec's examples; None where they cannot be counted, and "uncounted" says why. "expresses" is for fusions only.
    Raises:
        RecipeError: no kind of that name.
    """
    registry: Registry = Registry("kind")
    for noun in REGISTRIES:
        registry(noun)(type(noun, (), {}))
    if kind is not None:
        registry.get(kind)
    found = {noun: [_entry(noun, n) for n in REGISTRIES[noun].names()] for noun in ([kind] if kind else REGISTRIES)}
    return found | {"learners": [_net(), *found["learners"]]} if "learners" in found else found


def listing(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Per part its line, and what a reader may want next: options, cost and, of a fusion, what it can and cannot express."""
    wide = max((len(e["name"]) for e in entries), default=0)
    out = []
    for e in entries:
        claims = ", ".join(claim if can else f"not {claim}" for claim, can in e.get("expresses", {}).items())
        options = " ".join(f"{option}={_shown(value)}" for option, value in e["options"].items())
        more = " | ".join(text for text in (options, e["cost"].rstrip("."), claims and f"expresses {claims}") if text)
        indent = " " * (wide + 12)
        out.append((f"  {e['name']:<{wide}} {_short(e['parameters']):>7}  {e['summary']}", more and indent + more))
    return out


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _short(count: int | None) -> str:
    """3 digits at most: 514, 66 k, 1.2 M."""
    if count is None:
        return "-"
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return str(count)


def sections(doc: str) -> dict[str, str]:
    """The indented sections of a docstring, {"Cost": its text ...}."""
    found = re.findall(r"^(\w+):\n((?:[ ].*\n?|\n(?=[ ]))+)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
    return {title: inspect.cleandoc("\n" + text).strip() for title, text in found}


def expressed(doc: str) -> dict[str, bool]:
    """What a fusion says of itself under "Expresses:", {"xor": True, "lookup": False ...}; what it does not name is open."""
    said = re.split(r"[,;]\s*", " ".join(sections(doc).get("Expresses", "").split()))
    return {claim.removeprefix("not "): not claim.startswith("not ") for claim in said if claim}


def _entry(noun: str, name: str) -> dict[str, Any]:
    part = REGISTRIES[noun].get(name)
    doc = inspect.cleandoc(part.__doc__ or "")
    parameters, uncounted = _count(noun, name)
    defaults = {o: inspect.signature(part).parameters[o].default for o in option_names(part)}
    entry: dict[str, Any] = {
        "name": name,
        "summary": doc.split("\n")[0],
        "options": {o: list(value) if isinstance(value, tuple) else value for o, value in defaults.items()},
        "parameters": parameters,
        "uncounted": uncounted,
        "cost": " ".join(sections(doc).get("Cost", "").split()),
    }
    if noun == "fusions":
        entry["expresses"] = expressed(doc)
    return {**entry, "doc": doc}


def _net() -> dict[str, Any]:
    """The learner that is no part of the registry: it learns from cells, the others from features."""
    doc = inspect.cleandoc(TrainOptions.__doc__ or "")
    return {
        "name": "net",
        "summary": "Encoders, fusion and heads together, by gradient.",
        "options": {f.name: f.default for f in fields(TrainOptions)},
        "parameters": None,
        "uncounted": "as many as its encoders, fusion and heads have",
        "cost": "one pass of the network forward and back for each row and epoch",
        "doc": f"Encoders, fusion and heads together, by gradient.\n\n{doc}",
    }


def _count(noun: str, name: str) -> tuple[int | None, str | None]:
    """Trainable parameters, or None and why they cannot be counted."""
    if noun not in _MAKERS:
        return None, _UNCOUNTED[noun]
    try:
        part = _MAKERS[noun](name)
    except Error as error:  # a checkpoint that is to be named, a library that is not installed
        return None, str(error)
    return sum(p.numel() for p in part.parameters() if p.requires_grad), None


_codec = functools.cache(fitted)


def _encoder(name: str) -> nn.Module:
    codec, values = _codec(encoders.get(name).modality)
    encoder = encoders.build(name, codec, WIDTH)
    encoder.fit([codec.collate(values)])
    return encoder


@functools.cache
def _target(task: str) -> Codec:
    return task_of(task)[1]


def _objective(name: str) -> nn.Module:
    codec = _target("binary")
    return objectives.build(name, VIEWS, WIDTH, {"label": codec}, lambda _: tasks.build("binary", codec, WIDTH))


_MAKERS = {
    "encoders": _encoder,
    "fusions": lambda name: fusions.build(name, VIEWS, WIDTH),
    "tasks": lambda name: tasks.build(name, _target(name), WIDTH),
    "objectives": _objective,
}
