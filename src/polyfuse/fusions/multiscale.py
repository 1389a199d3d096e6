"""Fusion at several depths of the encoders: what is shallow (an edge, a word, a single column) meets early, what is deep later."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pooled
from ..core.layers import Mlp


class _Multiscale(Fusion):
    """Lays the depths out as levels; where the tokens come with fewer, the last ones stand for the shallowest."""

    def __init__(self, views: list[str], width: int, depths: int):
        super().__init__(views, width)
        self.depths = depths

    def levels(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Normed means x [B, V, D] and present [B, V] of each level, shallow to deep, the last tokens at the end."""
        given = tokens.depths[-self.depths :]
        out = []
        for level in (*[tokens] * (self.depths - len(given)), *given, tokens):
            x, present = pooled(level, self.views)
            out.append((F.layer_norm(x, (self.width,)), present))
        return out


@fusions("hierarchical")
class Hierarchical(_Multiscale):
    """The views are fused at each depth, and what a depth gives goes into the fusion of the next deeper one.

    Where an answer hangs on plain features too (colour, loudness, single words), which the last layers have left behind.
    An encoder without earlier layers stands with its last tokens at every depth; if all are such, take `concat`.

    Source: Perez-Rua et al. 2019, "MFAS: Multimodal Fusion Architecture Search", the fusion layer that is stacked there:
    h_l = sigma(W_l [h_(l-1); x_1^l; ...; x_V^l]), x_v^l the mean of view v at depth l; row = h_L. Differs: the depths are
    taken in order in place of being searched for; h_l = h_(l-1) + MLP_l([...; present]), whose perceptron knows which views
    are there.

    Args:
        depths: earlier layers used, counted from the deepest; the last tokens come on top.
        dropout: in the hidden layers.
    Shapes:
        tokens and each of tokens.depths [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (2 (V + 1) + 2 depths * (V + 2)) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, depths: int = 2, dropout: float = 0.1):
        super().__init__(views, width, depths)
        inputs = len(views) * (width + 1)
        self.first = Mlp(inputs, 2 * width, width, dropout=dropout)
        self.deeper = nn.ModuleList(Mlp(width + inputs, 2 * width, width, dropout=dropout) for _ in range(depths))

    def forward(self, tokens: Tokens) -> Tokens:
        first, *deeper = [torch.cat([x.flatten(1), present.to(x.dtype)], 1) for x, present in self.levels(tokens)]
        h = self.first(first)
        for layer, x in zip(self.deeper, deeper, strict=True):
            h = h + layer(torch.cat([h, x], 1))
        return tokens.with_row(h)


class _Transfer(nn.Module):
    """One exchange: means x [B, V, D] -> the same, each channel scaled by 0 to 2 as all views together say."""

    def __init__(self, views: int, width: int, ratio: int):
        super().__init__()
        joint = max(1, views * width // ratio)
        self.squeeze, self.excite = nn.Linear(views * width, joint), nn.Linear(joint, views * width)

    def forward(self, x: Tensor) -> Tensor:
        gain = 2 * self.excite(self.squeeze(x.flatten(1)).relu()).sigmoid()
        return x * gain.view_as(x)


@fusions("mmtm")
class Transfer(_Multiscale):
    """Multimodal transfer module: at each depth every view's channels are turned up or down by what all views show there.

    Views keep to themselves and only their emphasis is exchanged, so a weak view harms little. `hierarchical` mixes more
    freely; `film` scales one view's channels by the others at the last layer only.

    Source: Joze et al. 2020, "MMTM: Multimodal Transfer Module for CNN Fusion", eq. 1-5: S_v = mean over tokens of x_v,
    Z = W [S_1; ...; S_V] + b, E_v = W_v Z + b_v, x_v becomes 2 sigmoid(E_v) * x_v; Z passes a ReLU as in Hu et al. 2018,
    "Squeeze-and-Excitation Networks", eq. 3. Differs: the encoders run through before, so the scaled channels do not enter
    their deeper layers. Instead a linear layer per view carries them on: S_v^l = norm(mean over tokens of x_v^l) +
    U_v^l S_v^(l-1) after scaling. A mean and a gain per channel may change places, so that means are all that is kept.
    row = MLP([S_1; ...; S_V]) of the last depth, in place of a mean of the streams' answers.

    Args:
        depths: earlier layers used, counted from the deepest; the last tokens come on top.
        ratio: Z has V * D / ratio channels.
        dropout: in the hidden layer.
    Shapes:
        tokens and each of tokens.depths [B, N, D] -> row [B, D]
    Expresses:
        xor, not lookup
    Cost:
        ((depths + 1) * 2 V^2 / ratio + (depths + 2) V + 2) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, depths: int = 2, ratio: int = 4, dropout: float = 0.1):
        super().__init__(views, width, depths)
        self.transfers = nn.ModuleList(_Transfer(len(views), width, ratio) for _ in range(depths + 1))
        self.carry = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in views) for _ in range(depths))
        self.out = Mlp(len(views) * width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        (x, _), *deeper = self.levels(tokens)
        s = self.transfers[0](x)
        for transfer, carry, (x, present) in zip(self.transfers[1:], self.carry, deeper, strict=True):
            carried = torch.stack([u(s[:, v]) for v, u in enumerate(carry)], 1)  # type: ignore[arg-type, var-annotated]
            s = transfer(x + carried.masked_fill(~present.unsqueeze(-1), 0.0))
        return tokens.with_row(self.out(s.flatten(1)))
