"""One registry class, one instance per noun. A part is filed under a name; its signature is its list of options."""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Generic, TypeVar, get_origin

from .errors import RecipeError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Named parts of one kind.

    `@encoders("image-cnn")` files a class; `encoders.build("image-cnn", codec, 64, depth=3)` makes one.
    The keyword-only arguments of the constructor are the options a recipe may set; any other name is
    refused with the nearest one that exists.

    Example:
        >>> toys = Registry("toy")
        >>> @toys("ball")
        ... class Ball:
        ...     def __init__(self, *, size: int = 3):
        ...         self.size = size
        >>> toys.build("ball", size=5).size
        5
        >>> toys.build("bal")
        Traceback (most recent call last):
        polyfuse.core.errors.RecipeError: toy 'bal': unknown. Expected one of ball. Fix: did you mean 'ball'?
    """

    def __init__(self, noun: str):
        self.noun = noun
        self._parts: dict[str, type[T]] = {}

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]:
        if "." in name:
            raise RecipeError(f"{self.noun} '{name}'", "has a dot in its name", fix="use a hyphen")

        def file(cls: type[T]) -> type[T]:
            owner = self._parts.get(name)
            # a module that is loaded twice (a plugin in a notebook) may file the same class again
            if owner is not None and (owner.__module__, owner.__qualname__) != (cls.__module__, cls.__qualname__):
                raise RecipeError(
                    f"{self.noun} '{name}'", f"is already registered by {owner.__module__}.{owner.__qualname__}", fix="choose another name"
                )
            self._parts[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return file

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def names(self) -> list[str]:
        return sorted(self._parts)

    def get(self, name: str) -> type[T]:
        if name not in self._parts:
            raise RecipeError(
                f"{self.noun} '{name}'",
                "unknown",
                expected=f"one of {', '.join(self.names())}",
                fix=did_you_mean(name, self._parts) or "pick one of those, or load the plugin that has it",
            )
        return self._parts[name]

    def build(self, part: str, /, *context: Any, **options: Any) -> T:
        """Make the part `part` from positional context and checked options."""
        cls = self.get(part)
        check_options(f"{self.noun} '{part}'", options, option_names(cls))
        check_values(f"{self.noun} '{part}'", options, cls)
        return cls(*context, **options)


def written(cls: type) -> str:
    """A hash of a part's own code, that of the classes it derives from included: what it made under other code is not its own."""
    h = hashlib.blake2b(digest_size=16)
    for one in cls.__mro__:
        if one.__module__.split(".")[0] not in ("builtins", "torch", "abc", "typing"):
            try:
                h.update(inspect.getsource(one).encode())
            except (OSError, TypeError):  # typed into a session, where no source is kept
                h.update(one.__qualname__.encode())
    return h.hexdigest()


def option_names(cls: Callable) -> list[str]:
    """The keyword-only arguments of a constructor or function: its options."""
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY]


def check_options(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an option that does not exist, naming the nearest that does."""
    known = list(known)
    for option in given:
        if option not in known:
            raise RecipeError(
                where,
                f"has no option '{option}'",
                expected=f"one of {', '.join(known) or 'none: it has no options'}",
                fix=did_you_mean(option, known),
            )


def check_values(where: str, given: dict[str, Any], cls: Callable) -> None:
    """Refuse a value of another type than the option's, a negative number, a zero where the default is 1 or more, a dropout of 1."""
    parameters = inspect.signature(cls).parameters
    for option, value in given.items():
        annotation, default = parameters[option].annotation, parameters[option].default
        kinds = annotation if isinstance(annotation, type | UnionType) and not get_origin(annotation) else object
        least = 1 if isinstance(default, int) and default > 0 else 0
        most = 1.0 if option == "dropout" else math.inf
        if kinds in (int, float):
            whole = kinds is int
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and least <= value < most
            expected = f"a {'whole ' * whole}number from {least} on" + (", below 1" if most == 1 else "")
        else:
            good, expected = isinstance(value, kinds), getattr(kinds, "__name__", str(kinds)).replace("NoneType", "None")
        if not good:
            raise RecipeError(f"{where}, option '{option}'", f"is {value!r}", expected=expected)


codecs: Registry = Registry("modality")
encoders: Registry = Registry("encoder")
fusions: Registry = Registry("fusion")
tasks: Registry = Registry("task")
objectives: Registry = Registry("objective")
learners: Registry = Registry("learner")
