"""Trial after trial: what came of each is kept, and the best is measured against the defaults."""

import math
import time as clock
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core import RecipeError
from ..core.progress import Bar, Progress
from ..evaluate import difference
from .journal import Journal, TimeUp, Trial
from .result import SearchResult, best_of
from .space import Settings, merged
from .trials import Report, Trials


class Hunt:
    """Trial after trial, until there are enough or the time is up; Ctrl-C keeps those that are finished.

    Args:
        settings: that hold in every trial.
        folder: of the answers of each trial.
        end: on the monotonic clock; None = no limit.
    """

    def __init__(self, journal: Journal, work: Trials, settings: Settings, folder: Path, progress: Progress, end: float | None):
        self.journal, self.work, self.settings, self.folder, self.progress, self.end = journal, work, settings, folder, progress, end
        self.note = ""
        self.known: dict[str, Any] | None = None

    def go(self, trials: int, known: dict[str, Any] | None) -> None:
        """
        Args:
            trials: how many there should be in the end.
            known: the defaults, where they lie in the space.
        """
        done, self.known = self.journal.trials, known
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.progress.bar("searching", trials) as bar:
            if done:
                self.progress.say(f"{len(done)} trials are there from before")
                bar.step(len(done))
            try:
                if not done:
                    self._tell(self.journal.run_defaults(self._run, known), bar)
                for _ in range(trials - max(len(done), 1)):
                    self._in_time(1)
                    self._tell(self.journal.run_next(self._run), bar)
            except TimeUp:
                self.note = "The time was up before every trial was made: the same call with --out goes on."
            except KeyboardInterrupt:
                if not self.journal.trials:
                    raise RecipeError("search", "was interrupted before the first trial ended", fix="run it again") from None
                self.note = "Interrupted: what was finished counts."
                self.progress.say("interrupted: the trials that are finished count", "yellow")

    def result(self, target: str, space: dict[str, str], split: str) -> SearchResult:
        task, trials = self.work.judge.task, self.journal.trials
        gained, matters = self._over_defaults(trials), self.journal.importance()
        return SearchResult(target, task.metric, task.higher, trials, space, split, gained, matters, note=self.note)

    def _run(self, number: int, options: dict[str, Any], report: Report) -> tuple[float, float]:
        def reported(step: int, value: float) -> None:
            self._in_time(number)
            report(step, value)

        judge, before = self.work.judge, self._tried(options) if number else None
        out = self.work.run(merged(self.settings, options), reported) if before is None else before
        score = judge.score(out)
        if not math.isfinite(score):
            raise RecipeError("the score", f"{judge.task.metric} is not defined on these answers", fix="more rows, or fewer folds")
        save_file({"out": out.contiguous()}, self._file(number))
        return score, score if judge.task.higher else -score

    def _tried(self, options: dict[str, Any]) -> Tensor | None:
        """What a trial with the same options answered: in a small space they come again."""
        for trial in self.journal.trials:
            own = trial.options if trial.number else self.known
            if trial.state == "complete" and own == options:
                return self._answers(trial.number)
        return None

    def _in_time(self, number: int) -> None:
        if number and self.end is not None and clock.monotonic() > self.end:
            raise TimeUp

    def _tell(self, trial: Trial, bar: Bar) -> None:
        bar.step()
        best = best_of(self.journal.trials)
        about = f"{self.work.judge.task.metric} {trial.score:.4g}" if trial.state == "complete" else f"{trial.state} {trial.reason}".strip()
        self.progress.say(f"trial {trial.number}: {about}" + (f"  (best {best.score:.4g} of trial {best.number})" if best else ""))

    def _over_defaults(self, trials: list[Trial]) -> dict[str, float] | None:
        """By how much the best trial beats the defaults, by what both answered to the same rows."""
        best, first = best_of(trials), trials[0]
        if best is None or best is first or first.state != "complete":
            return None
        ours, theirs = self._answers(best.number), self._answers(first.number)
        if ours is None or theirs is None:
            return None
        found = difference(self.work.judge.task, ours, theirs, self.work.judge.truth)
        return {key: found[key] for key in ("value", "low", "high")}

    def _answers(self, number: int) -> Tensor | None:
        """What a trial answered; None where its file is lost."""
        try:
            return load_file(self._file(number))["out"]
        except (OSError, SafetensorError, KeyError):
            return None

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"
