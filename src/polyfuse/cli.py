"""The command line: a thin skin over the API, one function a command, the same names."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import polyfuse as pf

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

TableArg = Annotated[str, typer.Argument(help="CSV, TSV, Parquet, JSON Lines (also .gz, .zst), or a folder of class folders.")]
BundleArg = Annotated[Path, typer.Argument(help="A folder that `polyfuse fit` wrote.")]
Targets = Annotated[list[str] | None, typer.Option("--target", "-t", help="Column to predict. Repeat for several.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="NAME=MODALITY, overruling the guess. Repeatable.")]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", help="Column to leave out. Repeatable.")]
Join = Annotated[list[str] | None, typer.Option("--join", help="NAME=MODALITY:c1,margin*: one cell of several columns. Repeatable.")]
WindowOption = Annotated[
    str | None, typer.Option("--window", help="id=unit,order=cycle,length=40[,stride=1][,horizon=0]: cut a long table.")
]
Task = Annotated[str | None, typer.Option("--task", help="binary, multiclass, multilabel, regression or quantile. Found unless named.")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="The file that `look` wrote.")]
Weight = Annotated[str | None, typer.Option(help="Column with each row's weight.")]
Size = Annotated[str, typer.Option(help="s, m or l: width, and with it speed and memory.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default the fastest there is.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads.", min=1)]
Setting = Annotated[list[str] | None, typer.Option("--set", help="part.option=value, e.g. photo.encoder=image-resnet. Repeatable.")]
Objectives = Annotated[list[str] | None, typer.Option("--objective", help="NAME=WEIGHT: an auxiliary loss: contrastive=0.1. Repeatable.")]
MaxRefused = Annotated[float, typer.Option(help="Largest share of a column's cells that may be unreadable.", min=0, max=1)]
Plugin = Annotated[list[Path] | None, typer.Option("--plugin", help="Python file with parts of your own. Repeatable.")]
Outside = Annotated[bool, typer.Option("--allow-outside", help="Also read media outside the table's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"polyfuse {pf.__version__}")
        raise typer.Exit


@app.command()
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
    _plugins(plugin)
    found = pf.look(
        table, target or None, columns=_pairs("--column", column), ignore=ignore or [], join=_joins(join), window=window, task=task, out=out
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else "\n".join(found.lines()))
    print(f"wrote {out}", file=sys.stderr)


@app.command()
def fit(
    table: TableArg,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bundle.")],
    target: Targets = None,
    val: Annotated[str | None, typer.Option(help="Table of validation rows; otherwise some rows are held out.")] = None,
    fusion: Annotated[str | None, typer.Option(help="concat, add, multiply, weighted, attention, transformer ...")] = None,
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
) -> None:
    """Train on a table and write a bundle.

    Example: polyfuse fit pets.csv --target adopted --out pets.bundle --time 10m
    """
    _plugins(plugin)
    pf.fit(
        table,
        target or None,
        out=out,
        val=val,
        fusion=fusion,
        task=task,
        schema=schema,
        recipe=recipe,
        columns=_pairs("--column", column),
        ignore=ignore or [],
        join=_joins(join),
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
    )


@app.command()
def predict(
    bundle: BundleArg,
    table: TableArg,
    out: Annotated[Path, typer.Option("--out", "-o", help=".csv, .parquet or .jsonl")],
    plugin: Plugin = None,
    allow_outside: Outside = False,
    strict: Annotated[bool, typer.Option("--strict", help="No answer for a row with an unreadable cell.")] = False,
) -> None:
    """Answer every row of a table. Cells, and whole columns, may be missing."""
    _plugins(plugin)
    answers = pf.Bundle.load(bundle).predict(table, allow_outside=allow_outside, strict=strict)
    answers.write(out)
    for note in answers.notes:
        print(f"note: {note}", file=sys.stderr)
    flagged = sum(bool(a["warnings"]) for a in answers)
    print(f"wrote {len(answers)} rows to {out}" + (f", {flagged} with warnings" if flagged else ""), file=sys.stderr)


@app.command()
def evaluate(bundle: BundleArg, table: TableArg, as_json: AsJson = False, plugin: Plugin = None, allow_outside: Outside = False) -> None:
    """Metrics with 95 % intervals on labelled rows."""
    _plugins(plugin)
    found = pf.Bundle.load(bundle).evaluate(table, allow_outside=allow_outside)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
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


@app.command()
def robustness(
    bundle: BundleArg,
    table: TableArg,
    against: Annotated[
        Path | None, typer.Option(help="Bundle of a late fusion: how much more robust than it (effective robustness)?")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for curves.csv, robustness.json and robustness.png.")] = None,
    rates: Annotated[str, typer.Option(help="Shares of missing or swapped cells, and levels of noise, in [0, 1).")] = ",".join(
        f"{rate / 10:g}" for rate in range(10)
    ),
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

    _plugins(plugin)
    found = pf.Bundle.load(bundle).robustness(
        table,
        against=pf.Bundle.load(against) if against else None,
        rates=_rates(rates),
        kinds=[kind.strip() for kind in kinds.split(",") if kind.strip()],
        views=view or None,
        target=target,
        most=most,
        seed=seed,
        allow_outside=allow_outside,
        progress=Progress(quiet),
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else "\n".join(found.lines()))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if out:
        print(f"wrote {found.write(out)}", file=sys.stderr)


@app.command()
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
    _plugins(plugin)
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
        columns=_pairs("--column", column),
        ignore=ignore or [],
        join=_joins(join),
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


@app.command()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False, as_json: AsJson = False) -> None:
    """Show the prepared store, or clear it. POLYFUSE_CACHE sets its folder, POLYFUSE_CACHE_GB its limit."""
    from polyfuse.data import size_text

    store = pf.Store()
    entries = store.entries()
    if as_json:
        print(json.dumps([{**e, "path": str(e["path"])} for e in entries], ensure_ascii=False, indent=1))
    else:
        for e in entries:
            print(f"{e['key'][:12]}  {size_text(e['bytes']):>10}  {e['cells']:>8} cells  {e['column']}")
        print(f"{size_text(sum(e['bytes'] for e in entries))} of {size_text(store.limit)} in {store.root}")
    if clear:
        print(f"freed {size_text(store.clear())}", file=sys.stderr)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Python file with parts of your own.")]) -> None:
    """Run on your own parts the contract checks that ours pass."""
    from polyfuse.contract import check_file

    failed = 0
    for name, problem in check_file(file):
        print(f"{'FAIL' if problem else 'ok  '}  {name}" + (f": {problem}" if problem else ""))
        failed += bool(problem)
    if failed:
        raise typer.Exit(1)


@app.command()
def info(
    bundle: BundleArg,
    as_json: AsJson = False,
    plugin: Plugin = None,
    plot: Annotated[Path | None, typer.Option(help="Draw how fast each view learned: a PNG.")] = None,
) -> None:
    """What a bundle is: columns, parts, data, figures, versions."""
    _plugins(plugin)
    made = pf.Bundle.load(bundle)
    if plot:
        print(f"wrote {made.plot_learning(plot)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"card": made.card, "recipe": made.recipe}, ensure_ascii=False, indent=1))
        return
    from polyfuse.card import description

    print("\n".join(description(made)))


@app.command()
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
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for noun, entries in found.items():
        typer.secho(noun, bold=True)
        for line, more in listing(entries):
            print(line)
            if more:
                typer.secho(more, dim=True)


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


def _plugins(files: list[Path] | None) -> None:
    for file in files or []:
        pf.load_plugin(file)


def _rates(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise pf.RecipeError(f"--rates '{text}'", "are no numbers", expected="numbers in [0, 1), such as 0,.3,.6,.9") from None


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, sep, value = text.rpartition("=")
        if not sep or not name:
            raise pf.RecipeError(f"{option} '{text}'", "has no '='", expected=f"{option} NAME=MODALITY")
        pairs[name] = value
    return pairs


def _joins(texts: list[str] | None) -> dict[str, Any]:
    joins = {}
    for name, value in _pairs("--join", texts).items():
        modality, sep, sources = value.partition(":")
        if not sep:
            raise pf.RecipeError(f"--join '{name}={value}'", "names no columns", expected="--join NAME=MODALITY:c1,margin*")
        joins[name] = (modality, [s for s in sources.split(",") if s])
    return joins


if __name__ == "__main__":
    main()
