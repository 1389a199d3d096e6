"""The contract of DESIGN as checks that run on every registered part, ours and a user's (`polyfuse check FILE`).

A check raises AssertionError with what is wrong. A part that cannot meet one says so in `exempt` with the reason.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from .. import parts as _parts  # noqa: F401  fills the registries
from ..core import Error, Registry
from ..core import codecs as _codecs
from ..core import encoders as _encoders
from ..core import fusions as _fusions
from ..core import learners as _learners
from ..core import objectives as _objectives
from ..core import tasks as _tasks
from ..plugins import load_plugin
from . import codecs, encoders, fusions, learners, objectives, tasks
from .making import VIEWS, WIDTH, encoder_of, fitted, fusion_of, objective_of, task_of, tokens_of

__all__ = [
    "CHECKS",
    "REGISTRIES",
    "VIEWS",
    "WIDTH",
    "all_checks",
    "check_file",
    "encoder_of",
    "fitted",
    "fusion_of",
    "objective_of",
    "run_check",
    "task_of",
    "tokens_of",
]

REGISTRIES: dict[str, Registry] = {
    "modalities": _codecs,
    "encoders": _encoders,
    "fusions": _fusions,
    "tasks": _tasks,
    "objectives": _objectives,
    "learners": _learners,
}


def _checks(module: ModuleType) -> dict[str, Callable[[str], None]]:
    """{name: check}: the module's own public functions."""
    own = inspect.getmembers(module, inspect.isfunction)
    return {k: v for k, v in sorted(own, key=lambda kv: kv[1].__code__.co_firstlineno) if v.__module__ == module.__name__ and k[0] != "_"}


CHECKS = {noun: _checks(module) for noun, module in zip(REGISTRIES, (codecs, encoders, fusions, tasks, objectives, learners))}


def all_checks() -> Iterator[tuple[str, str, str]]:
    """(noun, part, check) over every registered part."""
    for noun, registry in REGISTRIES.items():
        for name in registry.names():
            for check in CHECKS[noun]:
                yield noun, name, check


def run_check(noun: str, part: str, check: str) -> str | None:
    """None where it holds; the reason where the part is exempt; AssertionError where it fails."""
    exempt = REGISTRIES[noun].get(part).exempt  # type: ignore[attr-defined]
    reason = exempt.get(check, exempt.get("all"))
    if reason is None:
        CHECKS[noun][check](part)
    return reason


def check_file(path: str | Path) -> Iterator[tuple[str, str]]:
    """Load a user's file and run every check on the parts it brings: (name of the check, what is wrong or "")."""
    before = {noun: set(r.names()) for noun, r in REGISTRIES.items()}
    module = load_plugin(path)
    found = False
    for noun, registry in REGISTRIES.items():
        for name in registry.names():
            if name in before[noun] and registry.get(name).__module__ != module.__name__:
                continue
            for check in CHECKS[noun]:
                found = True
                try:
                    reason = run_check(noun, name, check)
                    yield f"{name} {check}" + (f" (exempt: {reason})" if reason else ""), ""
                except (AssertionError, Error, RuntimeError, TypeError, KeyError, IndexError, NotImplementedError, AttributeError) as error:
                    yield f"{name} {check}", f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
    if not found:
        yield str(path), "registers no part"
