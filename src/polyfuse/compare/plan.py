"""What is compared: methods, and the runs each of them gets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from ..core import RecipeError, check_options, check_values, did_you_mean, fusions, option_names

BASELINE = "concat"


@dataclass(frozen=True)
class Method:
    """One row of the leaderboard.

    Args:
        name: as it is shown.
        kind: "single" (one view alone), "pair" (two views) or "fusion" (all).
        views: the views it may see.
        fusion: {"name": registered fusion, **options}.
        shift: added to the seeds of its runs: two copies of one method are told apart by it.
    """

    name: str
    kind: str
    views: tuple[str, ...]
    fusion: dict[str, Any] = field(default_factory=lambda: {"name": BASELINE})
    shift: int = 0

    @property
    def level(self) -> str:
        return fusions.get(self.fusion["name"]).level


def methods_of(
    views: list[str], wanted: Any, pairs: bool, settings: Mapping[str, dict[str, Any]] | None = None
) -> tuple[list[Method], list[Method]]:
    """References (every view alone, every pair if asked) and fusions, `concat` first: others are measured by it.

    Args:
        wanted: "all", names of fusions, or {label: a name, or {"name": ..., "seed": shift, **options}}, taken as it is.
        settings: {fusion: {option: value}}, what `--set FUSION.option=value` gave.
    Raises:
        RecipeError: an unknown fusion or option, a label that is used twice, a setting of a fusion that takes no part.
    """
    settings = settings or {}
    references = [Method(f"{view} alone", "single", (view,)) for view in views]
    if pairs and len(views) > 2:
        references += [Method(f"{a} + {b}", "pair", (a, b)) for a, b in combinations(views, 2)]
    made = []
    for label, given in _labelled(wanted).items():
        name, shift, options = _read(label, given)
        options = {**settings.get(name, {}), **options}
        part = fusions.get(name)
        check_options(f"fusion '{name}'", options, option_names(part))
        check_values(f"fusion '{name}'", options, part)
        made.append(Method(label, "fusion", tuple(views), {"name": name, **options}, shift))
    used, taken = {m.fusion["name"] for m in made}, {m.name for m in references}
    for name in settings:
        if name not in used:
            where = f"setting '{name}.{next(iter(settings[name]))}'"
            raise RecipeError(where, "is of a fusion that is not compared", fix=f"name it among --fusions: {', '.join([*used, name])}")
    for method in made:
        if method.name in taken or (method.name in fusions and method.name != method.fusion["name"]):
            raise RecipeError(f"method '{method.name}'", "has the name of another method", fix="give it another label")
    return references, sorted(made, key=lambda m: m.name != BASELINE)


def every(wanted: Any) -> bool:
    """Whether all fusions are asked for: those that cannot take the task are then left out and no mistake."""
    return wanted == "all" or (isinstance(wanted, list | tuple) and list(wanted) == ["all"])


def _read(label: str, given: Any) -> tuple[str, int, dict[str, Any]]:
    """A labelled method's fusion, the shift of its seeds and its options."""
    if not isinstance(given, str | Mapping):
        raise RecipeError(f"method '{label}'", f"is {given!r}", expected='the name of a fusion, or {"name": ..., "seed": ..., **options}')
    options = {"name": given} if isinstance(given, str) else dict(given)
    name, shift = options.pop("name", label), options.pop("seed", 0)
    if not isinstance(shift, int) or isinstance(shift, bool) or shift < 0:
        expected = "a whole number from 0 on, which is added to the seeds of its runs"
        raise RecipeError(f"method '{label}'", f"has the seed {shift!r}", expected=expected)
    return name, shift, options


def _labelled(wanted: Any) -> dict[str, Any]:
    if every(wanted):
        return {name: name for name in fusions.names()}
    if isinstance(wanted, Mapping):
        labelled = dict(wanted)
    else:
        names = [n.strip() for text in ([wanted] if isinstance(wanted, str) else wanted) for n in text.split(",") if n.strip()]
        for name in names:
            if name not in fusions:
                raise RecipeError(
                    f"fusion '{name}'",
                    "unknown",
                    expected=f"all, or some of {', '.join(fusions.names())}",
                    fix=did_you_mean(name, [*fusions.names(), "all"]),
                )
        labelled = {name: name for name in [*names, BASELINE]} if names else {}
    if not labelled:
        raise RecipeError("--fusions", "names none", expected="all, or names with commas between", fix="polyfuse parts fusions lists them")
    return labelled


def survivors(scores: Mapping[str, float], kept: Iterable[str]) -> list[str]:
    """The better half of the methods (more is better), at least one of them, and those that stay whatever they score.

    Source: the rule of Karnin et al. 2013, "Almost Optimal Exploration in Multi-Armed Bandits" (sequential halving).
    """
    kept = set(kept)
    ranked = sorted((m for m in scores if m not in kept), key=lambda m: -scores[m])
    return [m for m in scores if m in kept or m in ranked[: max(1, (len(ranked) + 1) // 2)]]
