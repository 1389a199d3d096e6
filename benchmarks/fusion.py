"""Fusions on data that needs them, with absent views, and the harness that compares them.

    python benchmarks/fusion.py [--quick] [--data FOLDER] [--only NAME ...] [--seeds 3]

Sections: match, digits, av_digits, easy_vqa, leaf100, harness, false. Real sets are those of sets.py; one that is not
there is left out and said so.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from real import on_sets
from result import Report, arguments
from sets import SETS, accuracy, head

import polyfuse as pf

VIDEO = {"video.size": 32, "video.frames": 8, "video.encoder": "video-pool"}  # it moves, but which digit it is does not
_LONG = {"train.drop": 0, "train.epochs": 40, "train.batch": 32, "train.rate": 0.004, "audio.augment": 0.5, "video.augment": 0.7}
_PAIRED: dict[str, Any] = {
    "size": "s",
    "objectives": {"contrastive": {"weight": 2.0, "pairs": "match"}},
    "set": {**_LONG, "fusion.dropout": 0.5, "video.frames": 12},
}
MATCH: dict[str, dict[str, Any]] = {  # what `fit` is given; the first has to reach the bar, the others stand beside it
    "similarity, contrastive": {"fusion": "similarity", **_PAIRED},
    "concat, contrastive": {"fusion": "concat", **_PAIRED},
}
_SHORT = {"train.drop": 0, "train.epochs": 30, "train.batch": 32}
DIGITS: dict[str, dict[str, Any]] = {
    "similarity, heads": {"fusion": "similarity", "size": "s", "main": "match", "objectives": {"heads": 1.0}, "set": _SHORT},
    "concat, heads": {"fusion": "concat", "size": "s", "main": "match", "objectives": {"heads": 1.0}, "set": _SHORT},
}


def moving(extra: tuple[str, ...] = ()) -> pf.Schema:
    columns = [pf.Column("video", "video"), pf.Column("audio", "audio"), pf.Column("match", "category", role="target")]
    return pf.Schema((*columns, *(pf.Column(name, "category", role="target") for name in extra)))


def match(report: Report, given: argparse.Namespace, extra: tuple[str, ...] = ()) -> None:
    """Does the spoken digit match the moving one? Each view alone is at chance."""
    folder, methods = given.data / "moving_digits_av", DIGITS if extra else MATCH
    bar, told = (0.96, "match with both digits as targets") if extra else (0.93, "match alone")
    rows, seeds = (200, 1) if given.quick else (None, given.seeds)
    for name, options in methods.items():
        values, best = [], name == next(iter(methods))
        for seed in range(seeds if best else 1):
            start = time.monotonic()
            settings = {**VIDEO, **options.get("set", {}), **({"train.epochs": 1} if given.quick else {})}
            bundle = pf.fit(
                head(folder / "train.csv", rows),
                schema=moving(extra),
                val=head(folder / "val.csv", rows),
                seed=seed,
                **{**options, "set": settings},
            )
            values.append(bundle.evaluate(head(folder / "test.csv", rows))["metrics"]["match"]["accuracy"]["value"])
            print(f"{told}: {name}, seed {seed}: accuracy {values[-1]:.4f}, {time.monotonic() - start:.0f} s", flush=True)
        report.add(f"moving_digits_av, {told}: {name}, {len(values)} seeds", *mean(values), "accuracy", at_least=bar if best else None)


def digits(report: Report, given: argparse.Namespace) -> None:
    match(report, given, ("video_digit", "audio_digit"))


def of_real(name: str, fusions: tuple[str, ...], bar: float) -> Callable[[Report, argparse.Namespace], None]:
    """One set of `real.py` with these fusions; the first has to reach the bar."""

    def section(report: Report, given: argparse.Namespace) -> None:
        the, folder = SETS[name], given.data / name
        rows, seeds = (400, 1) if given.quick else (None, given.seeds)
        for fusion in fusions:
            values = []
            for seed in range(seeds if fusion == fusions[0] else 1):
                start = time.monotonic()
                bundle = pf.fit(
                    head(folder / "train.csv", rows),
                    schema=pf.Schema(the.columns),
                    val=head(folder / "val.csv", rows) if the.val else None,
                    fusion=fusion,
                    seed=seed,
                    set={**the.settings, **({"train.epochs": 1} if given.quick else {})},
                )
                values.append(accuracy(bundle, folder, 300 if given.quick else None))
                print(f"{name}: {fusion}, seed {seed}: accuracy {values[-1]:.4f}, {time.monotonic() - start:.0f} s", flush=True)
            bars = {"at_least": bar} if fusion == fusions[0] else {}
            report.add(f"{name}, {fusion}, {len(values)} seeds", *mean(values), "accuracy", **bars)

    return section


def leaf100(report: Report, given: argparse.Namespace) -> None:
    """Trained on complete rows; in every test row one view of the four, drawn at random, is absent."""
    the, folder = SETS["leaf100"], given.data / "leaf100"
    seeds = 1 if given.quick else given.seeds
    for drop in (0.4, 0.0):
        whole, lacking = [], []
        for seed in range(seeds if drop else 1):
            bundle = pf.fit(
                folder / "train.csv",
                schema=pf.Schema(the.columns),
                val=folder / "val.csv",
                fusion="add",
                objectives={"heads": 1.0},  # else the textures are so telling that the picture is never learned
                seed=seed,
                set={"train.drop": drop, **({"train.epochs": 2} if given.quick else {})},
            )
            test = pf.read(folder / "test.csv")
            whole.append(bundle.evaluate(test)["metrics"]["species"]["accuracy"]["value"])
            lacking.append(bundle.evaluate(one_absent(test, the.columns, seed))["metrics"]["species"]["accuracy"]["value"])
            print(f"leaf100, drop {drop}, seed {seed}: {whole[-1]:.4f} whole, {lacking[-1]:.4f} with one view absent", flush=True)
        told = "with modality dropout" if drop else "without it"
        lost = [100 * (a - b) for a, b in zip(whole, lacking)]
        figure = f"leaf100, one view of four absent: points lost {told}, {len(lost)} seeds"
        report.add(figure, *mean(lost), "points", at_most=3.0 if drop else None)


def one_absent(table: pf.Table, columns: tuple[pf.Column, ...], seed: int) -> pf.Table:
    inputs = [c for c in columns if c.role == "input"]
    chosen = np.random.default_rng(seed).integers(len(inputs), size=len(table))
    arrow = table.arrow
    for number, column in enumerate(inputs):
        gone = pa.array(chosen == number)
        for name in column.reads:
            at = arrow.schema.get_field_index(name)
            arrow = arrow.set_column(at, name, pc.if_else(gone, pa.scalar(None, arrow.schema.field(at).type), arrow.column(at)))
    return pf.read(arrow, base=table.base)


def harness(report: Report, given: argparse.Namespace) -> None:
    """All methods compared on stored features of av_digits, against the same trainings one after the other by hand."""
    from polyfuse.compare import runs
    from polyfuse.compare.plan import methods_of
    from polyfuse.core import fusions
    from polyfuse.core.progress import Progress
    from polyfuse.data import Splitter, Store
    from polyfuse.learners import TrainOptions, outputs, train
    from polyfuse.ready import Run, make_ready
    from polyfuse.recipe import resolve

    table = embedded(given)
    schema = pf.Schema((pf.Column("image", "vector"), pf.Column("audio", "vector"), pf.Column("label", "category", role="target")))
    names = "concat,gmu,tensor" if given.quick else ",".join(fusions.names())
    seeds, settings = (1 if given.quick else 3), {"train.epochs": 2}

    start = time.process_time()
    pf.compare(table, schema=schema, fusions=names, seeds=seeds, folds=2, set=settings)
    with_harness = time.process_time() - start

    start = time.process_time()
    recipe = resolve(schema, fusion="concat", size="m", seed=0, settings={"train": {"epochs": 2}})
    ready = make_ready(Run(schema, recipe, table, Progress(True), Store(), 1, 0.1, False), whole=True)
    bench, methods = runs.Bench({"representation": ready}, "label", None), sum(methods_of(list(ready.data.views), names, False), [])
    for seed in range(seeds):
        for fold in Splitter(table, schema).folds(2, seed)[0]:
            for method in methods:
                bundle, data = bench.bundle(method, fold, seed)
                train(bundle.model, data, fold.train, fold.held, TrainOptions(**recipe["train"]), seed=seed, loss_weights={}, main="label")
                outs, truth = outputs(bundle.model, data, fold.test)
                bundle.model.tasks[0].scores(outs["label"], truth["label"])
    by_hand = time.process_time() - start
    print(f"{len(methods)} methods, {seeds} seeds, 2 folds: {with_harness:.0f} s compared, {by_hand:.0f} s one by one")
    report.add("all methods compared on stored features, over one by one", with_harness / by_hand, 0.0, "x", at_most=1.5)


def embedded(given: argparse.Namespace) -> pf.Table:
    """av_digits as two columns of vectors: what a network on each view alone makes of it."""
    folder, rows = given.data / "av_digits", 400 if given.quick else 1500
    source = head(folder / "train.csv", rows)
    columns = {"label": source.column("label")}
    for view in ("image", "audio"):
        schema = pf.Schema((pf.Column(view, view), pf.Column("label", "category", role="target")))
        bundle = pf.fit(source, schema=schema, set={"train.epochs": 1 if given.quick else 5})
        columns[view] = pa.array(list(bundle.embed(source)))
    return pf.read(pa.table(columns))


def false(report: Report, given: argparse.Namespace) -> None:
    """Two copies of one method, under two names and with different seeds: how often are they said to differ?"""
    tables = 4 if given.quick else 100
    differ = 0
    for number in range(tables):
        rng = np.random.default_rng(number)
        a, b = rng.normal(size=(160, 4)), rng.normal(size=(160, 4))
        label = np.where(a[:, 0] + b[:, 0] + rng.normal(size=160) > 0, "yes", "no")
        rows = [{"a": list(map(float, x)), "b": list(map(float, y)), "label": str(z)} for x, y, z in zip(a, b, label)]
        found = pf.compare(
            rows,
            "label",
            columns={"a": "vector", "b": "vector"},
            fusions={"concat": "concat", "copy": {"name": "concat", "seed": 1000}},
            seeds=2,
            folds=5,
            size="s",
            set={"train.epochs": 3},
        )
        p = found["copy"].p_baseline
        differ += p is not None and p < 0.05
    report.add(f"two copies of one method said to differ, {tables} tables", 100 * differ / tables, 0.0, "%", at_most=5.0)


def mean(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


SECTIONS: dict[str, tuple[str, Callable[[Report, argparse.Namespace], None]]] = {
    "match": ("moving_digits_av", match),
    "digits": ("moving_digits_av", digits),
    "av_digits": ("av_digits", of_real("av_digits", ("concat", "decision-mean"), 0.875)),
    "easy_vqa": ("easy_vqa", of_real("easy_vqa", ("multiply", "concat", "decision-mean"), 0.995)),
    "leaf100": ("leaf100", leaf100),
    "harness": ("av_digits", harness),
    "false": ("", false),
}


def main() -> None:
    given = arguments(__doc__, on_sets(SECTIONS))
    report = Report(__file__, given.quick)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("POLYFUSE_CACHE", cache)
        for name in given.only:
            needs, section = SECTIONS[name]
            if needs and not (given.data / needs).is_dir():
                print(f"{name}: left out, {given.data / needs} is not there")
                continue
            section(report, given)
    report.close()


if __name__ == "__main__":
    main()
