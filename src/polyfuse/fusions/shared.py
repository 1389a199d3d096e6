"""One set of weights for all modalities, behind a small stem for each."""

import torch
from torch import nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pool
from ..core.layers import Mlp, Transformer


@fusions("meta")
class Trunk(Fusion):
    """One transformer reads every view by itself: its weights learn from all of them.

    For many views and few rows: the trunk has as many rows as there are cells. Views do not see one another before
    their means are added: one of a few known tokens may still be looked up, finer alignment asks for `transformer`.

    Source: after the idea of Zhang et al. 2023, "Meta-Transformer: A Unified Framework for Multimodal Learning", whose
    trunk is pretrained and frozen; ours trains. row = MLP(sum over present v of mean over tokens of Trunk(S_v x)).

    Args:
        depth: blocks of the trunk.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention, on its result and in the perceptrons.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup, not product
    Cost:
        (V + 4 + depth * 12) * D^2 parameters; quadratic in the tokens of a view, linear in views.
    """

    def __init__(self, views: list[str], width: int, *, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.stems = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.trunk = Transformer(width, depth, heads, dropout)
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        means = []
        for stem, view in zip(self.stems, self.views):
            x, mask = tokens[view]
            x = stem(F.layer_norm(x.masked_fill(~mask.unsqueeze(-1), 0.0), (self.width,)))
            means.append(pool(self.trunk(x, mask), mask))
        return tokens.with_row(self.out(self.norm(torch.stack(means).sum(0))))
