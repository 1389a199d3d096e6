"""From a schema and the user's options to a recipe that names every part with its options; nothing is left to guess."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import __version__
from .core import Column, RecipeError, Schema, TabularCodec, check_options, codecs, did_you_mean, encoders, fusions, option_names, tasks
from .core import objectives as registered
from .learners import TrainOptions
from .model import TABLE

WIDTHS = {"s": 64, "m": 128, "l": 256}
_TRAIN = list(TrainOptions.__dataclass_fields__)


def parse_settings(settings: dict[str, Any] | list[str] | None) -> dict[str, dict[str, Any]]:
    """`part.option=value` settings to {part: {option: value}}; values are JSON where they parse as it, else text.

    Example:
        >>> parse_settings(["fusion.rank=8", "photo.encoder=image-resnet"])
        {'fusion': {'rank': 8}, 'photo': {'encoder': 'image-resnet'}}
    """
    if not isinstance(settings, dict):
        pairs = []
        for text in settings or []:
            key, sep, value = text.partition("=")
            if not sep:
                raise RecipeError(f"setting '{text}'", "has no '='", expected="part.option=value, e.g. fusion.depth=3")
            pairs.append((key, _json_or_text(value)))
        settings = dict(pairs)
    out: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        part, dot, option = str(key).rpartition(".")
        if not dot or not part or not option:
            raise RecipeError(f"setting '{key}'", "names no part and option", expected="part.option, e.g. fusion.depth or photo.encoder")
        out.setdefault(part, {})[option] = value
    return out


def parse_objectives(given: dict[str, Any] | list[str] | str | None) -> dict[str, dict[str, Any]]:
    """`name=weight` texts, {name: weight} or {name: {"weight": weight, **options}}, all to the last.

    Example:
        >>> parse_objectives(["contrastive=0.1"])
        {'contrastive': {'weight': 0.1}}
    """
    if not isinstance(given, dict):
        pairs = [text.partition("=") for text in ([given] if isinstance(given, str) else given or [])]
        given = {name: _json_or_text(weight) for name, _, weight in pairs}
    made = {}
    for name, value in given.items():
        made[name] = dict(value) if isinstance(value, dict) else {"weight": value}
        _weight(f"objective '{name}'", made[name].get("weight"), "contrastive=0.1")
    return made


def _weight(where: str, weight: Any, example: str) -> float:
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < math.inf:
        raise RecipeError(where, f"has the weight {weight!r}", expected=f"NAME=WEIGHT with a number from 0 on, e.g. {example}")
    return weight


def resolve(
    schema: Schema,
    *,
    fusion: str,
    size: str,
    seed: int,
    settings: dict[str, dict[str, Any]],
    task: str | None = None,
    absent: Sequence[str] = (),
    objectives: dict[str, dict[str, Any]] | None = None,
    main: str | None = None,
) -> dict[str, Any]:
    """The recipe of a schema: schema, codecs' and parts' options, fusion, width, training.

    Raises:
        RecipeError: an unknown part, option, column or size, with the nearest known name.
    """
    if size not in WIDTHS:
        raise RecipeError(f"size '{size}'", "unknown", expected=f"one of {', '.join(WIDTHS)}")
    if not isinstance(seed, int) or seed < 0:
        raise RecipeError(f"--seed {seed}", "is no seed", expected="a whole number from 0 on")
    if fusions.get(fusion).level == "feature":
        schema = at_feature_level(schema)
    inputs, targets = schema.having("input"), schema.having("target")
    chosen = _objectives(schema, objectives or {}, settings)
    _check_parts(schema, settings, chosen)
    recipe: dict[str, Any] = {"polyfuse": __version__, "seed": seed, "width": WIDTHS[size], "codecs": {}, "parts": {}}
    for column in inputs:
        codec_options, part = _input(column, _for_column(column, settings))
        recipe["codecs"][column.name] = codec_options
        if part is None:
            view = column.options.get("view") or TABLE
            recipe["parts"].setdefault(view, _view(view, settings))
        else:
            recipe["parts"][column.name] = part
    for column in targets:
        recipe["codecs"][column.name], recipe["parts"][column.name] = _target(column, _for_column(column, settings), task)
    check_options(f"fusion '{fusion}'", settings.get("fusion", {}), option_names(fusions.get(fusion)))
    recipe["fusion"] = {"name": fusion, **settings.get("fusion", {})}
    check_options("train", settings.get("train", {}), _TRAIN)
    recipe["train"] = {k: v for k, v in vars(TrainOptions(**settings.get("train", {}))).items()}
    if recipe["train"]["balance"] != "none":
        if fusions.get(fusion).level == "decision":
            what = f"has nothing to do with fusion '{fusion}': each view learns by its own loss already"
            raise RecipeError("setting 'train.balance'", what, fix="leave it out, or take another fusion")
        chosen = {"heads": {"weight": 1.0}} | chosen  # balancing needs to see what each view knows by itself
    recipe["absent"] = [_pattern(text, schema) for text in ([absent] if isinstance(absent, str) else absent)]
    recipe["objectives"] = chosen
    recipe["main"] = _main(main, [c.name for c in targets])
    recipe["loss"] = {
        name: _weight(f"setting 'loss.{name}'", weight, f"loss.{name}=2") for name, weight in settings.get("loss", {}).items()
    }
    check_options("setting 'loss'", recipe["loss"], [*(c.name for c in targets), *chosen, *fusions.get(fusion).losses])
    recipe["schema"] = schema.to_json()
    return recipe


def at_feature_level(schema: Schema) -> Schema:
    """All input columns of plain numbers as one vector, in front; the others as they were.

    A column whose cells are lists stays apart: how long a missing list would have been cannot be known.
    """
    plain = [c for c in schema.having("input") if codecs.get(c.modality).plain and (c.sources or codecs.get(c.modality).tabular)]
    if len(plain) < 2 or schema.window:
        return schema
    name = "numbers"
    while any(name in (c.name, *c.reads) for c in schema.columns):
        name += "_"
    joined = Column(name, "vector", sources=tuple(dict.fromkeys(r for c in plain for r in c.reads)))
    return replace(schema, columns=(joined, *(c for c in schema.columns if c not in plain)))


def _for_column(column: Column, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A column's options: those of its modality, then the schema's, then those set by its name."""
    general = settings.get(column.modality, {}) if column.role == "input" else {}
    return {**general, **column.options, **settings.get(column.name, {})}


def _input(column: Column, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """-> the codec's options and the encoder part (None for a tabular column: its view has one)."""
    codec = codecs.get(column.modality)
    where = f"column '{column.name}'"
    options = {k: v for k, v in options.items() if k != "view"}
    if issubclass(codec, TabularCodec):
        check_options(where, options, option_names(codec))
        return options, None
    name = options.pop("encoder", codec.encoder)
    if isinstance(name, str) and name.startswith("hub:"):
        options["checkpoint"], name = name.removeprefix("hub:"), f"{column.modality}-hub"
    if not name or encoders.get(name).modality != column.modality:
        fitting = [n for n in encoders.names() if encoders.get(n).modality == column.modality]
        raise RecipeError(
            where,
            f"cannot be encoded by '{name}'",
            expected=f"one of {', '.join(fitting)}",
            fix=did_you_mean(str(name), fitting) or f"--set {column.name}.encoder={fitting[0] if fitting else '...'}",
        )
    encoder = encoders.get(name)
    known = option_names(codec) + option_names(encoder)
    check_options(where, options, ["encoder", *known])
    part = {k: v for k, v in options.items() if k in option_names(encoder)}
    wanted = encoder.codec_options(**part)
    return {**wanted, **{k: v for k, v in options.items() if k in option_names(codec)}}, {"encoder": name, **part}


def _view(view: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    options = {"encoder": "table-mlp", **settings.get(view, {})}
    encoder = encoders.get(options["encoder"])
    check_options(f"view '{view}'", options, ["encoder", *option_names(encoder)])
    return options


def _target(column: Column, options: dict[str, Any], task: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> the codec's options and the task part; which task is left open ("") until the codec is fitted."""
    codec = codecs.get(column.modality)
    name = options.pop("task", None) or task
    if name is None:
        mine = {k: v for k, v in options.items() if k in option_names(codec)}
        return mine, {"task": "", **{k: v for k, v in options.items() if k not in mine}}
    part = tasks.get(name)
    if column.modality not in part.modalities:
        raise RecipeError(
            f"target '{column.name}'",
            f"is read as {column.modality}, which task '{name}' cannot take",
            expected=f"a target that is {' or '.join(part.modalities)}",
            fix=f"--column {column.name}={part.modalities[0]}",
        )
    check_options(f"target '{column.name}'", options, option_names(codec) + option_names(part))
    return (
        {k: v for k, v in options.items() if k in option_names(codec)},
        {"task": name, **{k: v for k, v in options.items() if k in option_names(part)}},
    )


def choose_tasks(recipe: dict[str, Any], fitted: dict[str, Any]) -> None:
    """Fill in the task of each target whose recipe leaves it open, from its fitted codec."""
    for target, codec in fitted.items():
        part = recipe["parts"][target]
        if part["task"]:
            continue
        name = max(tasks.names(), key=lambda n: tasks.get(n).claims(codec))
        if tasks.get(name).claims(codec) <= 0:
            raise RecipeError(
                f"target '{target}'",
                f"is read as {codec.name}, and no task predicts that",
                fix=f"declare another modality: --column {target}=category or {target}=number",
            )
        check_options(f"target '{target}' (task '{name}')", [k for k in part if k != "task"], option_names(tasks.get(name)))
        part["task"] = name


def _view_name(column: Column) -> str:
    """The view an input column is in."""
    return column.options.get("view") or TABLE if issubclass(codecs.get(column.modality), TabularCodec) else column.name


def _pattern(text: str, schema: Schema) -> list[str]:
    """The views of a pattern of absence such as "photo+sound"; a view whose own name has a "+" may stand alone."""
    where, known = f"pattern of absence '{text}'", list(dict.fromkeys(_view_name(c) for c in schema.having("input")))
    names = [text] if text in known else list(dict.fromkeys(text.split("+")))
    for name in names:
        if name not in known:
            raise RecipeError(
                where,
                f"there is no view '{name}'",
                expected=f"one of {', '.join(known)}, or several with '+' between them",
                fix=did_you_mean(name, known),
            )
    if len(names) == len(known):
        raise RecipeError(where, "hides every view there is", expected="a pattern that leaves at least one")
    return names


def _objectives(schema: Schema, given: dict[str, dict[str, Any]], settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{name: {"weight": ..., **options}} of the chosen objectives; a setting by the name of a column too is the column's."""
    taken = {c.name for c in schema.columns} | {_view_name(c) for c in schema.having("input")}
    chosen = {}
    for name, options in given.items():
        known, more = option_names(registered.get(name)), {} if name in taken else settings.get(name, {})
        check_options(f"objective '{name}'", options, ["weight", *known])
        check_options(f"objective '{name}'", more, known)
        chosen[name] = options | more
    return chosen


def _main(main: str | None, targets: list[str]) -> str | None:
    """The target whose metric chooses the checkpoint: the first unless named."""
    if main is not None and main not in targets:
        raise RecipeError(f"main target '{main}'", "is no target", expected=f"one of {', '.join(targets)}", fix=did_you_mean(main, targets))
    return main or next(iter(targets), None)


def _check_parts(schema: Schema, settings: dict[str, dict[str, Any]], objectives: dict[str, Any]) -> None:
    views = {c.options.get("view") or TABLE for c in schema.having("input")}
    known = {"fusion", "train", "loss"} | views | {c.name for c in schema.columns} | set(codecs.names()) | set(objectives)
    for part in settings:
        if part not in known and part in registered:
            where = f"setting '{part}.{next(iter(settings[part]))}'"
            raise RecipeError(where, "is of an objective that is not chosen", fix=f"--objective {part}=0.1")
        if part not in known:
            raise RecipeError(
                f"setting '{part}.{next(iter(settings[part]))}'",
                f"there is no part '{part}'",
                expected="fusion, train, loss, an objective, a view, a modality or a column",
                fix=did_you_mean(part, known),
            )


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(re.sub(r"^(-?)\.(?=\d)", r"\g<1>0.", value))  # .5 is no JSON, but what many write
    except ValueError:
        return value
