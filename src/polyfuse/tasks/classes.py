"""Targets that are classes: one of two, one of many, any of many."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Cells, Codec, DataError, RecipeError, Task, Tokens, mean_loss, tasks
from ..core import intervals as of

BALANCES = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}
_LEAST = 1e-7  # probability that an averaged answer may give a class: its logarithm stays finite


class _Classes(Task):
    """What the three share: a linear head on the normed row, class weights, a temperature.

    Args:
        balance: loss weights from the classes' counts n_c, in proportion to 1 ("none"), n_c^-1/2 ("sqrt") or 1 / n_c
            ("inverse"), with mean one over the training rows. None by default: weights lift the recall of rare classes
            and the macro F1, but the probabilities then answer for a table that is not yours.
        smoothing: share of the target that is spread evenly over the classes (Szegedy et al. 2016, section 7).
        dropout: before the linear head.
    """

    fewest = 1
    share: Tensor
    temperature: Tensor

    def __init__(self, codec: Codec, width: int, *, balance: str = "none", smoothing: float = 0.0, dropout: float = 0.1):
        super().__init__(codec, width)
        if balance not in BALANCES:
            raise RecipeError(f"task '{self.name}'", f"has the unknown balance '{balance}'", expected=f"one of {', '.join(BALANCES)}")
        if not 0.0 <= smoothing < 1.0:
            raise RecipeError(f"task '{self.name}'", f"has smoothing {smoothing}", expected="a share from 0 to below 1")
        self.values = [str(v) for v in codec.values]  # type: ignore[attr-defined]
        if len(self.values) < self.fewest:
            seen = f"one class only, '{self.values[0]}'" if self.values else "no class at all"
            raise DataError(
                f"target '{codec.column}'",
                f"the training rows hold {seen}",
                expected=f"at least {self.fewest} classes",
                fix="check the split and the column, or choose another target",
            )
        self.balance, self.smoothing = balance, smoothing
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, len(self.values)))
        self.register_buffer("share", torch.full((len(self.values),), self._even()))  # of the training rows, per class
        self.register_buffer("temperature", torch.ones(()))

    def _even(self) -> float:
        return 1.0 / len(self.values)

    def forward(self, tokens: Tokens) -> Tensor:
        """-> logits [B, C]."""
        return self.head(tokens.row)

    def tempered(self, out: Tensor) -> Tensor:
        return out / self.temperature.to(out)  # answers are gathered on the processor, the task may be elsewhere

    def constant(self, rows: int) -> Tensor:
        """The best answer that looks at no input: each class's or label's share of the training rows, as out [rows, C]."""
        return (self.out_of(self.share) * self.temperature).expand(rows, -1)

    def prior(self) -> Tensor:
        # weights of rare classes move what the loss asks for, towards an even spread
        return self.out_of(self.share) * (1.0 - BALANCES[self.balance])

    def _honest(self, out: Tensor) -> np.ndarray:
        """Probabilities [B, C], with the temperature."""
        return self.probability(self.tempered(out.detach().double())).cpu().numpy()  # type: ignore[union-attr]

    def loss(self, out: Tensor, truth: Cells, weight: Tensor | None = None) -> Tensor:
        if not len(truth.rows):  # such a batch may hold no tensors at all
            return out.float().sum() * 0.0
        losses, rows = self.row_losses(out, truth)
        return mean_loss(losses, rows, out.float(), weight)

    def _cool(self, nll: Callable[[float], float], rows: int) -> None:
        """Temperature scaling: the one number that makes validation probabilities honest; it changes no ranking.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. Golden section search over
        log T. A weak prior (log T ~ normal) keeps a few, or perfectly separated, rows from choosing an extreme one.
        """
        low, high, golden = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2

        def cost(log_t: float) -> float:
            return nll(math.exp(log_t)) + 0.5 * log_t**2 / rows

        a, b = high - golden * (high - low), low + golden * (high - low)
        cost_a, cost_b = cost(a), cost(b)
        while high - low > 1e-4:
            if cost_a < cost_b:
                high, b, cost_b = b, a, cost_a
                a = high - golden * (high - low)
                cost_a = cost(a)
            else:
                low, a, cost_a = a, b, cost_b
                b = low + golden * (high - low)
                cost_b = cost(b)
        self.temperature.fill_(math.exp((low + high) / 2))

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        """Each metric as a function of how often a labelled row counts, for `scores` and for intervals alike."""
        raise NotImplementedError

    def scores(self, out: Tensor, truth: Cells) -> dict[str, float]:
        if not len(truth.rows):
            return {}
        found = {name: of.once(figure, len(truth.rows)) for name, figure in self.figures(out, truth).items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _table(self, right: np.ndarray, answered: np.ndarray, true: np.ndarray) -> dict[str, dict[str, float]]:
        """Per class precision, recall, F1 and support, from tallies [C]."""
        return {
            value: {
                "precision": float(r / a) if a else 0.0,
                "recall": float(r / t) if t else 0.0,
                "f1": float(of.f1(r, a, t)),
                "support": int(t),
            }
            for value, r, a, t in zip(self.values, right, answered, true)
        }


@tasks("multiclass")
class Multiclass(_Classes):
    """One of many classes: softmax cross-entropy, a temperature fitted on the validation rows.

    A label that no training row has is left out of the loss and of the figures about probabilities of the truth
    (log_loss, areas), and counts as wrong in all others. Checkpoints are chosen by accuracy.

    Source: cross-entropy after Bridle 1990; temperature after Guo et al. 2017.

    Args:
        balance: "none", "sqrt" or "inverse": loss weights for rare classes; they raise macro F1 and hurt calibration.
        smoothing: share of the target that is spread evenly over the classes.
        dropout: before the linear head.
    Shapes:
        row [B, D] -> out [B, C] logits; truth "index" [L, 1], class + 1, 0 for a label never seen in training
    Raises:
        DataError: fewer than two classes in the training rows.
    Cost:
        D * C parameters.
    """

    modalities = ("category",)
    metric = "accuracy"
    learned_as = "classes"
    fewest = 2

    @classmethod
    def claims(cls, codec: Codec) -> float:
        return 0.9 if codec.name == "category" else 0.0

    def fit(self, truth: dict[str, Tensor]) -> None:
        if not truth:
            return
        y = truth["index"][:, 0] - 1
        counts = torch.bincount(y[y >= 0], minlength=len(self.values)).float()
        if counts.sum() == 0:
            return
        # a class may lie wholly in the validation rows: it counts as half a row, so that its weight is finite
        self.share.copy_(counts.clamp(min=0.5) / counts.clamp(min=0.5).sum())
        if self.balance == "none":  # start at the classes' frequencies, not at an even guess
            with torch.no_grad():
                self.head[-1].bias.copy_(self.share.log() - self.share.log().mean())  # type: ignore[operator]

    def answers(self, truth: dict[str, Tensor]) -> np.ndarray:
        return truth["index"][:, 0].numpy() - 1

    def row_losses(self, out: Tensor, truth: Cells) -> tuple[Tensor, Tensor]:
        y = truth.x["index"][:, 0] - 1
        rows, y = truth.rows[y >= 0], y[y >= 0]
        losses = F.cross_entropy(out[rows].float(), y, reduction="none", label_smoothing=self.smoothing)
        power = BALANCES[self.balance]
        if power:
            weights = self.share.pow(-power)
            losses = losses * (weights / (weights * self.share).sum())[y]
        return losses, rows

    def calibrate(self, out: Tensor, truth: Cells) -> None:
        if not len(truth.rows):
            return
        y = truth.x["index"][:, 0] - 1
        logits, y = out.detach()[truth.rows[y >= 0]].double(), y[y >= 0]
        if len(y):
            self._cool(lambda t: float(F.cross_entropy(logits / t, y)), len(y))

    def probability(self, out: Tensor) -> Tensor:
        return _wide(out).softmax(-1)

    def out_of(self, probability: Tensor) -> Tensor:
        return probability.clamp(min=_LEAST).log()

    def decode(self, out: Tensor) -> list[dict[str, Any]]:
        p = self._honest(out)
        return [{"value": self.values[at], "probability": dict(zip(self.values, row))} for at, row in zip(self.decided(p), p.tolist())]

    def decided(self, p: np.ndarray) -> np.ndarray:
        """The number of the class that is answered [B], from honest probabilities [B, C]."""
        return p.argmax(1)

    def _known(self, out: Tensor, truth: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities [L, C], answers [L] and truths [L] (-1: never seen) of the labelled rows."""
        p = self._honest(out[truth.rows])
        return p, self.decided(p), truth.x["index"][:, 0].cpu().numpy() - 1

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        p, answer, y = self._known(out, truth)
        right, counted = answer == y, of.tallies(y, answer, len(self.values))
        truly = np.take_along_axis(p, y.clip(min=0)[:, None], 1)[:, 0]
        losses = np.where(y >= 0, -np.log(truly.clip(min=1e-15)), 0.0)
        brier = (p**2).sum(1) + 1 - 2 * np.where(y >= 0, truly, 0.0)  # a label never seen has no class to hit
        seen = of.mean(y >= 0)

        def macro_f1(counts: np.ndarray) -> np.ndarray:
            tally = counted(counts)
            occurs = tally[1] + tally[2] > 0
            return (of.f1(*tally) * occurs).sum(1) / occurs.sum(1).clip(min=1)

        found = {
            "accuracy": of.mean(right),
            "f1": macro_f1,
            "log_loss": lambda c: of.ratio(of.mean(losses)(c), seen(c)),
            "brier": of.mean(brier),
            "mcc": lambda c: of.mcc(*counted(c), c.sum(1)),
            "ece": of.calibration_error(p.max(1), right),
        }
        if len(self.values) > 5:
            rank = (p > truly[:, None]).sum(1)
            found["top5"] = of.mean((rank < 5) & (y >= 0))
        return found

    def report(self, out: Tensor, truth: Cells) -> dict[str, Any]:
        """{"classes": per class figures, "confusion": rows are truths, columns answers (20 classes or fewer), "unseen": rows}."""
        if not len(truth.rows):
            return {}
        _, answer, y = self._known(out, truth)
        c = len(self.values)
        right, answered, true = (t[0] for t in of.tallies(y, answer, c)(np.ones((1, len(y)))))
        found: dict[str, Any] = {"classes": self._table(right, answered, true), "unseen": int((y < 0).sum())}
        if c <= 20:
            found["confusion"] = np.bincount(y[y >= 0] * c + answer[y >= 0], minlength=c * c).reshape(c, c).tolist()
        return found


@tasks("binary")
class Binary(Multiclass):
    """One of two classes. The second value in the codec's order is the positive one, whose F1 and areas are given.

    A softmax over two logits, so that loss, temperature and report are those of `multiclass`. Checkpoints are chosen
    by the area under the ROC curve: it needs no threshold and does not rise when a rare class is never answered.

    Where the positive class is rare, the most probable answer is nearly always the other one. A lower `threshold` answers it
    more often and leaves the probabilities as they are; "f1" finds the one that the F1 of the positive class is best at, on the rows
    that the temperature is fitted on.

    Source: as `multiclass`; areas after Hanley and McNeil 1982 (ROC) and average precision (PR); a threshold for F1 after
    Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure".

    Args:
        balance: "none", "sqrt" or "inverse": loss weights for rare classes; they raise F1 and hurt calibration.
        smoothing: share of the target that is spread evenly over the classes.
        dropout: before the linear head.
        threshold: the positive class is answered where its probability is above this; or "f1".
    Shapes:
        row [B, D] -> out [B, 2] logits; truth "index" [L, 1], class + 1, 0 for a label never seen in training
    Raises:
        DataError: other than two classes in the training rows.
        RecipeError: a threshold that is neither "f1" nor a probability.
    Cost:
        2 * D parameters.
    """

    metric = "roc_auc"
    threshold: Tensor

    def __init__(
        self,
        codec: Codec,
        width: int,
        *,
        balance: str = "none",
        smoothing: float = 0.0,
        dropout: float = 0.1,
        threshold: float | str = 0.5,
    ):
        super().__init__(codec, width, balance=balance, smoothing=smoothing, dropout=dropout)
        self.for_f1 = threshold == "f1"
        if not self.for_f1 and (isinstance(threshold, str) or not 0.0 < threshold < 1.0):
            raise RecipeError(f"task '{self.name}'", f"has threshold {threshold!r}", expected="a number between 0 and 1, or f1")
        # found, it is kept with the weights; given, it is in the recipe
        self.register_buffer("threshold", torch.tensor(0.5 if self.for_f1 else threshold), persistent=self.for_f1)
        if len(self.values) != 2:
            raise DataError(
                f"target '{codec.column}'",
                f"has {len(self.values)} classes",
                expected="two for the task 'binary'",
                fix="use task 'multiclass'",
            )

    @classmethod
    def claims(cls, codec: Codec) -> float:
        return 1.0 if codec.name == "category" and len(codec.values) == 2 else 0.0  # type: ignore[attr-defined]

    def decided(self, p: np.ndarray) -> np.ndarray:
        return (p[:, 1] > self.threshold.item()).astype(np.int64)

    def calibrate(self, out: Tensor, truth: Cells) -> None:
        super().calibrate(out, truth)
        if self.for_f1 and len(truth.rows):
            p, _, y = self._known(out, truth)
            self.threshold.fill_(of.threshold_for_f1(p[y >= 0, 1], y[y >= 0] == 1))

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        p, answer, y = self._known(out, truth)
        counted, seen = of.tallies(y, answer, 2), y >= 0
        roc, pr = of.roc_auc(p[seen, 1], y[seen] == 1), of.pr_auc(p[seen, 1], y[seen] == 1)

        def f1(counts: np.ndarray) -> np.ndarray:
            return of.f1(*(t[:, 1] for t in counted(counts)))

        found = super().figures(out, truth) | {"f1": f1, "roc_auc": lambda c: roc(c[:, seen]), "pr_auc": lambda c: pr(c[:, seen])}
        # the usual score of two classes: squared error of the positive's probability, half of the sum over both
        found["brier"] = of.mean(np.where(seen, (p[:, 1] - y) ** 2, ((p**2).sum(1) + 1) / 2))
        return found


@tasks("multilabel")
class Multilabel(_Classes):
    """Any of many labels: one sigmoid per label, answered where its probability is one half or more.

    Labels are taken as independent given the row. A row with no label but a cell (an empty list) is a row where none
    applies; a row without a cell is unlabelled. Checkpoints are chosen by mean average precision.

    Source: binary cross-entropy per label (Tsoumakas and Katakis 2007, "binary relevance"); temperature after Guo et
    al. 2017.

    Args:
        balance: "none", "sqrt" or "inverse": weight of a label's positive rows against its negative ones, from their counts.
        smoothing: share of the target that is moved to one half.
        dropout: before the linear head.
    Shapes:
        row [B, D] -> out [B, C] logits; truth "hot" [L, C]
    Raises:
        DataError: no label in the training rows.
    Cost:
        D * C parameters.
    """

    modalities = ("labels",)
    metric = "map"
    exclusive = False
    learned_as = "labels"

    @classmethod
    def claims(cls, codec: Codec) -> float:
        return 1.0 if codec.name == "labels" else 0.0

    def _even(self) -> float:
        return 0.5

    def fit(self, truth: dict[str, Tensor]) -> None:
        if not truth or not len(truth["hot"]):
            return
        hot = truth["hot"].float()
        self.share.copy_((hot.sum(0) + 0.5) / (len(hot) + 1))
        if self.balance == "none":
            with torch.no_grad():
                self.head[-1].bias.copy_(self.share.logit())  # type: ignore[operator]

    def answers(self, truth: dict[str, Tensor]) -> np.ndarray:
        return truth["hot"].numpy() > 0.5

    def row_losses(self, out: Tensor, truth: Cells) -> tuple[Tensor, Tensor]:
        hot = truth.x["hot"].float()
        target = hot * (1 - self.smoothing) + 0.5 * self.smoothing
        odds = ((1 - self.share) / self.share) ** BALANCES[self.balance]  # [C], 1 without balance
        losses = F.binary_cross_entropy_with_logits(out[truth.rows].float(), target, pos_weight=odds, reduction="none")
        return losses.mean(1), truth.rows

    def calibrate(self, out: Tensor, truth: Cells) -> None:
        if len(truth.rows):
            logits, hot = out.detach()[truth.rows].double(), truth.x["hot"].double()
            self._cool(lambda t: float(F.binary_cross_entropy_with_logits(logits / t, hot)), len(hot))

    def probability(self, out: Tensor) -> Tensor:
        return _wide(out).sigmoid()

    def out_of(self, probability: Tensor) -> Tensor:
        return probability.logit(eps=_LEAST)

    def decode(self, out: Tensor) -> list[dict[str, Any]]:
        return [
            {"value": [v for v, q in zip(self.values, row) if q >= 0.5], "probability": dict(zip(self.values, row))}
            for row in self._honest(out).tolist()
        ]

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        p, hot = self._honest(out[truth.rows]), truth.x["hot"].cpu().numpy() > 0.5
        said = p >= 0.5
        curves = [of.pr_auc(p[:, c], hot[:, c]) for c in range(len(self.values))]

        def counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return counts @ (said & hot), counts @ said, counts @ hot

        def mean_precision(counts: np.ndarray) -> np.ndarray:
            areas = np.stack([curve(counts) for curve in curves], 1)  # NaN where a label has no positive row
            return of.ratio(np.nansum(areas, 1), np.isfinite(areas).sum(1))

        likelihood = np.where(hot, p, 1 - p).clip(min=1e-15)
        return {
            "map": mean_precision,
            "f1_macro": lambda c: of.f1(*counted(c)).mean(1),
            "f1_micro": lambda c: of.f1(*(t.sum(1) for t in counted(c))),
            "accuracy": of.mean((said == hot).all(1)),
            "hamming": of.mean((said != hot).mean(1)),
            "log_loss": of.mean(-np.log(likelihood).mean(1)),
        }

    def report(self, out: Tensor, truth: Cells) -> dict[str, Any]:
        """{"classes": per label precision, recall, F1, support and average precision (None without a positive row)}."""
        if not len(truth.rows):
            return {}
        p, hot = self._honest(out[truth.rows]), truth.x["hot"].cpu().numpy() > 0.5
        said = p >= 0.5
        table: dict[str, dict[str, Any]] = dict(self._table((said & hot).sum(0), said.sum(0), hot.sum(0)))
        for c, value in enumerate(self.values):
            table[value]["average_precision"] = of.once(of.pr_auc(p[:, c], hot[:, c]), len(p)) if hot[:, c].any() else None
        return {"classes": table}


def _wide(out: Tensor) -> Tensor:
    """At least float32: sixteen bits are too few for probabilities."""
    return out if out.dtype == torch.float64 else out.float()
