"""Views as a set: one vector per view, pooled without weights of their own, so the size does not grow with the views."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pooled
from ..core.layers import AttentionPool, Mlp


class _Pooled(Fusion):
    """Normed vectors plus a learned embedding of their view, pooled to one, then a perceptron."""

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        self.embedding = nn.Parameter(torch.randn(len(views), width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def vectors(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """x [B, V, D] and present [B, V]."""
        x, present = pooled(tokens, self.views)
        return F.layer_norm(x, (self.width,)) + self.embedding, present


@fusions("mean")
class Mean(_Pooled):
    """The mean of the vectors of the views a row has.

    The fewest parameters of all, for many views and few rows, or views of one kind (four photographs). The encoders
    must bring the views into one space, and a view of noise counts as much as any other; `add` gives each a map of its own,
    `attention` weighs them.

    Source: ours; row = MLP(norm(mean over present v of (x_v + e_v))).

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup, not noise
    Cost:
        4 * D^2 parameters; linear in tokens.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = self.vectors(tokens)
        real = present.unsqueeze(-1)
        mean = x.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)
        return tokens.with_row(self.out(self.norm(mean)))


@fusions("attention")
class Attention(_Pooled):
    """A weighted mean of the views whose weights depend on the row.

    Where one view is noise in one row and the answer in the next. The weights sum to one over the views a row has and
    can be read. It blends views and leaves what lies in their combination to the perceptron behind it (`multiply`); a
    blend feature by feature is `gmu`.

    Source: Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", eq. 7-8, with views as the instances;
    a_v = softmax over present v of w' tanh(U (x_v + e_v)), row = MLP(norm(sum a_v (x_v + e_v))).
    `notes["weights"]` [B, V] holds a.

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        5 * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width, dropout=dropout)
        self.pool = AttentionPool(width).requires_grad_(len(views) > 1)  # one view has weight one: nothing to learn

    def forward(self, tokens: Tokens) -> Tokens:
        pooled_row, weights = self.pool(*self.vectors(tokens))
        return tokens.with_row(self.out(self.norm(pooled_row)), weights=weights)
