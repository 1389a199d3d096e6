"""What answers to test rows are worth, and how sure it is that some are better than others to the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polyfuse.core import intervals as of


@dataclass(frozen=True)
class Answers:
    """What was answered to the test rows, and their truth.

    Args:
        said: [L, C] probabilities of the classes, or [L] values.
        truth: [L] the class's number, -1 for one that training never saw, or the value.
        decided: [L] the number of the class that is answered; the most probable one unless told.
    """

    said: np.ndarray
    truth: np.ndarray
    decided: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray:
        return self.said.argmax(1) if self.decided is None else self.decided


@dataclass(frozen=True)
class Measure:
    """A figure of answers, as a function of how often each row counts; `higher` where more is better."""

    of: Callable[[Answers], of.Figure]
    higher: bool = True

    def value(self, answers: Answers) -> float:
        return of.once(self.of(answers), len(answers.truth))


def _f1(a: Answers) -> of.Figure:
    counted = of.tallies(a.truth, a.classes, 2)
    return lambda counts: of.f1(*(tally[:, 1] for tally in counted(counts)))


def _auroc(a: Answers) -> of.Figure:
    """The mean over classes of each against all others."""
    each = [of.roc_auc(p, a.truth == c) for c, p in enumerate(a.said.T)]
    return lambda counts: np.mean([figure(counts) for figure in each], 0)


def _rmse(a: Answers) -> of.Figure:
    squared = of.mean((a.said - a.truth) ** 2)
    return lambda counts: np.sqrt(squared(counts))


def _nasa(a: Answers) -> of.Figure:
    """The sum of what errors cost, late ones more. Source: Saxena et al. 2008, "Damage Propagation Modeling", section VI."""
    late = a.said - a.truth
    cost = np.expm1(np.where(late < 0, -late / 13, late / 10))
    return lambda counts: counts @ cost


MEASURES = {
    "accuracy": Measure(lambda a: of.mean(a.classes == a.truth)),
    "F1": Measure(_f1),
    "PR-AUC": Measure(lambda a: of.pr_auc(a.said[:, 1], a.truth == 1)),
    "AUROC": Measure(_auroc),
    "RMSE": Measure(_rmse, higher=False),
    "NASA score": Measure(_nasa, higher=False),
}


def gain(measure: str, ours: Sequence[Answers], theirs: Sequence[Answers]) -> tuple[float, float]:
    """How much better `ours` are than `theirs`, answers to the same rows by fits of several seeds, and its standard error over rows.

    The mean over seeds of the difference; of a measure where less is better the share that is saved, for its unit is not that
    of the others. The error is that of the paired bootstrap (Efron and Tibshirani 1993, section 16.4): every draw of rows judges
    both sides and all seeds.
    """
    the = MEASURES[measure]
    pairs = [(the.of(our), the.of(their)) for our, their in zip(ours, theirs, strict=True)]

    def better(counts: np.ndarray) -> np.ndarray:
        each = [(first(counts), second(counts)) for first, second in pairs]
        return np.mean([a - b if the.higher else 1 - a / b for a, b in each], 0)

    rows = len(ours[0].truth)
    low, high = of.bootstrap(better, rows)
    return of.once(better, rows), (high - low) / (2 * 1.96)
