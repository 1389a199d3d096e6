"""Commands that answer, and say how well: predict, evaluate, robustness."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import polyfuse as pf

from .options import AsJson, BundleArg, Outside, Plugin, TableArg, load_plugins, names_of, show, show_json

_RATES = ",".join(f"{rate / 10:g}" for rate in range(10))


def predict(
    bundle: BundleArg,
    table: TableArg,
    out: Annotated[Path, typer.Option("--out", "-o", help=".csv, .parquet or .jsonl")],
    plugin: Plugin = None,
    allow_outside: Outside = False,
    strict: Annotated[bool, typer.Option("--strict", help="No answer for a row with an unreadable cell.")] = False,
) -> None:
    """Answer every row of a table. Cells, and whole columns, may be missing."""
    load_plugins(plugin)
    answers = pf.Bundle.load(bundle).predict(table, allow_outside=allow_outside, strict=strict)
    answers.write(out)
    for note in answers.notes:
        print(f"note: {note}", file=sys.stderr)
    flagged = sum(bool(a["warnings"]) for a in answers)
    print(f"wrote {len(answers)} rows to {out}" + (f", {flagged} with warnings" if flagged else ""), file=sys.stderr)


def evaluate(bundle: BundleArg, table: TableArg, as_json: AsJson = False, plugin: Plugin = None, allow_outside: Outside = False) -> None:
    """Metrics with 95 % intervals on labelled rows."""
    load_plugins(plugin)
    found = pf.Bundle.load(bundle).evaluate(table, allow_outside=allow_outside)
    if as_json:
        show_json(found)
        return
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for target, metrics in found["metrics"].items():
        print(f"{target}, {found['rows']} rows")
        for name, figure in metrics.items():
            around = f"  [{figure['low']:.4g}, {figure['high']:.4g}]" if figure.get("low") is not None else ""
            print(f"  {name:<14} {figure['value']:.4g}{around}")
    for name, count in found["refused"].items():
        print(f"refused: {count} cells of '{name}' could not be read and count as missing", file=sys.stderr)


def robustness(
    bundle: BundleArg,
    table: TableArg,
    against: Annotated[
        Path | None, typer.Option(help="Bundle of a late fusion: how much more robust than it (effective robustness)?")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for curves.csv, robustness.json and robustness.png.")] = None,
    rates: Annotated[str, typer.Option(help="Shares of missing or swapped cells, and levels of noise, in [0, 1).")] = _RATES,
    kinds: Annotated[str, typer.Option(help="missing: cells gone; noise: cells noisy; swap: cells of another row.")] = "missing,noise,swap",
    view: Annotated[list[str] | None, typer.Option("--view", help="Only this view, a column or `table`. Repeatable.")] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Which target is scored; the first unless named.")] = None,
    most: Annotated[int, typer.Option(help="Rows that are used, drawn at random; 0 = all.", min=0)] = 4000,
    seed: Annotated[int, typer.Option(help="Of the faults: same seed, same figures.")] = 0,
    as_json: AsJson = False,
    plugin: Plugin = None,
    allow_outside: Outside = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Score against the rate of missing, noisy and swapped cells, for each view and pair of views.

    A score that holds bears the fault; one worse than "looks at nothing" is misled by it.

    [bold]relative[/bold] is the mean over the rates, [bold]effective[/bold] how much better that is than what --against loses.

    Example: polyfuse robustness pets.bundle test.csv --against late.bundle --out robustness
    """
    from polyfuse.core.progress import Progress

    load_plugins(plugin)
    found = pf.Bundle.load(bundle).robustness(
        table,
        against=pf.Bundle.load(against) if against else None,
        rates=rates_of(rates),
        kinds=names_of(kinds),
        views=view or None,
        target=target,
        most=most,
        seed=seed,
        allow_outside=allow_outside,
        progress=Progress(quiet),
    )
    show(found, as_json)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if out:
        print(f"wrote {found.write(out)}", file=sys.stderr)


def rates_of(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise pf.RecipeError(f"--rates '{text}'", "are no numbers", expected="numbers in [0, 1), such as 0,.3,.6,.9") from None
