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
    schema: Annotated[Path | None, typer.Option(help="The file that `look` wrote.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A bundle or its recipe.json: repeat that fit.")] = None,
    column: Columns = None,
    ignore: Ignore = None,
    join: Join = None,
    window: WindowOption = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups are never split between training and validation.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of time: the latest rows are held out.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says train, val or test.")] = None,
    weight: Annotated[str | None, typer.Option(help="Column with each row's weight.")] = None,
    size: Annotated[str, typer.Option(help="s, m or l: width, and with it speed and memory.")] = "m",
    time: Annotated[str | None, typer.Option(help="Budget of the whole command: 90s, 10m, 1h30m.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --out.")] = False,
    plugin: Plugin = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default the fastest there is.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.", min=1)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="part.option=value, e.g. fusion.depth=3, photo.encoder=image-resnet. Repeatable.")
    ] = None,
    max_refused: Annotated[float, typer.Option(help="Largest share of a column's cells that may be unreadable.", min=0, max=1)] = 0.1,
    allow_outside: Outside = False,
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
def info(bundle: BundleArg, as_json: AsJson = False, plugin: Plugin = None) -> None:
    """What a bundle is: columns, parts, data, figures, versions."""
    _plugins(plugin)
    made = pf.Bundle.load(bundle)
    if as_json:
        print(json.dumps({"card": made.card, "recipe": made.recipe}, ensure_ascii=False, indent=1))
        return
    from polyfuse.card import summary

    card = made.card
    model, data = card["model"], card["data"]
    print(f"fusion {model['fusion']}, {model['parameters']:,} parameters, made {card['made']} by polyfuse {card['versions']['polyfuse']}")
    print(f"trained on {data['trained_on']} rows of {data['name']}, {data['held_out']} held out ({data['split']})")
    for c in made.schema.columns:
        encoder = model["encoders"].get(c.name, "")
        print(f"  {c.name:<24} {c.role:<7} {c.modality:<9} {encoder}")
    print("\n".join(summary(card)))


@app.command()
def parts(
    kind: Annotated[str | None, typer.Argument(help="modalities, encoders, fusions or tasks")] = None, as_json: AsJson = False
) -> None:
    """List every part with one line and its options."""
    from polyfuse.contract import list_parts

    found = list_parts(kind)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for noun, entries in found.items():
        print(noun)
        for entry in entries:
            options = " ".join(f"{k}={v}" for k, v in entry["options"].items())
            print(f"  {entry['name']:<20} {entry['summary']}" + (f"\n  {'':<20} {options}" if options else ""))


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
