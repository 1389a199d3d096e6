"""From a schema and the user's options to a recipe that names every part with its options; nothing is left to guess."""

import json
from typing import Any

from . import __version__
from .core import Column, RecipeError, Schema, TabularCodec, check_options, codecs, did_you_mean, encoders, fusions, option_names, tasks
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


def resolve(
    schema: Schema, *, fusion: str, size: str, seed: int, settings: dict[str, dict[str, Any]], task: str | None = None
) -> dict[str, Any]:
    """The recipe of a schema: schema, codecs' and parts' options, fusion, width, training.

    Raises:
        RecipeError: an unknown part, option, column or size, with the nearest known name.
    """
    if size not in WIDTHS:
        raise RecipeError(f"size '{size}'", "unknown", expected=f"one of {', '.join(WIDTHS)}")
    inputs, targets = schema.having("input"), schema.having("target")
    _check_parts(schema, settings)
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
    recipe["loss"] = settings.get("loss", {})
    recipe["schema"] = schema.to_json()
    return recipe


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


def _check_parts(schema: Schema, settings: dict[str, dict[str, Any]]) -> None:
    views = {c.options.get("view") or TABLE for c in schema.having("input")}
    known = {"fusion", "train", "loss"} | views | {c.name for c in schema.columns} | set(codecs.names())
    for part in settings:
        if part not in known:
            raise RecipeError(
                f"setting '{part}.{next(iter(settings[part]))}'",
                f"there is no part '{part}'",
                expected="fusion, train, loss, a view, a modality or a column",
                fix=did_you_mean(part, known),
            )


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
