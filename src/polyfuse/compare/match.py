"""The runs in an order that leaves a fair picture whenever it ends: fold after fold, all methods in each."""

import math
import time as clock
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..core import Cells, Task
from ..core.progress import Bar, Progress
from ..data import Fold
from . import runs
from .plan import BASELINE, Method, survivors
from .standing import Comparison, Place, Standing, standings, verdict

_TOLD = 5  # methods in the short leaderboard while it runs


@dataclass
class Match:
    """All runs of a comparison.

    Args:
        folder: where the files of the runs are.
        encoders: "own" or "shared" (see `compare`).
        started, budget_s: on the monotonic clock; None = no limit.
        notes: what the reader must know.
    """

    bench: runs.Bench
    methods: list[Method]
    folds: dict[Place, Fold]
    split: str
    folder: Path
    encoders: str
    progress: Progress
    started: float
    budget_s: float | None
    notes: list[str] = field(default_factory=list)
    found: dict[str, dict[Place, runs.Result]] = field(default_factory=dict)
    _rung_end: float | None = None
    """Seconds that are left when this rung's share of the time is spent."""

    def go(self) -> None:
        """Make every run that is not there yet; Ctrl-C and the end of the time keep those that are finished."""
        import accelerate  # noqa: F401  # seconds, which would count as training of the first run

        self._load()
        alive, total = list(self.methods), len(self.folds) * len(self.methods)
        with self.progress.bar("comparing", total) as bar:
            if done := sum(map(len, self.found.values())):
                self.progress.say(f"{done} of {total} runs are there from before")
                bar.step(done)
            try:
                for place in self.folds:
                    if not self._missing(alive, place):
                        continue
                    fewer = self._in_time(alive)
                    if len(fewer) < len(alive):
                        alive = fewer
                        bar.total(sum(map(len, self.found.values())) + sum(len(self._missing(alive, p)) for p in self.folds))
                    if not self._fold(place, alive, bar):
                        self.notes.append("The time was up before every run was made.")
                        break
                    self._tell(place)
            except KeyboardInterrupt:
                self.notes.append("Interrupted: the leaderboard holds what was finished.")
                self.progress.say("interrupted: the runs that are finished count", "yellow")

    def result(self) -> Comparison:
        rows, (task, _) = self._standings(1000), self._judge
        told = verdict(rows, self.found, self.folds, task, self.bench.main)
        seeds = len({seed for seed, _ in self.folds})
        note = " ".join(self.notes)
        return Comparison(self.bench.main, task.metric, task.higher, rows, told, seeds, len(self.folds) // seeds, self.split, note)

    # -- one fold ----------------------------------------------------------------------------------------------

    def _load(self) -> None:
        for method in self.methods:
            for seed, fold in self.folds:
                result = runs.read(runs.file_of(self.folder, method, seed, fold), method)
                if result is not None:
                    self.found.setdefault(method.name, {})[seed, fold] = result

    def _missing(self, methods: Iterable[Method], place: Place) -> list[Method]:
        return [m for m in methods if place not in self.found.get(m.name, {})]

    def _fold(self, place: Place, alive: list[Method], bar: Bar) -> bool:
        """Every method's run on one fold. False where the time is up."""
        seed, number = place
        lent: dict[str, runs.Lent] = {}
        for method in self._missing(alive, place):
            bar.about(f"seed {seed}, fold {number + 1}: {method.name}")
            borrows = self.encoders == "shared" and method.kind != "single"
            if borrows and not self._lend_missing(method, place, lent):
                return False
            done = self._run(method, place, seed + method.shift, {v: lent[v] for v in method.views} if borrows else None)
            if done is None:
                return False
            result, bundle = done
            if self.encoders == "shared" and method.kind == "single":
                lent[method.views[0]] = self.bench.lend(bundle)
            runs.write(runs.file_of(self.folder, method, seed, number), method, result)
            self.found.setdefault(method.name, {})[place] = result
            bar.step()
        return True

    def _run(self, method: Method, place: Place, seed: int, lent: dict[str, runs.Lent] | None = None) -> tuple[runs.Result, Bundle] | None:
        """None where the time is up, or would be before the run ends."""
        if self._left() <= self._expected(method):
            return None
        return self.bench.run(method, self.folds[place], seed, lent, None if self.budget_s is None else self._left())

    def _lend_missing(self, method: Method, place: Place, lent: dict[str, runs.Lent]) -> bool:
        """Train again, for its encoder, the single model of a view whose run an earlier call made. False where the time is up."""
        for single in self.methods:
            if single.kind == "single" and single.views[0] in method.views and single.views[0] not in lent:
                done = self._run(single, place, place[0])
                if done is None:
                    return False
                lent[single.views[0]] = self.bench.lend(done[1])
        return True

    def _tell(self, place: Place) -> None:
        """The leaderboard so far: the first ones and every view alone."""
        if self.progress.quiet:
            return
        rows = [r for r in self._standings(0) if r.runs]
        shown = [r for at, r in enumerate(rows) if at < _TOLD or r.kind == "single"]
        width = max(len(r.name) for r in shown)
        metric = self._judge[0].metric
        self.progress.say(f"seed {place[0]}, fold {place[1] + 1} of {self._folds_a_seed()} done; {metric} so far:")
        for row in shown:
            self.progress.say(f"  {rows.index(row) + 1:>3}  {row.name.ljust(width)}  {row.score:>8.4g}  {row.runs} of {row.of} runs")

    def _folds_a_seed(self) -> int:
        return 1 + max(number for _, number in self.folds)

    # -- time --------------------------------------------------------------------------------------------------

    def _in_time(self, alive: list[Method]) -> list[Method]:
        """Who goes on: everybody, while the time carries all to the end or the rung's share of it is not spent; else the better half.

        Source: Karnin, Koren and Somekh 2013, "Almost Optimal Exploration in Multi-Armed Bandits", algorithm 2: log2(n) rungs
        of equal time, each drops the worse half. Ours drops none where the time suffices, lets the single views and `concat`
        stay, and sets aside what these and one more need to get to the end: a verdict needs all their runs.
        """
        while self._needed(alive) > self._left() and len(self._rivals(alive)) > 1 and all(m.name in self.found for m in alive):
            if self._rung_end is None:
                self._rung_end = self._left() - self._share(alive)
            if self._left() - sum(map(self._expected, alive)) >= self._rung_end:
                break  # this rung has time for one more fold
            alive = self._halved(alive)
            self._rung_end = self._left() - self._share(alive)
        return alive

    def _share(self, alive: list[Method]) -> float:
        """Seconds that a rung beginning now may take."""
        rivals = self._rivals(alive)
        set_aside = self._needed([m for m in alive if m not in rivals]) + self._needed(rivals) / len(rivals)
        return max(0.0, self._left() - set_aside) / max(1, math.ceil(math.log2(len(rivals))))

    def _halved(self, alive: list[Method]) -> list[Method]:
        common = [place for place in self.folds if not self._missing(alive, place)]
        sign = 1.0 if self._judge[0].higher else -1.0
        scores = {}
        for method in alive:  # the metric may not be defined on a fold; a method of which nothing is known comes last
            known = [score for p in common if math.isfinite(score := self.found[method.name][p].score)]
            scores[method.name] = sign * float(np.mean(known)) if known else -math.inf
        rivals = {m.name for m in self._rivals(alive)}
        kept = survivors(scores, [m.name for m in alive if m.name not in rivals])
        self.progress.say(f"left behind to keep the time: {', '.join(m.name for m in alive if m.name not in kept)}")
        return [m for m in alive if m.name in kept]

    def _rivals(self, alive: list[Method]) -> list[Method]:
        """Those that may be left behind."""
        return [m for m in alive if m.kind != "single" and m.name != BASELINE]

    def _left(self) -> float:
        return math.inf if self.budget_s is None else self.budget_s - (clock.monotonic() - self.started)

    def _needed(self, methods: Iterable[Method]) -> float:
        """Seconds until these have all their runs."""
        return sum(self._expected(m) * (len(self.folds) - len(self.found.get(m.name, {}))) for m in methods)

    def _expected(self, method: Method) -> float:
        """Seconds of one run: of its own runs, or of any of its kind; 0 where nothing is known."""
        own = [r.about["run_s"] for r in self.found.get(method.name, {}).values()]
        kin = [r.about["run_s"] for m in self.methods if m.kind == method.kind for r in self.found.get(m.name, {}).values()]
        return float(np.mean(own or kin or [0.0]))

    # -- judgement ---------------------------------------------------------------------------------------------

    @cached_property
    def _judge(self) -> tuple[Task, Cells]:
        """The main target's task, for its figures alone, and its labels."""
        bundle, data = self.bench.bundle(self.methods[0], next(iter(self.folds.values())), 0)
        task = bundle.model.tasks[bundle.model.targets.index(self.bench.main)]
        return task, data.targets[self.bench.main].cells(np.arange(data.size))

    def _standings(self, draws: int) -> list[Standing]:
        return standings(self.methods, self.found, self.folds, *self._judge, self.bench.main, draws)
