"""Every error a user can cause: where it is, what is wrong, what was expected, how to fix it."""

import difflib
from collections.abc import Iterable


class Error(ValueError):
    """Base of all errors of polyfuse. The command line prints it without a traceback and exits with 2.

    Args:
        where: the place in the user's words, e.g. "column 'price', row 17 of pets.csv".
        what: what is wrong there.
        expected: what would have been right.
        fix: what the reader can do now.

    Example:
        >>> print(DataError("column 'price'", "cannot read '12,5o' as a number", expected="a decimal such as 12.5"))
        column 'price': cannot read '12,5o' as a number. Expected a decimal such as 12.5.
    """

    def __init__(self, where: str, what: str, *, expected: str = "", fix: str = ""):
        self.where, self.what, self.expected, self.fix = where, what, expected, fix
        parts = [_sentence(f"{where}: {what}")]
        if expected:
            parts.append(_sentence(f"Expected {expected}"))
        if fix:
            parts.append(_sentence(f"Fix: {fix}"))
        super().__init__(" ".join(parts))

    def at(self, where: str) -> "Error":
        """The same error told from a more exact place (a codec knows its column, the caller knows the row)."""
        return type(self)(where, self.what, expected=self.expected, fix=self.fix)


class DataError(Error):
    """A table or a cell does not hold what its schema says."""


class RecipeError(Error):
    """An option, a name or a combination of them is not valid."""


class BundleError(Error):
    """A saved bundle is incomplete, altered or from an unknown version."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The `fix` for a misspelt name: the nearest known one, or nothing.

    Example:
        >>> did_you_mean("cocnat", ["concat", "add"])
        "did you mean 'concat'?"
    """
    near = difflib.get_close_matches(str(wrong), list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".", "!")) else text + "."
