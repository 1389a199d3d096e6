"""The command that looks for better options: search."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

import polyfuse as pf

from .options import (
    AsJson,
    Columns,
    Device,
    Ignore,
    Join,
    MaxRefused,
    Objectives,
    Outside,
    Plugin,
    SchemaFile,
    Setting,
    Size,
    TableArg,
    Targets,
    Task,
    Threads,
    Weight,
    WindowOption,
    joins_of,
    load_plugins,
    pairs_of,
)


def search(
    table: TableArg,
    target: Targets = None,
    fusion: Annotated[str | None, typer.Option(help="Search a network with this fusion; concat unless named.")] = None,
    learner: Annotated[str | None, typer.Option(help="Search this learner: boost, linear, tabm ...")] = None,
    space: Annotated[
        list[str] | None, typer.Option("--space", help="part.option=low..high, log:low..high or a|b|c. Repeatable; else the usual ones.")
    ] = None,
    trials: Annotated[int, typer.Option(help="How many, those from before included.")] = 50,
    folds: Annotated[int | None, typer.Option(help="Folds each trial learns from; 1 = some rows are held out.")] = None,
    time: Annotated[str | None, typer.Option(help="Budget of the trials: 20m, 2h.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for trials.csv and best.json; to go on, run it again.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another search in --out, or the bundle of --fit.")] = False,
    fit: Annotated[Path | None, typer.Option("--fit", help="Then fit with the best options and write this bundle.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same trials.")] = 0,
    schema: SchemaFile = None,
    column: Columns = None,
    ignore: Ignore = None,
    join: Join = None,
    window: WindowOption = None,
    task: Task = None,
    main: Annotated[str | None, typer.Option(help="Of several targets the one that is scored. The first.")] = None,
    objective: Objectives = None,
    absent: Annotated[list[str] | None, typer.Option("--absent", help="VIEW or VIEW+VIEW, as in `fit`. Repeatable.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups are never split between folds.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of time: rows are scored by what was learned before them.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says train, val or test.")] = None,
    weight: Weight = None,
    size: Size = "m",
    device: Device = None,
    threads: Threads = None,
    setting: Setting = None,
    max_refused: MaxRefused = 0.1,
    plugin: Plugin = None,
    allow_outside: Outside = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for better options of a network or a learner: trial after trial on the same rows, the defaults first.

    Example: polyfuse search pets.csv --target adopted --fusion lowrank --time 20m --out pets.search
    """
    load_plugins(plugin)
    found = pf.search(
        table,
        target or None,
        fusion=fusion,
        learner=learner,
        space=space,
        trials=trials,
        folds=folds,
        time=time,
        out=out,
        overwrite=overwrite,
        fit_to=fit,
        seed=seed,
        schema=schema,
        columns=pairs_of("--column", column),
        ignore=ignore or [],
        join=joins_of(join),
        window=window,
        task=task,
        main=main,
        objectives=objective or [],
        absent=absent,
        group=group,
        time_column=time_column,
        split_column=split_column,
        weight=weight,
        size=size,
        device=device,
        threads=threads,
        quiet=quiet,
        set=setting or [],
        max_refused=max_refused,
        allow_outside=allow_outside,
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else "\n".join(found.lines()))
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
