"""The trials, in optuna's own journal: what to try next, what came of it, and how to go on after a kill."""

import math
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..core import RecipeError
from .space import Range, Space

NAME = "polyfuse"  # of the study in the file
_FREE = 5  # finished trials before any is pruned
_FEW = 4  # trials that tell nothing of which option matters


Run = Callable[[int, dict[str, Any], Callable[[int, float], None]], tuple[float, float]]
"""(number, options, report(step, value)) -> the score, and the same where more is better."""


class Pruned(Exception):
    """Ends a trial that is worse than most were at this point."""


class TimeUp(Exception):
    """Ends a trial that the budget has no time for."""


@dataclass
class Trial:
    """What came of one trial.

    Attributes:
        number: 0 = the defaults; it names the file of its answers.
        state: "complete", "pruned" or "failed".
        options: {"part.option": value}; empty for the defaults.
        score: of the main target, as its metric points; NaN unless complete.
        value: the same, more is better.
        reason: why it failed.
    """

    number: int
    state: str
    options: dict[str, Any] = field(default_factory=dict)
    score: float = math.nan
    value: float = math.nan
    seconds: float = 0.0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {k: v if v == v else None for k, v in asdict(self).items()}


def need_optuna() -> None:
    """
    Raises:
        RecipeError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise RecipeError("search", "needs optuna, which is not installed", fix="pip install polyfuse[search]")


class Journal:
    """A study of optuna, kept in a file.

    Options are proposed by the tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
    Optimization", section 4), trials below the median of the others at the same step are pruned (Golovin et al. 2017, "Google
    Vizier", section 3.2.2). A proposal is a function of the seed and of the trials before it, so that a search that was
    interrupted proposes what one that was not would have.

    Args:
        file: JSON lines; only one process writes it.
        warmup: reports of a trial before it can be pruned.
    """

    def __init__(self, file: Path, space: Space, seed: int, warmup: int):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # what there is to say is said here
        self.optuna, self.space, self.seed = optuna, space, seed
        _repair(file)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file), lock_obj=JournalFileOpenLock(str(file)))),
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FREE, n_warmup_steps=warmup),
        )
        self._again()

    @property
    def trials(self) -> list[Trial]:
        """Those that ended by themselves, the defaults first."""
        states = self.optuna.trial.TrialState
        found = []
        for t in self.study.get_trials(deepcopy=False):
            about = t.user_attrs
            if t.state == states.FAIL and "reason" not in about or not t.state.is_finished():
                continue
            options = {} if about.get("defaults") else self._rounded(t.params)
            if t.state == states.COMPLETE:
                found.append(Trial(t.number, "complete", options, about["score"], float(t.values[0]), about["seconds"]))
            else:
                state = "pruned" if t.state == states.PRUNED else "failed"
                found.append(Trial(t.number, state, options, seconds=about["seconds"], reason=about.get("reason", "")))
        return found

    def run_defaults(self, run: Run, options: dict[str, Any] | None) -> Trial:
        """Trial 0, which is never pruned.

        Args:
            options: what the defaults are in the space, None where they lie outside: then proposals learn nothing of them.
        """
        reports: dict[int, float] = {}
        states, started = self.optuna.trial.TrialState, clock.monotonic()
        about: dict[str, Any] = {"defaults": True}
        made: dict[str, Any] = {"state": states.COMPLETE}
        try:
            about["score"], made["value"] = run(0, {}, reports.__setitem__)
        except FAILURES as error:
            made["state"], about["reason"] = states.FAIL, _said(error)
        about["seconds"] = clock.monotonic() - started
        if options is not None:
            made |= {"params": options, "distributions": self._distributions}
        reports = {step: value for step, value in reports.items() if math.isfinite(value)}
        self.study.add_trial(self.optuna.trial.create_trial(user_attrs=about, intermediate_values=reports, **made))
        return self.trials[0]

    def run_next(self, run: Run) -> Trial:
        """The next trial; what `report` raises has to pass through `run`."""
        begun = len(self.trials)
        word = int(np.random.SeedSequence((self.seed, begun)).generate_state(1)[0])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=word)
        states = self.optuna.trial.TrialState
        trial, started = self.study.ask(fixed_distributions=self._distributions), clock.monotonic()

        def report(step: int, value: float) -> None:
            if math.isfinite(value):
                trial.report(value, step)
                if trial.should_prune():
                    raise Pruned

        value, state = None, states.FAIL
        try:
            score, value = run(trial.number, self._rounded(trial.params), report)
            trial.set_user_attr("score", score)
            state = states.COMPLETE
        except Pruned:
            state = states.PRUNED
        except FAILURES as error:
            trial.set_user_attr("reason", _said(error))
        finally:  # one that Ctrl-C or the budget ends has no reason, and is tried again when the search goes on
            trial.set_user_attr("seconds", clock.monotonic() - started)
            self.study.tell(trial, value, state)
        return next(t for t in self.trials if t.number == trial.number)

    def importance(self) -> dict[str, float]:
        """{option: its share of the variance of the scores}, largest first; empty where too few trials tell.

        Source: fANOVA of Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance", as optuna has it.
        """
        known = [t for t in self.study.get_trials(deepcopy=False) if t.value is not None and t.params and t.state.name == "COMPLETE"]
        if len(known) < _FEW or len({t.value for t in known}) < 2:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        try:
            found = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator, params=list(self.space))
        except (RuntimeError, ValueError):  # its forest sees no variance
            return {}
        return {name: float(share) for name, share in found.items()}

    def _rounded(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options as they are tried: four digits say as much as seventeen, and can be typed."""
        rounded = {}
        for key, value in options.items():
            span = self.space[key]
            if isinstance(span, Range) and not span.whole:
                value = min(max(float(f"{value:.4g}"), span.low), span.high)
            rounded[key] = value
        return rounded

    @property
    def _distributions(self) -> dict[str, Any]:
        kinds = self.optuna.distributions
        made: dict[str, Any] = {}
        for key, span in self.space.items():
            if isinstance(span, Range):
                kind = kinds.IntDistribution if span.whole else kinds.FloatDistribution
                made[key] = kind(span.low, span.high, log=span.log)
            else:
                made[key] = kinds.CategoricalDistribution(span.values)
        return made

    def _again(self) -> None:
        """Trials that were cut off are closed, and their options are the first to be tried."""
        states, trials = self.optuna.trial.TrialState, self.study.get_trials(deepcopy=False)
        tried = {t.user_attrs.get("again") for t in trials}
        for t in trials:
            if t.state == states.RUNNING:
                self.study.tell(t.number, state=states.FAIL)
            if t.state in (states.RUNNING, states.FAIL) and "reason" not in t.user_attrs and t.number not in tried:
                self.study.enqueue_trial(dict(t.params), user_attrs={"again": t.number})


FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError)  # of options that cannot be, diverge, or need too much


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _repair(file: Path) -> None:
    """What a killed process may leave: a lock that nobody holds, half of a last line."""
    file.with_name(file.name + ".lock").unlink(missing_ok=True)
    if file.is_file() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        with open(file, "r+b") as opened:
            opened.truncate(text.rfind(b"\n") + 1)
