"""Learners that need a package which is not always installed."""

from importlib.util import find_spec

from ..core import RecipeError


def missing(*packages: str) -> dict[str, str]:
    """`exempt` of a learner that needs these: empty where all are installed."""
    absent = [name for name in packages if find_spec(name) is None]
    return {"all": f"needs {' and '.join(absent)}, not installed here"} if absent else {}


def need(learner: str, extra: str, *packages: str) -> None:
    """
    Raises:
        RecipeError: one of them is not installed.
    """
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        what = f"needs {' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed"
        raise RecipeError(f"learner '{learner}'", what, fix=f"pip install polyfuse[{extra}]")
