"""The command line: a thin skin over the API, one function a command, the same names."""

import sys
from typing import Annotated

import typer

import polyfuse as pf

from .about import cache, check, info, parts
from .answer import evaluate, predict, robustness
from .learn import compare, fit, look, search
from .shrink import distil

app = typer.Typer(
    name="polyfuse",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learn from a table whose columns are text, images, sound, video, sensors, numbers and categories, together.\n\n"
    "First: [bold]polyfuse look TABLE[/bold], then [bold]polyfuse fit TABLE --target NAME --out BUNDLE[/bold], "
    "then [bold]polyfuse predict BUNDLE NEW --out ANSWERS.csv[/bold].",
)
for command in (look, fit, compare, search, predict, evaluate, robustness, distil, info, parts, check, cache):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"polyfuse {pf.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: an error of ours is one message and exit status 2; no traceback unless --debug."""
    try:
        app()
    except ValueError as error:
        if not _ours(error) or "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _ours(error: ValueError) -> bool:
    return any(c.__module__ == "polyfuse.core.errors" for c in type(error).__mro__)
