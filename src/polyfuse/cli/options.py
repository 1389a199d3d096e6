"""The options that several commands share, and how their texts are read."""

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
