"""A head of its own for every view, so that each learns the target and not only the one that is quickest to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Batch, Codec, Objective, Task, Tokens, mean_loss, objectives

ViewLosses = dict[str, dict[str, tuple[Tensor, Tensor]]]


@objectives("heads")
class Heads(Objective):
    """A head per view and target: every encoder is also taught by the target alone, without the others' help.

    Fusion stops teaching a view once another explains the training rows; a head of its own does not. Where a target can
    only be told from several views together (do they belong together?), the heads for that one learn nothing and cost
    little; the gain is with targets that each view tells in part.

    Source: auxiliary heads after Lee et al. 2015, "Deeply-Supervised Nets", eq. 3; per modality as in Wang et al. 2020,
    "What Makes Training Multi-modal Classification Networks Hard?", their blend with equal weights. A view's loss is the task's,
    over the labelled rows that have the view; theirs is averaged over views, then over targets.

    Shapes:
        encoded [B, N, D] -> scalar
    Cost:
        one head per view and target; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, targets: dict[str, Codec], make_task: Callable[[str], Task]):
        super().__init__(views, width, targets, make_task)
        self.targets = list(targets)
        self.heads: Any = nn.ModuleList(nn.ModuleList(make_task(t) for _ in views) for t in targets)
        self.last: ViewLosses = {}  # of the last call, without gradient, for whoever balances the views
        self.emphasis: dict[str, float] = {}  # {view: what its losses are multiplied by}, set by whoever balances; 1 unless set

    def fit(self, truth: dict[str, dict[str, Tensor]]) -> None:
        for target, heads in zip(self.targets, self.heads):
            for head in heads:
                head.fit(truth[target])

    def per_view(self, encoded: Tokens, batch: Batch) -> ViewLosses:
        """{target: {view: (losses [L], rows [L])}} of the labelled rows that have the view; a view without any is left out."""
        x, present = self.vectors(encoded)
        span = {"row": slice(0, 1)}
        found: ViewLosses = {}
        for target, heads in zip(self.targets, self.heads):
            found[target] = {}
            for v, (view, head) in enumerate(zip(self.views, heads)):
                truth = batch.cells[target]
                truth = truth.keep(present[truth.rows, v])
                if len(truth.rows):
                    out = head(Tokens(x[:, v : v + 1], torch.ones_like(present[:, :1]), span))
                    losses, rows = head.row_losses(out, truth)
                    if len(rows):
                        found[target][view] = (losses, rows)
        return found

    def forward(self, encoded: Tokens, fused: Tokens, batch: Batch) -> Tensor:
        found = self.per_view(encoded, batch)
        self.last = {t: {v: (losses.detach(), rows) for v, (losses, rows) in views.items()} for t, views in found.items()}
        means = [torch.stack([self._mean(v, *of, batch) for v, of in views.items()]).mean() for views in found.values() if views]
        return torch.stack(means).mean() if means else self.vectors(encoded)[0].sum() * 0.0

    def _mean(self, view: str, losses: Tensor, rows: Tensor, batch: Batch) -> Tensor:
        return mean_loss(losses, rows, losses, batch.weight) * self.emphasis.get(view, 1.0)
