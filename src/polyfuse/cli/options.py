"""What several commands share: options, how their texts are read, how a result is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import polyfuse as pf

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
FoldGroup = Annotated[str | None, typer.Option(help="Column whose groups are never split between folds.")]
SplitColumn = Annotated[str | None, typer.Option(help="Column that says train, val or test.")]
Weight = Annotated[str | None, typer.Option(help="Column with each row's weight.")]
Size = Annotated[str, typer.Option(help="s, m or l: width, and with it speed and memory.")]
Seed = Annotated[int, typer.Option(help="Same seed, same weights.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing --out.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default the fastest there is.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; by default one for each processor that this process may use.", min=1)]
Setting = Annotated[list[str] | None, typer.Option("--set", help="part.option=value, e.g. photo.encoder=image-resnet. Repeatable.")]
Objectives = Annotated[list[str] | None, typer.Option("--objective", help="NAME=WEIGHT: an auxiliary loss: contrastive=0.1. Repeatable.")]
MaxRefused = Annotated[float, typer.Option(help="Largest share of a column's cells that may be unreadable.", min=0, max=1)]
Plugin = Annotated[list[Path] | None, typer.Option("--plugin", help="Python file with parts of your own. Repeatable.")]
Outside = Annotated[bool, typer.Option("--allow-outside", help="Also read media outside the table's folder.")]
ResultAlone = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_plugins(files: list[Path] | None) -> None:
    for file in files or []:
        pf.load_plugin(file)


def pairs_of(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, sep, value = text.rpartition("=")
        if not sep or not name:
            raise pf.RecipeError(f"{option} '{text}'", "has no '='", expected=f"{option} NAME=MODALITY")
        pairs[name] = value
    return pairs


def joins_of(texts: list[str] | None) -> dict[str, Any]:
    joins = {}
    for name, value in pairs_of("--join", texts).items():
        modality, sep, sources = value.partition(":")
        if not sep:
            raise pf.RecipeError(f"--join '{name}={value}'", "names no columns", expected="--join NAME=MODALITY:c1,margin*")
        joins[name] = (modality, [s for s in sources.split(",") if s])
    return joins


def names_of(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


# what the API calls an option where it is not the same, and how an option's text is read
_NAMES = {"table": "rows", "bundle": "teacher", "column": "columns", "objective": "objectives", "setting": "set", "fit": "fit_to"}
_READ: dict[str, Callable[[Any], Any]] = {"column": lambda texts: pairs_of("--column", texts), "join": joins_of, "views": names_of}


def arguments(said: dict[str, Any]) -> dict[str, Any]:
    """What a command was told, its `locals()`, as the function of the same name takes it; plugins are loaded first."""
    load_plugins(said["plugin"])
    return {_NAMES.get(k, k): _READ[k](v) if k in _READ else v for k, v in said.items() if k not in ("plugin", "as_json")}


def show(found: Any, as_json: bool) -> None:
    """A result, as what its `to_json` or its `lines` make of it."""
    if as_json:
        show_json(found.to_json())
    else:
        print("\n".join(found.lines()))


def show_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
