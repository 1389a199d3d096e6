"""What a fusion, a task and an objective are: the other nouns a part can be."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codec import Codec
from .layers import Mlp
from .tokens import Batch, Cells, Tokens, pool, pooled


class Fusion(nn.Module):
    """Tokens of all views -> Tokens that also has the span "row", one vector per row.

    Takes any number of views, one included, and any pattern of absent views. Values under a false mask must
    change nothing, and a row without any token still gets a finite answer.

    Class attributes:
        level: "representation", the views' tokens are fused; "feature", the columns of raw numbers are joined before any
            encoder; "decision", each view answers for itself and the answers are joined (see `Decision`).
        losses: names of the auxiliary losses that it adds in training, each with a weight `loss.NAME`.
        exempt: {contract check it cannot meet: why}.

    Attributes:
        depths: how many earlier layers of the encoders it wants in `tokens.depths`; it works without them too.

    Args:
        views: names of the views, in order; `tokens.spans` has each.
        width: D.
        Every keyword-only argument of a subclass is an option (`--set fusion.NAME=value`).
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}
    level: ClassVar[str] = "representation"
    losses: ClassVar[tuple[str, ...]] = ()
    depths: int = 0

    def __init__(self, views: list[str], width: int):
        super().__init__()
        self.views, self.width = list(views), width

    def forward(self, tokens: Tokens) -> Tokens:
        raise NotImplementedError


class Decision(Fusion):
    """Late fusion: every view has a head of its own, and `combine` makes one answer of theirs.

    The heads are trained each by its own loss, on the rows that have its view; nothing of the combination reaches the
    encoders, so no view can lean on another. What a subclass combines by may be fitted afterwards on the held-out rows.

    `forward` leaves one token per view under the view's span, and their mean as "row" (for `embed`).
    """

    level = "decision"

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        self.trunks = nn.ModuleList(Mlp(width, 2 * width, width, dropout=dropout) for _ in views)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        x = torch.stack([trunk(x[:, v]) for v, trunk in enumerate(self.trunks)], 1).masked_fill(~present.unsqueeze(-1), 0.0)
        spans = {view: slice(v, v + 1) for v, view in enumerate(self.views)}
        return Tokens(x, present, spans, tokens.losses, tokens.notes).with_row(pool(x, present))

    def add_target(self, target: str, task: "Task") -> None:
        """Make room for what is fitted for this target.

        Raises:
            RecipeError: this way of combining cannot take the task.
        """

    def combine(self, target: str, outs: Tensor, present: Tensor, task: "Task") -> Tensor:
        """One answer of the heads': outs [B, V, ...], present [B, V] with at least one view in every row -> [B, ...]."""
        raise NotImplementedError

    def fit_target(self, target: str, outs: Tensor, present: Tensor, truth: Cells, task: "Task") -> None:
        """Fit what combines, on held-out rows after the heads are trained."""


class Task(nn.Module):
    """One target: the head on the fused row, its loss, its answers and its metrics.

    Class attributes:
        modalities: modalities a target column may have for this task ("category", "number" ...).
        metric: the figure that chooses the best checkpoint; a key of what `scores` gives.
        higher: whether more of it is better.
        exclusive: of several classes a row has one; False where it may have any of them.
        learned_as: what a `Learner` makes of the target: "classes", "labels" or "numbers"; "" = only networks take it.

    Args:
        codec: the fitted codec of the target column: it knows the classes or the unit.
        width: D.
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}
    modalities: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = ""
    higher: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    learned_as: ClassVar[str] = ""

    def __init__(self, codec: Codec, width: int):
        super().__init__()
        self.codec, self.width = codec, width

    @classmethod
    def claims(cls, codec: Codec) -> float:
        """How fit this task is, in [0, 1], for a target with this fitted codec, when the user names none."""
        return 0.0

    def fit(self, truth: dict[str, Tensor]) -> None:
        """Look at the collated targets of the training rows {name: [P, ...]} (class counts, quantiles) before training."""

    def forward(self, tokens: Tokens) -> Tensor:
        """-> out [B, ...]: logits or standardised values."""
        raise NotImplementedError

    def answers(self, truth: dict[str, Tensor]) -> np.ndarray:
        """The collated truth of L rows as a `Learner` takes it, by `learned_as`.

        Shapes:
            "classes": int64 [L], -1 where the label is of no class; "labels": bool [L, C];
            "numbers": float64 [L, K] standardised, NaN where one is not known
        """
        raise NotImplementedError

    def loss(self, out: Tensor, truth: Cells, weight: Tensor | None = None) -> Tensor:
        """Mean over the labelled rows, weighted by `weight` [B]; zero, and differentiable, where there are none."""
        raise NotImplementedError

    def probability(self, out: Tensor) -> Tensor | None:
        """Of each class or label, [..., C], without what `calibrate` fitted; None for a task that answers with numbers."""
        return None

    def out_of(self, probability: Tensor) -> Tensor:
        """The inverse of `probability`."""
        raise NotImplementedError

    def prior(self) -> Tensor:
        """What a head trained by `loss` answers where it sees nothing, as out [C]; of a task whose answers have probabilities."""
        raise NotImplementedError

    def averaged(self, outs: Tensor, weights: Tensor) -> Tensor:
        """The mean of several heads' answers: of their probabilities or, where there are none, of their numbers.

        Shapes:
            outs [B, M, ...], weights [B, M] that sum to one -> [B, ...]
        """
        probability = self.probability(outs)
        values = outs if probability is None else probability
        mean = (values * weights.to(values.dtype).view(*weights.shape, *[1] * (outs.ndim - 2))).sum(1)
        return mean if probability is None else self.out_of(mean)

    def tempered(self, out: Tensor) -> Tensor:
        """`out` with what `calibrate` fitted."""
        return out

    def calibrate(self, out: Tensor, truth: Cells) -> None:
        """Fit what makes probabilities honest on validation rows (a temperature); kept in buffers."""

    def decode(self, out: Tensor) -> list[dict[str, Any]]:
        """One answer per row: {"value": ...} and, where it applies, {"probability": {class: p}}, {"quantiles": ...}."""
        raise NotImplementedError

    def scores(self, out: Tensor, truth: Cells) -> dict[str, float]:
        """Metrics over the labelled rows: flat {name: figure}, `metric` among them."""
        raise NotImplementedError

    def report(self, out: Tensor, truth: Cells) -> dict[str, Any]:
        """What needs more than one figure (per class precision, recall, F1, support); JSON."""
        return {}

    def row_losses(self, out: Tensor, truth: Cells) -> tuple[Tensor, Tensor]:
        """What went into `loss`: losses [L] of the labelled rows and these rows [L]."""
        raise NotImplementedError


class Objective(nn.Module):
    """An auxiliary loss beside the task's, computed in training only: it sees the tokens before and after fusion, and labels.

    It is finite whatever is absent, zero where it finds nothing to compare, and values under a false mask change nothing.

    Args:
        views: names of the views' spans, in order.
        width: D.
        targets: {target: its fitted codec}.
        make_task: a target's name to a new head of the kind that answers it.
        Every keyword-only argument of a subclass is an option (`--set OBJECTIVE.NAME=value`).
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, views: list[str], width: int, targets: dict[str, Codec], make_task: Callable[[str], "Task"]):
        super().__init__()
        self.views, self.width = list(views), width

    def fit(self, truth: dict[str, dict[str, Tensor]]) -> None:
        """Look at the collated targets of the training rows {target: {name: [P, ...]}} before training."""

    def vectors(self, encoded: Tokens) -> tuple[Tensor, Tensor]:
        """One vector of mean 0 and variance 1 per view: x [B, V, D] (zero where absent) and present [B, V]."""
        x, present = pooled(encoded, self.views)
        return F.layer_norm(x, (self.width,)), present

    def forward(self, encoded: Tokens, fused: Tokens, batch: Batch) -> Tensor:
        """-> the loss, a scalar."""
        raise NotImplementedError


def mean_loss(losses: Tensor, rows: Tensor, out: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean of the labelled rows' losses [L]; a differentiable zero where there are none."""
    if not len(losses):
        return out.sum() * 0.0
    if weight is None:
        return losses.mean()
    w = weight[rows]
    return (losses * w).sum() / w.sum().clamp(min=torch.finfo(losses.dtype).tiny)
