"""Layers that several parts share. All take a mask and let nothing under a false mask through, not even NaN."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Sequential):
    """Linear layers with GELU and dropout between: [..., sizes[0]] -> [..., sizes[-1]]."""

    def __init__(self, *sizes: int, dropout: float = 0.0):
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
            if i:
                layers += [nn.GELU(), nn.Dropout(dropout)]
            layers.append(nn.Linear(a, b))
        super().__init__(*layers)


class Block(nn.Module):
    """Pre-norm transformer block: x [B, N, D], mask [B, N] -> [B, N, D].

    Source: Vaswani et al. 2017, "Attention Is All You Need"; pre-norm after Xiong et al. 2020.
    With `context` (x [B, M, D], mask [B, M]) it attends to that instead of to itself (cross-attention).
    A row without any real token to attend to gets zeros from the attention, not NaN.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.0, expand: int = 4):
        super().__init__()
        self.heads, self.dropout = heads_for(width, heads), dropout
        self.norm_query, self.norm_context, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.keys_values, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, expand * width, width, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        b, n, d = x.shape
        source, real = (x, mask) if context is None else context
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        source = source.masked_fill(~real.unsqueeze(-1), 0.0)
        q = self.query(self.norm_query(x)).view(b, n, self.heads, d // self.heads).transpose(1, 2)
        k, v = self.keys_values(self.norm_context(source)).view(b, source.shape[1], 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        some = real.any(1)
        allowed = real | ~some.unsqueeze(1)  # a softmax over nothing is NaN: attend to zeros, then drop the result
        a = F.scaled_dot_product_attention(q, k, v, allowed[:, None, None, :], self.dropout if self.training else 0.0)
        a = self.out(a.transpose(1, 2).reshape(b, n, d)) * some.view(-1, 1, 1)
        x = x + F.dropout(a, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)


class Transformer(nn.Module):
    """`depth` blocks and a last norm: x [B, N, D], mask [B, N] -> [B, N, D], zeros under the mask."""

    def __init__(self, width: int, depth: int, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.states(x, mask)[-1]

    def states(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """What goes into each block, shallow to deep, and last what `forward` gives: depth + 1 times [B, N, D]."""
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], mask))
        return [*states[:-1], self.norm(states[-1]).masked_fill(~mask.unsqueeze(-1), 0.0)]


class Recurrent(nn.Module):
    """Bidirectional GRU or LSTM over the real steps: x [P, T, F], mask [P, T] -> [P, T, D].

    Source: Cho et al. 2014 (GRU); Hochreiter and Schmidhuber 1997 (LSTM).
    The backward direction reads each row from its own last real step, so padding changes nothing.
    """

    def __init__(self, inputs: int, width: int, depth: int = 1, cell: str = "gru", dropout: float = 0.0):
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        sizes = [inputs] + [width] * (depth - 1)
        self.forwards = nn.ModuleList(kind(s, width // 2, batch_first=True) for s in sizes)
        self.backwards = nn.ModuleList(kind(s, width - width // 2, batch_first=True) for s in sizes)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        real = mask.unsqueeze(-1)
        lengths = mask.sum(1, keepdim=True)  # [P, 1]; real steps come first
        steps = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)  # [1, T]
        reverse = torch.where(steps < lengths, lengths - 1 - steps, steps).unsqueeze(-1)  # [P, T, 1]
        for ahead, back in zip(self.forwards, self.backwards):
            x = x.masked_fill(~real, 0.0)
            there, _ = ahead(x)
            again, _ = back(x.gather(1, reverse.expand_as(x)))
            x = torch.cat([there, again.gather(1, reverse.expand_as(again))], -1)
            x = F.dropout(x, self.dropout, self.training)
        return x.masked_fill(~real, 0.0)


class AttentionPool(nn.Module):
    """One learned query weighs the real tokens: x [B, N, D], mask [B, N] -> [B, D], weights [B, N].

    Source: Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", eq. 8 without the gate.
    """

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        weights = masked_softmax(self.score(x).squeeze(-1), mask)
        return torch.einsum("bn,bnd->bd", weights, x), weights


class SeriesNorm(nn.Module):
    """Norm over a row's channels and real steps together, then a scale and shift per channel: x [P, D, T], mask [P, T] -> [P, D, T].

    Source: Wu and He 2018, "Group Normalization", with one group; only real steps count, so padding changes nothing.
    """

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width, 1)), nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        real = mask.unsqueeze(1)
        count = (mask.sum(1) * x.shape[1]).clamp(min=1).view(-1, 1, 1)
        x = x.float().masked_fill(~real, 0.0)
        x = (x - x.sum((1, 2), keepdim=True) / count) * real
        x = x * (x.square().sum((1, 2), keepdim=True) / count + 1e-5).rsqrt()
        return x * self.scale + self.shift


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension's real entries; zeros where a row has none."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0)


def positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """[length, width] sines and cosines (Vaswani et al. 2017, section 3.5)."""
    half = (width + 1) // 2
    angle = torch.arange(length, device=device).unsqueeze(1) * torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / half))
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :width]


def heads_for(width: int, most: int) -> int:
    """The largest number of heads <= `most` that divides the width."""
    return next(h for h in range(min(most, width), 0, -1) if width % h == 0)


def shrink_mask(mask: Tensor, stride: int, length: int) -> Tensor:
    """The mask after a layer with that stride: mask [P, T] -> [P, length], real where any covered step is real."""
    missing = length * stride - mask.shape[1]
    mask = F.pad(mask, (0, missing)) if missing > 0 else mask[:, : length * stride]
    return mask.unflatten(1, (length, stride)).any(-1)


def squeeze(x: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` tokens a row: a longer row's neighbours are averaged in groups of (nearly) equal size.

    The groups depend on the row's own number of real tokens, never on the padding, so a row alone gives the same.

    Shapes:
        x [P, N, F], mask [P, N] -> x [P, min(N, most), F] with zeros under the mask, mask
    """
    if mask.shape[1] <= most:
        return x.masked_fill(~mask.unsqueeze(-1), 0.0), mask
    real = mask.sum(1, keepdim=True)  # [P, 1]
    group = (mask.long().cumsum(1) - 1) * real.clamp(max=most) // real.clamp(min=1)  # [P, N]
    member = F.one_hot(group.clamp(min=0), most).masked_fill(~mask.unsqueeze(-1), 0)  # [P, N, most]
    count = member.sum(1)  # [P, most]
    total = torch.einsum("png,pnf->pgf", member.to(x.dtype), x.masked_fill(~mask.unsqueeze(-1), 0.0))
    return total / count.clamp(min=1).unsqueeze(-1), count > 0


class Fitted(nn.Module):
    """A module whose buffers have the sizes the data gave them: it takes those of the saved ones when it is loaded."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = buffer.new_empty(saved.shape, dtype=saved.dtype)
        super()._load_from_state_dict(state_dict, prefix, *rest)
