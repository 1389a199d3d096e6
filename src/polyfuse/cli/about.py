"""Commands that show what there is: info, parts, check, cache."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import polyfuse as pf

from .options import AsJson, BundleArg, Plugin, load_plugins, show_json


def info(
    bundle: BundleArg,
    as_json: AsJson = False,
    plugin: Plugin = None,
    plot: Annotated[Path | None, typer.Option(help="Draw how fast each view learned: a PNG.")] = None,
) -> None:
    """What a bundle is: columns, parts, data, figures, versions."""
    load_plugins(plugin)
    made = pf.Bundle.load(bundle)
    if plot:
        print(f"wrote {made.plot_learning(plot)}", file=sys.stderr)
    if as_json:
        show_json({"card": made.card, "recipe": made.recipe})
        return
    from polyfuse.card import description

    print("\n".join(description(made)))


def parts(
    kind: Annotated[str | None, typer.Argument(help="modalities, encoders, fusions, tasks, objectives or learners")] = None,
    as_json: AsJson = False,
) -> None:
    """List every part with its parameters, one line, its options and cost.

    Parameters are trainable ones at width 128: of a fusion with three views, of the others on a few example cells.
    """
    from polyfuse.catalogue import list_parts, listing

    found = list_parts(kind)
    if as_json:
        show_json(found)
        return
    for noun, entries in found.items():
        typer.secho(noun, bold=True)
        for line, more in listing(entries):
            print(line)
            if more:
                typer.secho(more, dim=True)


def check(file: Annotated[Path, typer.Argument(help="Python file with parts of your own.")]) -> None:
    """Run on your own parts the contract checks that ours pass."""
    from polyfuse.contract import check_file

    failed = 0
    for name, problem in check_file(file):
        print(f"{'FAIL' if problem else 'ok  '}  {name}" + (f": {problem}" if problem else ""))
        failed += bool(problem)
    if failed:
        raise typer.Exit(1)


def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False, as_json: AsJson = False) -> None:
    """Show the prepared store, or clear it. POLYFUSE_CACHE sets its folder, POLYFUSE_CACHE_GB its limit."""
    from polyfuse.data import size_text

    store = pf.Store()
    entries = store.entries()
    if as_json:
        show_json([{**e, "path": str(e["path"])} for e in entries])
    else:
        for e in entries:
            print(f"{e['key'][:12]}  {size_text(e['bytes']):>10}  {e['cells']:>8} cells  {e['column']}")
        print(f"{size_text(sum(e['bytes'] for e in entries))} of {size_text(store.limit)} in {store.root}")
    if clear:
        print(f"freed {size_text(store.clear())}", file=sys.stderr)
