"""What one view shows is told from the others."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core import Batch, Codec, Objective, Task, Tokens, objectives
from ..core.layers import Mlp


@objectives("reconstruct")
class Reconstruct(Objective):
    """Reconstruction: each view's vector is predicted from the other views a row has.

    The encoders are asked for what the other views can tell them, without other rows as negatives: it works in small
    batches and with rows that resemble each other, where `contrastive` has too few or false negatives. It asks for less:
    views that all say nothing reconstruct each other perfectly, so it needs the task beside it.

    Source: ours, after Ngiam et al. 2011, "Multimodal Deep Learning", section 3.2 (one modality rebuilt from another); the
    views' vectors instead of the inputs are rebuilt, and no gradient goes into what is to be rebuilt, as in Grill et al.
    2020, "Bootstrap Your Own Latent", eq. 2. mean over v and the rows that have v and any other of
    |MLP_v([x_w, present_w] for w != v) - x_v|^2 / D, with x_w the normed mean of a view's tokens, 0 where it is absent.

    Args:
        dropout: in the hidden layers.
    Shapes:
        encoded [B, N, D] -> scalar
    Cost:
        2 V^2 * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, targets: dict[str, Codec], make_task: Callable[[str], Task], *, dropout: float = 0.1):
        super().__init__(views, width, targets, make_task)
        others = len(views) - 1
        self.maps = nn.ModuleList(Mlp(others * (width + 1), 2 * width, width, dropout=dropout) for _ in views if others)

    def forward(self, encoded: Tokens, fused: Tokens, batch: Batch) -> Tensor:
        x, present = self.vectors(encoded)
        shown = torch.cat([x, present.unsqueeze(-1).to(x.dtype)], -1)  # [B, V, D + 1]
        found = []
        for v, rebuild in enumerate(self.maps):
            others = [w for w in range(len(self.views)) if w != v]
            rows = present[:, v] & present[:, others].any(1)
            if rows.any():
                error = rebuild(shown[rows][:, others].flatten(1)).float() - x[rows, v].detach().float()
                found.append(error.square().mean())
        return torch.stack(found).mean() if found else x.sum() * 0.0
