"""What a search may change: ranges and choices of options, given by the user or derived from the parts' own signatures."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from ..core import (
    RecipeError,
    Schema,
    check_options,
    check_values,
    codecs,
    did_you_mean,
    encoders,
    fusions,
    learners,
    objectives,
    option_names,
)
from ..learners import TrainOptions
from ..recipe import parse_settings

Settings = dict[str, dict[str, Any]]
"""{part: {option: value}}."""
_TRAINED = ("rate", "decay", "drop")  # options of training that are searched unless a space is given
_BOUNDS = ("most", "refit")  # begin the names of options that bound the cost: more is better, and slower
_EXAMPLE = "fusion.rank=2..16, train.rate=log:1e-4..1e-2 or photo.encoder=image-cnn|image-resnet"


@dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`, both included; on a log scale where `log`."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def holds(self, value: Any) -> bool:
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def __str__(self) -> str:
        return f"{'log:' * self.log}{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    def __str__(self) -> str:
        return "|".join(str(v) for v in self.values)


Space = dict[str, Range | Choice]
"""{"part.option": what it may be}."""


def parse_space(given: Mapping[str, Any] | list[str] | None) -> Space:
    """`part.option=low..high` (whole numbers where both ends are), `=log:low..high` and `=a|b|c`; or a dict of the same.

    Example:
        >>> parse_space(["fusion.rank=2..8", "train.rate=log:1e-4..1e-1"])["train.rate"]
        Range(low=0.0001, high=0.1, whole=False, log=True)
        >>> parse_space({"fusion.depth": [1, 2, 4]})
        {'fusion.depth': Choice(values=(1, 2, 4))}
    """
    if not isinstance(given, Mapping):
        pairs = [text.partition("=") for text in given or []]
        given = {key: value for key, _, value in pairs}
    found: Space = {}
    for key, value in given.items():
        where = f"space '{key}'"
        part, _, option = str(key).rpartition(".")
        if not part or not option:
            raise RecipeError(where, "names no part and option", expected=_EXAMPLE)
        if isinstance(value, Range | Choice):
            found[key] = value
        elif isinstance(value, list | tuple) and value:
            found[key] = Choice(tuple(value))
        else:
            found[key] = _span(where, str(value).strip())
    return found


def _span(where: str, text: str) -> Range | Choice:
    log, body = text.startswith("log:"), text.removeprefix("log:")
    low_text, dots, high_text = body.partition("..")
    if dots:
        low, high = (_value(t.strip()) for t in (low_text, high_text))
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in (low, high)):
            raise RecipeError(where, f"is '{text}', whose ends are no numbers", expected=_EXAMPLE)
        if low >= high:
            raise RecipeError(where, f"is '{text}', which is empty", expected="the smaller number first")
        if log and low <= 0:
            raise RecipeError(where, f"is '{text}', but a log scale has no {low:g}", expected="ends above 0")
        whole = isinstance(low, int) and isinstance(high, int)
        return Range(low if whole else float(low), high if whole else float(high), whole, log)
    if "|" not in text or log:
        raise RecipeError(where, f"is '{text}', which leaves nothing to choose", expected=_EXAMPLE, fix="one value is for --set")
    return Choice(tuple(dict.fromkeys(_value(t.strip()) for t in text.split("|"))))


def _value(text: str) -> Any:
    """A number, true, false, null or a text, as `--set` reads it."""
    return parse_settings([f"part.option={text}"])["part"]["option"]


def merged(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Settings with {"part.option": value} on top."""
    out = {part: dict(values) for part, values in settings.items()}
    for part, values in parse_settings(dict(options)).items():
        out.setdefault(part, {}).update(values)
    return out


# -- the space nobody has to give ---------------------------------------------------------------------------------


def default_space(recipe: dict[str, Any], learner: str | None, settings: Settings) -> Space:
    """What is worth a search of the learner, or of a network's fusion and training; what `settings` fix stays fixed.

    Raises:
        RecipeError: the part has nothing but switches of cost.
    """
    found: Space = {}
    if learner is None:
        views = [name for name, part in recipe["parts"].items() if "encoder" in part]
        for option in _TRAINED:
            span = around(option, recipe["train"][option], TrainOptions)
            if span is not None and (option != "drop" or len(views) > 1):  # a lone view has nothing to be hidden behind
                found[f"train.{option}"] = span
    part, name = ("fusion", recipe["fusion"]["name"]) if learner is None else (learner, learner)
    cls = fusions.get(name) if learner is None else learners.get(name)
    for option in option_names(cls):
        span = around(option, inspect.signature(cls).parameters[option].default, cls)
        if span is not None:
            found[f"{part}.{option}"] = span
    found = {key: span for key, span in found.items() if key.rpartition(".")[2] not in settings.get(key.rpartition(".")[0], {})}
    if not found:
        raise RecipeError(f"'{name}'", "has no option that is searched unless it is named", fix="--space part.option=low..high")
    return found


def around(option: str, default: Any, cls: type) -> Range | Choice | None:
    """What an option may be, by its type and its default; None where these do not tell.

    Whole numbers from half to twice the default, other numbers from a tenth to ten times on a log scale, dropout and the like
    from 0 to 0.5, texts one of those that the annotation or the docstring lists.

    Example:
        >>> str(around("rate", 0.002, TrainOptions)), str(around("batch", 32, TrainOptions)), str(around("drop", 0.1, TrainOptions))
        ('log:0.0002..0.02', '16..64', '0..0.5')
    """
    annotation = inspect.signature(cls).parameters[option].annotation
    if get_origin(annotation) is Literal:
        return Choice(get_args(annotation))
    if isinstance(default, bool):
        return Choice((False, True))
    if isinstance(default, str):
        words = tuple(dict.fromkeys(re.findall(r'"([\w-]+)"', _told(cls, option))))
        return Choice(words) if default in words and len(words) > 1 else None
    if not isinstance(default, int | float) or default <= 0 or option.startswith(_BOUNDS):
        return None
    if option in ("dropout", "drop"):
        return Range(0.0, 0.5)
    if isinstance(default, float):
        return Range(float(f"{default / 10:.6g}"), float(f"{default * 10:.6g}"), log=True)
    if option == "heads":  # which have to divide the width
        return Choice(tuple(n for n in (default // 2, default, 2 * default) if n))
    return Range(max(1, default // 2), 2 * default, whole=True)


def _told(cls: type, option: str) -> str:
    """What the docstring of the class, or of one it stands on, says of an option."""
    for owner in cls.__mro__:
        found = re.search(rf"^( +){option}: (.*(?:\n\1 +.*)*)", owner.__doc__ or "", re.MULTILINE)
        if found:
            return found[2]
    return ""


# -- the space against the parts ----------------------------------------------------------------------------------


def check_space(space: Space, settings: Settings, learner: str | None, recipe_of: Callable[[Settings], dict[str, Any]]) -> Space:
    """The space, of which every end of a range and every choice is one that `--set` would take.

    A range of whole numbers for an option that is no whole number, such as `train.drop=0..1`, is one of all numbers.

    Raises:
        RecipeError: an unknown part or option, with the nearest known name, or a value that the option cannot have.
    """
    recipe = recipe_of(settings)
    if learner is not None:
        known = {learner, *recipe["parts"], *recipe["codecs"], *codecs.names()}
        for key in [*space, *(f"{part}.{next(iter(options))}" for part, options in settings.items())]:
            part = key.rpartition(".")[0]
            if part not in known:
                expected, fix = f"{learner}, a view, a modality or a column", did_you_mean(part, known)
                raise RecipeError(f"'{key}'", f"there is no part '{part}' beside learner '{learner}'", expected=expected, fix=fix)
        check_options(f"learner '{learner}'", settings.get(learner, {}), option_names(learners.get(learner)))
        check_values(f"learner '{learner}'", settings.get(learner, {}), learners.get(learner))
    checked: Space = {}
    for key, span in space.items():
        part, _, option = key.rpartition(".")
        if isinstance(span, Range) and span.whole and isinstance(_default(part, option, recipe, learner, settings), float):
            span = Range(float(span.low), float(span.high), log=span.log)
        if option in settings.get(part, {}):
            raise RecipeError(f"'{key}'", "is fixed by --set and searched by --space", fix="leave out one of them")
        noun, cls = _own(part, recipe, learner)
        for value in span.ends:
            if cls is not None:
                check_options(noun, [option], option_names(cls))
                check_values(noun, {option: value}, cls)
            recipe_of(merged(settings, {key: value}))
        checked[key] = span
    return checked


def _own(part: str, recipe: dict[str, Any], learner: str | None) -> tuple[str, Any]:
    """What the options of a fusion or learner are checked against here; those of other parts are by the recipe."""
    if learner is not None and part == learner:
        return f"learner '{learner}'", learners.get(learner)
    if part == "fusion":
        return f"fusion '{recipe['fusion']['name']}'", fusions.get(recipe["fusion"]["name"])
    return "", None


def defaults(space: Space, recipe: dict[str, Any], learner: str | None, settings: Settings) -> dict[str, Any] | None:
    """What the options of the space are unless they are searched; None where one of them lies outside the space."""
    found = {}
    for key, span in space.items():
        value = _default(*key.rpartition(".")[::2], recipe, learner, settings)
        if isinstance(span, Range) and not span.whole and isinstance(value, int):
            value = float(value)
        if not span.holds(value):
            return None
        found[key] = value
    return found


def _default(part: str, option: str, recipe: dict[str, Any], learner: str | None, settings: Settings) -> Any:
    """What an option is unless it is searched; None where that is not known."""
    places: list[tuple[dict[str, Any], type]] = []
    if learner is not None and part == learner:
        places = [(settings.get(learner, {}), learners.get(learner))]
    elif part in ("fusion", "train"):
        places = [(recipe[part], TrainOptions if part == "train" else fusions.get(recipe["fusion"]["name"]))]
    elif part == "loss":
        return recipe["loss"].get(option, 1.0)
    elif part in recipe["objectives"]:
        places = [(recipe["objectives"][part], objectives.get(part))]
    else:
        for column in Schema.from_json(recipe["schema"]).having("input"):
            if part in (column.name, column.modality):
                places.append((recipe["codecs"].get(column.name, {}), codecs.get(column.modality)))
            view = recipe["parts"].get(column.name, {})
            if "encoder" in view and part in (column.name, column.modality):
                places.append((view, encoders.get(view["encoder"])))
        if "encoder" in recipe["parts"].get(part, {}):
            places.append((recipe["parts"][part], encoders.get(recipe["parts"][part]["encoder"])))
    for given, cls in places:
        if option in given:
            return given[option]
        if option in option_names(cls):
            return inspect.signature(cls).parameters[option].default
    return None
