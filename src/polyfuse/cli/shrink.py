"""Commands that make a bundle smaller: distil."""

from pathlib import Path
from typing import Annotated

import typer

import polyfuse as pf

from .options import (
    AsJson,
    BundleArg,
    Device,
    MaxRefused,
    Outside,
    Overwrite,
    Plugin,
    Seed,
    Setting,
    TableArg,
    Threads,
    arguments,
    show_json,
)


def distil(
    bundle: BundleArg,
    table: TableArg,
    to: Annotated[str, typer.Option(help="net, linear, one-modality (the best one), or the name of a view.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the small bundle.")],
    views: Annotated[str | None, typer.Option(help="Views the student looks at, with commas between; all unless named.")] = None,
    val: Annotated[
        str | None, typer.Option(help="Table of rows that judge the student while it learns; otherwise some are held out.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Labelled rows on which both are scored; otherwise the rows held out.")] = None,
    fusion: Annotated[str, typer.Option(help="Of a network: concat, add, gmu ...")] = "concat",
    size: Annotated[str, typer.Option(help="Of a network: s, m or l.")] = "s",
    time: Annotated[str | None, typer.Option(help="Budget of the whole command: 90s, 10m.")] = None,
    temperature: Annotated[float, typer.Option(help="Of a network: how far the teacher's probabilities are evened out.")] = 2.0,
    trust: Annotated[float, typer.Option(help="Share of the teacher in the loss of a row with a label of its own.", min=0, max=1)] = 0.7,
    seed: Seed = 0,
    setting: Setting = None,
    overwrite: Overwrite = False,
    device: Device = None,
    threads: Threads = None,
    max_refused: MaxRefused = 0.1,
    plugin: Plugin = None,
    allow_outside: Outside = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Teach a small bundle what a large one answers; rows need no label.

    Example: polyfuse distil pets.bundle pets.csv --to net --test test.csv --out small.bundle
    """
    student = pf.distil(**arguments(locals()))
    found = student.card["distilled"]
    if as_json:
        show_json(found)
    else:
        from polyfuse.compress import lines

        print("\n".join(lines(found)))
