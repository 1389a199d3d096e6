"""Quality on real data sets, three seeds each, against figures that were published or that quick scripts reach.

    python benchmarks/real.py [--quick] [--data FOLDER] [--only NAME ...] [--seeds 3]

The sets lie in a folder with one subfolder each (train.csv, test.csv, media; see `SETS`); a set that is not there is
left out and said so. Inputs are exactly the columns named here: no other column of a file can leak into a model.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from result import ROOT, Report, arguments

import polyfuse as pf

LETTERS = ("margin", "shape", "texture")


def accuracy(bundle: pf.Bundle, folder: Path, rows: int | None) -> float:
    found = bundle.evaluate(head(folder / "test.csv", rows))["metrics"]
    return next(iter(found.values()))["accuracy"]["value"]


def last_cycle_rmse(bundle: pf.Bundle, folder: Path, rows: int | None) -> float:
    """Against the true remaining life, not the capped one it was trained on, at each engine's last cycle."""
    table = pf.read(folder / "test.csv")
    unit, cycle, rul, last = (table.column(c).to_pylist() for c in ("unit", "cycle", "rul", "is_last"))
    truth = {(u, c): float(r) for u, c, r, end in zip(unit, cycle, rul, last) if end in (1, True, "1", "True", "true")}
    answers = bundle.predict(folder / "test.csv")
    where = zip(answers.carried["unit"], answers.carried["cycle"])
    errors = [value - truth[at] for at, value in zip(where, answers.values()) if at in truth]
    assert len(errors) == len(truth), "every engine has one last cycle"
    return math.sqrt(statistics.fmean(e * e for e in errors))


@dataclass(frozen=True)
class Set:
    """One data set.

    Args:
        columns: what the model may see, and the target; nothing else is read.
        bar: what `measure` must reach, at least or (with `less`) at most.
        known: figures to compare with, for the reader.
    """

    columns: tuple[pf.Column, ...]
    measure: Callable[[pf.Bundle, Path, int | None], float]
    unit: str
    bar: float
    known: str
    less: bool = False
    fusion: str = "concat"
    window: pf.Window | None = None
    val: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    size: str = "m"


SETS = {
    "av_digits": Set(
        (pf.Column("image", "image"), pf.Column("audio", "audio"), pf.Column("label", "category", role="target")),
        accuracy,
        "accuracy",
        0.86,
        "naive fusion .840, best single .653, a 60-line script .857",
    ),
    "easy_vqa": Set(
        (pf.Column("image", "image"), pf.Column("question", "text"), pf.Column("answer", "category", role="target")),
        accuracy,
        "accuracy",
        0.98,
        "published .995; a quick script with a product .9999, with concat .878",
        fusion="multiply",
        val=False,
        # every word of a question and every colour decides: none is hidden or changed
        settings={"question.drop": 0, "image.augment": 0, "train.epochs": 6},
    ),
    "leaf100": Set(
        (
            pf.Column("image", "image"),
            *(pf.Column(view, "vector", sources=tuple(f"{view}{i}" for i in range(1, 65))) for view in LETTERS),
            pf.Column("species", "category", role="target"),
        ),
        accuracy,
        "accuracy",
        0.97,
        "all columns naively .983, views alone .60 to .76",
    ),
    "cmapss_fd001": Set(
        (
            pf.Column("sensors", "series", sources=tuple([f"setting{i}" for i in (1, 2, 3)] + [f"s{i:02}" for i in range(1, 22)])),
            pf.Column("unit", "category", role="group"),
            pf.Column("rul125", "number", role="target"),
        ),
        last_cycle_rmse,
        "RMSE",
        14.5,
        "published LSTM 14.93, CNN 16.97; a quick GRU 14.7",
        less=True,
        window=pf.Window(id="unit", order="cycle", length=40),
        val=False,
        settings={
            "sensors.encoder": "series-gru",
            "sensors.last": True,
            "sensors.depth": 1,
            "sensors.dropout": 0.3,
            "fusion.dropout": 0.3,
            "sensors.augment": 2.0,
            "train.epochs": 6,
        },
        size="s",
    ),
}


def run(name: str, folder: Path, seed: int, quick: bool) -> float:
    the = SETS[name]
    rows = 600 if quick and not the.window else None
    val = head(folder / "val.csv", rows) if the.val else None
    start = time.monotonic()
    bundle = pf.fit(
        head(folder / "train.csv", rows),
        schema=pf.Schema(the.columns, the.window),
        val=val,
        fusion=the.fusion,
        seed=seed,
        set=the.settings,
        size=the.size,
        time="8s" if quick else None,
    )
    value = the.measure(bundle, folder, 300 if quick else None)
    print(f"{name}, seed {seed}: {the.unit} {value:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return value


def head(path: Path, rows: int | None) -> pf.Table:
    """The table, or its first rows."""
    table = pf.read(path)
    return table if rows is None else table.take(np.arange(min(rows, len(table))))


def on_sets(names: Iterable[str]) -> Callable[[argparse.ArgumentParser], None]:
    """Where the sets are, which of `names` are wanted, and how many seeds."""

    def extend(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the sets")
        parser.add_argument("--only", nargs="*", choices=list(names), default=list(names), help="these alone")
        parser.add_argument("--seeds", type=int, default=3)

    return extend


def main() -> None:
    given = arguments(__doc__, on_sets(SETS))
    report = Report(__file__, given.quick)
    seeds = 1 if given.quick else given.seeds
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("POLYFUSE_CACHE", cache)
        for name in given.only:
            folder = given.data / name
            if not folder.is_dir():
                print(f"{name}: left out, {folder} is not there")
                continue
            the = SETS[name]
            values = [run(name, folder, seed, given.quick) for seed in range(seeds)]
            bar = {"at_most" if the.less else "at_least": the.bar}
            print(f"{name}: compare {the.known}")
            report.add(
                f"{name}, {the.fusion}, test {the.unit}, {seeds} seeds",
                statistics.fmean(values),
                statistics.stdev(values) if seeds > 1 else 0.0,
                the.unit,
                **bar,
            )
    report.close()


if __name__ == "__main__":
    main()
