"""Commands that learn from a table: look, fit, compare, search."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import polyfuse as pf

from .options import (
    AsJson,
    Columns,
    Device,
    FoldGroup,
    Ignore,
    Join,
    MaxRefused,
    Objectives,
    Outside,
    Overwrite,
    Plugin,
    ResultAlone,
    SchemaFile,
    Seed,
    Setting,
    Size,
    SplitColumn,
    TableArg,
    Targets,
    Task,
    Threads,
    Weight,
    WindowOption,
    arguments,
    show,
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
    found = pf.look(**arguments(locals()))
    show(found, as_json)
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
    split_column: SplitColumn = None,
    weight: Weight = None,
    size: Size = "m",
    time: Annotated[str | None, typer.Option(help="Budget of the whole command: 90s, 10m, 1h30m.")] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    overwrite: Overwrite = False,
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
    pf.fit(**arguments(locals()))


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
    group: FoldGroup = None,
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
    quiet: ResultAlone = False,
    as_json: AsJson = False,
) -> None:
    """Every view alone and every fusion on the same folds and seeds: a leaderboard, and whether fusing pays.

    Example: polyfuse compare pets.csv --target adopted --fusions concat,multiply,transformer --time 20m --out pets.compare
    """
    found = pf.compare(**arguments(locals()))
    show(found, as_json)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)


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
    group: FoldGroup = None,
    time_column: Annotated[str | None, typer.Option(help="Column of time: rows are scored by what was learned before them.")] = None,
    split_column: SplitColumn = None,
    weight: Weight = None,
    size: Size = "m",
    device: Device = None,
    threads: Threads = None,
    setting: Setting = None,
    max_refused: MaxRefused = 0.1,
    plugin: Plugin = None,
    allow_outside: Outside = False,
    quiet: ResultAlone = False,
    as_json: AsJson = False,
) -> None:
    """Look for better options of a network or a learner: trial after trial on the same rows, the defaults first.

    Example: polyfuse search pets.csv --target adopted --fusion lowrank --time 20m --out pets.search
    """
    found = pf.search(**arguments(locals()))
    show(found, as_json)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
