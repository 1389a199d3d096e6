"""How every benchmark measures and reports: sides interleaved, processor time, medians with their spread, RESULT lines.

A program calls `arguments` and `Report`; what it prints last is one line per figure that a script can read. A full run
is also appended to benchmarks/results/PROGRAM.csv with commit, machine and date; a run with --quick is not kept.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
QUICK = " (quick)"  # after the name of a figure of a quick run


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Args:
        figure: what it is, in words.
        value: the median or mean.
        spread: half the distance between the quartiles of repeated measurements, or the deviation over seeds.
        unit: "x", "s", "ms", "accuracy" ...
        bar: what it has to reach, or None where it only informs.
        holds: whether it does.
    """

    figure: str
    value: float
    spread: float
    unit: str
    bar: float | None = None
    holds: bool | None = None


class Report:
    """Collects figures, then prints the table and the RESULT lines."""

    def __init__(self, program: str, quick: bool):
        self.quick, self._path = quick, RESULTS / f"{Path(program).stem}.csv"
        self.figures: list[Figure] = []

    def add(
        self, figure: str, value: float, spread: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        holds = None
        if at_most is not None:
            holds = value <= at_most
        if at_least is not None:
            holds = value >= at_least
        bar = at_most if at_most is not None else at_least
        name = f"{figure}{QUICK}" if self.quick else figure
        self.figures.append(Figure(name, _rounded(value), _rounded(spread), unit, bar, holds))

    def latest(self) -> dict[str, tuple[float, float]]:
        """{figure: (value, spread)}: the newest of each, of this run and, unless it is a quick one, of those that were kept."""
        rows = [] if self.quick or not self._path.exists() else csv.DictReader(self._path.read_text("utf-8").splitlines())
        kept = {row["figure"]: (float(row["value"]), float(row["spread"])) for row in rows}
        return kept | {f.figure.removesuffix(QUICK): (f.value, f.spread) for f in self.figures}

    def close(self) -> None:
        width = max((len(f.figure) for f in self.figures), default=0)
        print(f"\n{'figure':<{width}}  {'value':>9}  {'spread':>8}  {'unit':<9} {'bar':>7}  holds")
        for f in self.figures:
            bar, holds = ("" if f.bar is None else f"{f.bar:g}"), {True: "yes", False: "NO", None: ""}[f.holds]
            print(f"{f.figure:<{width}}  {f.value:>9g}  {f.spread:>8g}  {f.unit:<9} {bar:>7}  {holds}")
        if not self.quick:
            self._keep()
        print()
        for f in self.figures:
            print("RESULT " + json.dumps(asdict(f)), flush=True)

    def _keep(self) -> None:
        about = {"date": datetime.date.today().isoformat(), "commit": _commit(), "machine": machine()}
        self._path.parent.mkdir(exist_ok=True)
        new = not self._path.exists()
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*about, *Figure.__dataclass_fields__], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(about | asdict(f) for f in self.figures)


def arguments(doc: str | None, extend: Callable[[argparse.ArgumentParser], object] | None = None) -> argparse.Namespace:
    """The command line all programs share; `extend` adds to it."""
    parser = argparse.ArgumentParser(description=(doc or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rows, seeds or repeats; not kept")
    if extend:
        extend(parser)
    return parser.parse_args()


def interleaved(sides: Mapping[str, Callable[[], object]], repeats: int = 7) -> dict[str, list[float]]:
    """Processor seconds of every side, `repeats` times, side after side, so that all see the same machine.

    The order turns from round to round, and a first round that warms caches is not counted.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            start = time.process_time()
            sides[name]()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Median and spread of the ratios of neighbouring measurements."""
    return middle([a / b for a, b in zip(above, below, strict=True)])


def middle(values: Sequence[float]) -> tuple[float, float]:
    """Median, and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), (high - low) / 2


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def _commit() -> str:
    """The commit, with "-dirty" where a source has changed since; figures that runs have added are no source."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    changed = git(["git", "diff", "--quiet", "HEAD", "--", ".", f":!{RESULTS.relative_to(ROOT).as_posix()}"]).returncode
    name = git(["git", "describe", "--always"]).stdout.strip()
    return f"{name}{'-dirty' * bool(changed)}" if name else "unknown"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
