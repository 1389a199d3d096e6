"""Late fusion: every view answers for itself, and the answers are joined.

What all six share stands in `core.Decision`: the heads learn each by its own loss. They differ in how answers become one.
A row is answered by the views it has; a row without any gets the best answer that looks at no input.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import Cells, Decision, RecipeError, Task, Tokens, fusions
from ..core.layers import masked_softmax

_STEPS = 200  # of the optimizer that fits the few numbers by which answers are combined


def _even(present: Tensor) -> Tensor:
    """[B, V] bool -> weights [B, V], the same for every view that is present."""
    return present.float() / present.sum(1, keepdim=True).clamp(min=1)


class _ByClass(Decision):
    """For tasks whose answers have probabilities."""

    def add_target(self, target: str, task: Task) -> None:
        if task.probability(torch.zeros(1, 1)) is None:
            raise RecipeError(
                f"fusion '{self.name}'",
                f"cannot take the task '{task.name}' of target '{target}', whose answers have no probabilities",
                expected="a task with classes",
                fix="--fusion decision-mean, or decision-weighted",
            )


@fusions("decision-mean")
class MeanDecision(Decision):
    """The mean of the views' probabilities, or of their numbers.

    The plain late fusion, and the steadiest: no view can drown another, and a view that is missing is simply not asked.
    What lies only in the interplay of views (does this sound belong to that picture?) it cannot see at all; there take
    `multiply` or `transformer`. `decision-weighted` trusts good views more.

    Source: the sum rule of Kittler et al. 1998, "On Combining Classifiers", eq. 13.

    Args:
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, ...] -> [B, ...]
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters and one head per view and target; linear in tokens.
    """

    def combine(self, target: str, outs: Tensor, present: Tensor, task: Task) -> Tensor:
        return task.averaged(outs, _even(present))


@fusions("decision-product")
class ProductDecision(_ByClass):
    """The product of the views' probabilities, divided by what they all took from the classes' shares.

    Right where views are independent given the class; then it is Bayes' rule. One view that is sure and wrong spoils
    the answer, where `decision-mean` forgives.

    Source: the product rule of Kittler et al. 1998, "On Combining Classifiers", eq. 8: P(c | x) is in proportion to
    P(c)^(1 - M) times the product of the M present views' P(c | x_v), here as a sum of logits. The views' probabilities are
    tempered on the held-out rows first, for a product multiplies their excess of confidence.

    Args:
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, C] -> [B, C]
    Raises:
        RecipeError: a task without classes.
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters and one head per view and target; linear in tokens.
    """

    def combine(self, target: str, outs: Tensor, present: Tensor, task: Task) -> Tensor:
        total = outs.masked_fill(~present.unsqueeze(-1), 0.0).sum(1)
        return total - (present.sum(1, keepdim=True) - 1).to(total.dtype) * task.prior().to(total)


@fusions("decision-vote")
class VoteDecision(_ByClass):
    """The majority of the views' answers; a tie goes to the higher mean probability.

    Where single views are now and then wildly wrong: a vote counts once however sure it is. With two views it is little
    more than the surer one's answer; take `decision-mean`.

    Source: majority vote rule of Kittler et al. 1998, "On Combining Classifiers", eq. 20, the votes' shares smoothed by one part
    in a thousand of the mean, so that ties are broken and the answer has probabilities.

    Args:
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, C] -> [B, C]
    Raises:
        RecipeError: a task without classes.
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters and one head per view and target; linear in tokens.
    """

    def combine(self, target: str, outs: Tensor, present: Tensor, task: Task) -> Tensor:
        p = _probability(outs, task)
        votes = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype) if task.exclusive else (p >= 0.5).to(p.dtype)
        return task.out_of((0.999 * votes + 0.001 * p).mul(_even(present).unsqueeze(-1)).sum(1))


@fusions("decision-confidence")
class ConfidenceDecision(_ByClass):
    """The mean of the views' probabilities, each weighted by how sure it is in this row.

    Where views fail row by row and know it: a dark picture gives an even spread and is hardly counted. A view that is
    sure and wrong it follows; `decision-weighted` goes by what views were worth on held-out rows.

    Source: ours; p = sum over present v of w_v p_v, w_v = s_v / sum of s, s_v = 1 - H(p_v) / log C, H the entropy of the
    tempered probabilities (of labels s_v is the mean over labels of 1 - H / log 2).

    Args:
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, C] -> [B, C]
    Raises:
        RecipeError: a task without classes.
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters and one head per view and target; linear in tokens.
    """

    def combine(self, target: str, outs: Tensor, present: Tensor, task: Task) -> Tensor:
        p = _probability(outs, task).clamp(1e-7, 1 - 1e-7)
        if task.exclusive:
            share = -(p * p.log()).sum(-1) / math.log(max(p.shape[-1], 2))
        else:
            share = -(p * p.log() + (1 - p) * (1 - p).log()).mean(-1) / math.log(2)
        sure = (1 - share).clamp(min=1e-3).masked_fill(~present, 0.0)  # [B, V]
        return task.averaged(outs, sure / sure.sum(1, keepdim=True).clamp(min=1e-6))


class _Fitted(Decision):
    """Combines by a few numbers per target, which the held-out rows fit once the heads are trained.

    On training rows the heads look better than they are, and the more so the more they overfit: weights from there would
    trust the wrong ones.
    """

    def __init__(self, views: list[str], width: int, *, ridge: float = 1.0, dropout: float = 0.1):
        super().__init__(views, width, dropout=dropout)
        self.ridge = ridge
        self.place: dict[str, int] = {}  # a buffer cannot have every name that a target may have

    def add_target(self, target: str, task: Task) -> None:
        nothing = Tokens(torch.zeros(1, 1, self.width), torch.ones(1, 1, dtype=torch.bool), {"row": slice(0, 1)})
        outputs = task(nothing).shape[1:].numel()
        self.place[target] = len(self.place)
        for name, start in self.starts(outputs).items():
            self.register_buffer(f"{name}_{self.place[target]}", start)

    def starts(self, outputs: int) -> dict[str, Tensor]:
        """{name: what it is before it is fitted}; with these the combination is an even one."""
        raise NotImplementedError

    def numbers(self, target: str) -> dict[str, Tensor]:
        return {name: getattr(self, f"{name}_{self.place[target]}") for name in self.starts(1)}

    def combined(self, numbers: dict[str, Tensor], outs: Tensor, present: Tensor, task: Task) -> Tensor:
        """`combine` with these numbers."""
        raise NotImplementedError

    def combine(self, target: str, outs: Tensor, present: Tensor, task: Task) -> Tensor:
        return self.combined(self.numbers(target), outs, present, task)

    def fit_target(self, target: str, outs: Tensor, present: Tensor, truth: Cells, task: Task) -> None:
        """Least loss on the held-out rows plus `ridge` pseudo-rows that pull towards the even combination."""
        start = self.starts(outs.shape[2:].numel())
        fitted = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimizer = torch.optim.LBFGS(list(fitted.values()), max_iter=_STEPS, line_search_fn="strong_wolfe")

        def cost() -> Tensor:
            optimizer.zero_grad()
            away = torch.stack([(fitted[name] - start[name]).square().sum() for name in start]).sum()
            loss = task.loss(self.combined(fitted, outs, present, task), truth) + self.ridge * away / len(truth.rows)
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(cost)  # type: ignore[arg-type]
        if all(torch.isfinite(value).all() for value in fitted.values()):
            for name, value in fitted.items():
                self.numbers(target)[name].copy_(value.detach())


@fusions("decision-weighted")
class WeightedDecision(_Fitted):
    """The weighted mean of the views' probabilities or numbers, the weights fitted on held-out rows and readable.

    Where views differ in worth: one weight a view, the same in every row, renormalised over the views a row has.
    `decision-stacking` has one per view and class.

    Source: the linear opinion pool of Stone 1961, "The Opinion Pool"; weights a = softmax(s), s by least loss on the held-out
    rows with a ridge.

    Args:
        ridge: how many held-out rows' worth of pull there is towards even weights.
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, ...] -> [B, ...]
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters, one head per view and target and V weights; linear in tokens.
    """

    def starts(self, outputs: int) -> dict[str, Tensor]:
        return {"scores": torch.zeros(len(self.views))}

    def combined(self, numbers: dict[str, Tensor], outs: Tensor, present: Tensor, task: Task) -> Tensor:
        return task.averaged(outs, masked_softmax(numbers["scores"].expand(present.shape), present))


@fusions("decision-stacking")
class StackedDecision(_Fitted):
    """A linear model on the views' outs, fitted on held-out rows: one weight per view and class.

    Where one view knows some classes and another the rest. It has V * C numbers to fit: with few held-out rows
    the ridge makes it nearly `decision-mean` of logits.

    Source: Wolpert 1992, "Stacked Generalization", with a hold-out instead of folds ("blending") and each class combined for
    itself: out = V / M * (sum over the M present v of A_v * out_v) + sum over absent v of C_v + B.

    Args:
        ridge: how many held-out rows' worth of pull there is towards even weights.
        dropout: in the hidden layer of each view's perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D], the mean of the views' vectors; outs [B, V, C] -> [B, C]
    Raises:
        RecipeError: a task with quantiles, whose order a linear model would break.
    Expresses:
        not xor, not product, not lookup
    Cost:
        4 V * D^2 parameters, one head per view and target and (2 V + 1) * C weights; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, ridge: float = 10.0, dropout: float = 0.1):
        super().__init__(views, width, ridge=ridge, dropout=dropout)

    def add_target(self, target: str, task: Task) -> None:
        if task.name == "quantile":
            raise RecipeError(
                f"fusion '{self.name}'",
                f"cannot take the task 'quantile' of target '{target}': stacked quantiles could cross",
                expected="classes, labels or numbers",
                fix="--fusion decision-mean, or decision-weighted",
            )
        super().add_target(target, task)

    def starts(self, outputs: int) -> dict[str, Tensor]:
        v = len(self.views)
        return {"factor": torch.full((v, outputs), 1.0 / v), "absent": torch.zeros(v, outputs), "bias": torch.zeros(outputs)}

    def combined(self, numbers: dict[str, Tensor], outs: Tensor, present: Tensor, task: Task) -> Tensor:
        here = present.unsqueeze(-1).to(outs.dtype)  # [B, V, 1]
        scale = len(self.views) / here.sum(1).clamp(min=1)  # [B, 1]
        mixed = scale * (numbers["factor"] * outs.masked_fill(~present.unsqueeze(-1), 0.0)).sum(1)
        return mixed + ((1 - here) * numbers["absent"]).sum(1) + numbers["bias"]


def _probability(outs: Tensor, task: Task) -> Tensor:
    p = task.probability(outs)
    assert p is not None, "`add_target` has refused such a task"
    return p
