"""Commands that learn from a table: look, fit, compare."""

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


def look(
    table: TableArg,
    target: Targets = None,
    column: Columns = None,
    ignore: Ignore = None,
    join: Join = None,
    window: WindowOption = None,
    task: Task = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
    out: Annotated[Path, typer.Option(help="Where the schema goes; edit it and give it to `fit --schema`.")] = Path("schema.json"),
) -> None:
    """Say what each column is, why, and how sure; write schema.json."""
    load_plugins(plugin)
    found = pf.look(
        table,
        target or None,
        columns=pairs_of("--column", column),
        ignore=ignore or [],
        join=joins_of(join),
        window=window,
        task=task,
        out=out,
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else "\n".join(found.lines()))
    print(f"wrote {out}", file=sys.stderr)


def fit(
    table: TableArg,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bundle.")],
    target: Targets = None,
    val: Annotated[str | None, typer.Option(help="Table of validation rows; otherwise some rows are held out.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="How far to go: fast, good (the default) or best; in at most 2, 10 and 60 minutes unless --time.")
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="Train one network with this fusion: concat, multiply, transformer ...")] = None,
    task: Task = None,
    schema: SchemaFile = None,
    recipe: Annotated[Path | None, typer.Option(help="A bundle or its recipe.json: repeat that fit.")] = None,
    column: Columns = None,
    ignore: Ignore = None,
    join: Join = None,
    window: WindowOption = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups are never split between training and validation.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of time: the latest rows are held out.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says train, val or test.")] = None,
    weight: Weight = None,
    size: Size = "m",
    time: Annotated[str | None, typer.Option(help="Budget of the whole command: 90s, 10m, 1h30m.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --out.")] = False,
    plugin: Plugin = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    setting: Setting = None,
    max_refused: MaxRefused = 0.1,
    allow_outside: Outside = False,
    absent: Annotated[
        list[str] | None, typer.Option("--absent", help="VIEW or VIEW+VIEW: train for rows without exactly these. Repeatable.")
    ] = None,
    objective: Objectives = None,
    main: Annotated[str | None, typer.Option(help="The target whose metric chooses the checkpoint; the first unless named.")] = None,
    log_to: Annotated[str | None, typer.Option(help="tensorboard, mlflow or wandb.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan of the preset with its times, and stop.")] = False,
) -> None:
    """Learn from a table and write a bundle.

    Under a preset many members learn, on each modality alone and on all; those that help answer together, and it says whether
    fusing pays. With --fusion one network is trained, and nothing else.

    Example: polyfuse fit pets.csv --target adopted --out pets.bundle --preset fast
    """
    load_plugins(plugin)
    pf.fit(
        table,
        target or None,
        out=out,
        val=val,
        preset=preset,
        fusion=fusion,
        task=task,
        schema=schema,
        recipe=recipe,
        columns=pairs_of("--column", column),
        ignore=ignore or [],
        join=joins_of(join),
        window=window,
        group=group,
        time_column=time_column,
        split_column=split_column,
        weight=weight,
        size=size,
        time=time,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        device=device,
        threads=threads,
        quiet=quiet,
        set=setting or [],
        max_refused=max_refused,
        allow_outside=allow_outside,
        absent=absent,
        objectives=objective or [],
        main=main,
        log_to=log_to,
        dry_run=dry_run,
    )


def compare(
    table: TableArg,
    target: Targets = None,
    fusions: Annotated[str, typer.Option(help="all, or names with commas between; `polyfuse parts fusions` lists them.")] = "all",
    pairs: Annotated[bool, typer.Option("--pairs", help="Also every two views together.")] = False,
    seeds: Annotated[int, typer.Option(help="How often the folds are cut anew.")] = 5,
    folds: Annotated[int, typer.Option(help="Folds of each cut.")] = 5,
    time: Annotated[str | None, typer.Option(help="Budget: 20m, 2h. Worse fusions are left behind to keep it.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for leaderboard, picture and runs; to go on, run it again.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another comparison in --out.")] = False,
    encoders: Annotated[
        str, typer.Option(help="own: each method trains its encoders. shared: those of the single views, run once; far faster.")
    ] = "own",
    schema: SchemaFile = None,
    column: Columns = None,
    ignore: Ignore = None,
    join: Join = None,
    window: WindowOption = None,
    task: Task = None,
    main: Annotated[str | None, typer.Option(help="Of several targets the one that is judged by. The first.")] = None,
    objective: Objectives = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups are never split between folds.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of time: each block is learned from what lies before it.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says which rows are for the last test: these take no part.")] = None,
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
    """Every view alone and every fusion on the same folds and seeds: a leaderboard, and whether fusing pays.

    Example: polyfuse compare pets.csv --target adopted --fusions concat,multiply,transformer --time 20m --out pets.compare
    """
    load_plugins(plugin)
    found = pf.compare(
        table,
        target or None,
        fusions=fusions,
        pairs=pairs,
        seeds=seeds,
        folds=folds,
        time=time,
        out=out,
        overwrite=overwrite,
        encoders=encoders,
        schema=schema,
        columns=pairs_of("--column", column),
        ignore=ignore or [],
        join=joins_of(join),
        window=window,
        task=task,
        main=main,
        objectives=objective or [],
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
