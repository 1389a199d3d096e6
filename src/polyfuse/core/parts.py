"""What a fusion and a task are: the two other nouns a part can be."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .codec import Codec
from .tokens import Cells, Tokens


class Fusion(nn.Module):
    """Tokens of all views -> Tokens that also has the span "row", one vector per row.

    Takes any number of views, one included, and any pattern of absent views. Values under a false mask must
    change nothing, and a row without any token still gets a finite answer.

    Args:
        views: names of the views, in order; `tokens.spans` has each.
        width: D.
        Every keyword-only argument of a subclass is an option (`--set fusion.NAME=value`).
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, views: list[str], width: int):
        super().__init__()
        self.views, self.width = list(views), width

    def forward(self, tokens: Tokens) -> Tokens:
        raise NotImplementedError


class Task(nn.Module):
    """One target: the head on the fused row, its loss, its answers and its metrics.

    Class attributes:
        modalities: modalities a target column may have for this task ("category", "number" ...).
        metric: the figure that chooses the best checkpoint; a key of what `scores` gives.
        higher: whether more of it is better.

    Args:
        codec: the fitted codec of the target column: it knows the classes or the unit.
        width: D.
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}
    modalities: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = ""
    higher: ClassVar[bool] = True

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

    def loss(self, out: Tensor, truth: Cells, weight: Tensor | None = None) -> Tensor:
        """Mean over the labelled rows, weighted by `weight` [B]; zero, and differentiable, where there are none."""
        raise NotImplementedError

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


def mean_loss(losses: Tensor, rows: Tensor, out: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean of the labelled rows' losses [L]; a differentiable zero where there are none."""
    if not len(losses):
        return out.sum() * 0.0
    if weight is None:
        return losses.mean()
    w = weight[rows]
    return (losses * w).sum() / w.sum().clamp(min=torch.finfo(losses.dtype).tiny)
