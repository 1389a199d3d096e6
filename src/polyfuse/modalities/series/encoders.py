"""From readings over time to tokens: encoders that train with the model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, RecipeError, encoders
from ...core.layers import Recurrent, Transformer, positions, shrink_mask
from .codec import SeriesCodec


class _SeriesEncoder(Encoder):
    """Readings and gap flags side by side as channels [P, T, 2C]."""

    modality = "series"

    def entered(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        real = x["real"] & x["mask"].unsqueeze(-1)
        return torch.cat([x["value"].masked_fill(~real, 0.0), real.to(x["value"].dtype)], -1), x["mask"]


class _TimeConv(nn.Module):
    """Convolutions of three lengths side by side, a norm over channels, a residual path: [P, T, D] -> [P, T, D].

    Source: Ismail Fawaz et al. 2020, "InceptionTime", figure 2.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        third = width // 4
        self.convs = nn.ModuleList(nn.Conv1d(width, third, k, padding=k // 2) for k in (3, 7, 15))
        self.out = nn.Linear(3 * third, width)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x).masked_fill(~mask.unsqueeze(-1), 0.0).transpose(1, 2)
        h = torch.cat([conv(h) for conv in self.convs], 1).transpose(1, 2)
        return x + F.dropout(self.out(F.gelu(h)), self.dropout, self.training)


@encoders("series-cnn")
class SeriesCnn(_SeriesEncoder):
    """Residual convolutions of several lengths over time.

    The first to try. `series-gru` where the order over long spans matters, `series-lstnet` for periodic series.
    Source: Ismail Fawaz et al. 2020, "InceptionTime", with norms over channels.

    Args:
        depth: residual blocks.
        stride: readings per token; 0 = so that there are at most 32 tokens.
        dropout: in the blocks.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, T / stride, D]
    Cost:
        about 7 * depth * D^2 parameters; linear in T.
    """

    def __init__(self, codec: SeriesCodec, width: int, *, depth: int = 3, stride: int = 0, dropout: float = 0.1):
        super().__init__(codec, width)
        self.stride = stride or max(1, -(-codec.longest // 32))
        self.enter = nn.Linear(2 * codec.channels, width)
        self.blocks = nn.ModuleList(_TimeConv(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.most_tokens = -(-codec.longest // self.stride)
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.entered(x)
        states = [self.enter(h)]
        for block in self.blocks:
            states.append(block(states[-1], mask))
        earlier = self.earlier(*((e, mask) for e in states[:-1]))
        return Encoded(*_pooled(self.norm(states[-1]), mask, self.stride), earlier)


class _SeriesRecurrent(_SeriesEncoder):
    cell = "gru"

    def __init__(self, codec: SeriesCodec, width: int, *, depth: int = 2, stride: int = 0, last: bool = False, dropout: float = 0.1):
        super().__init__(codec, width)
        self.stride, self.last, self.dropout = stride or max(1, -(-codec.longest // 32)), last, dropout
        self.enter = nn.Linear(2 * codec.channels, width)
        self.recurrent = Recurrent(width, width, depth, self.cell, dropout)
        self.norm = nn.LayerNorm(width)
        self.most_tokens = 1 if last else -(-codec.longest // self.stride)
        self.depth_widths = (width,)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.entered(x)
        h = F.gelu(self.enter(h))
        earlier = self.earlier((h, mask))
        h = F.dropout(self.norm(self.recurrent(h, mask)), self.dropout, self.training)
        if not self.last:
            return Encoded(*_pooled(h, mask, self.stride), earlier)
        end = (mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, h.shape[-1])
        return Encoded(h.gather(1, end), mask.any(1, keepdim=True), earlier)


@encoders("series-gru")
class SeriesGru(_SeriesRecurrent):
    """A bidirectional gated recurrent network over the readings.

    Where order and long spans matter more than local shape. Source: Cho et al. 2014.

    Args:
        depth: recurrent layers.
        stride: readings per token; 0 = so that there are at most 32 tokens.
        last: one token instead, the state after the last reading: for forecasts and for what the latest readings decide.
        dropout: between the layers and on the tokens.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, T / stride, D]
    Cost:
        about 3 * depth * D^2 parameters; linear in T, step by step.
    """


@encoders("series-lstm")
class SeriesLstm(_SeriesRecurrent):
    """A bidirectional long short-term memory over the readings.

    As `series-gru` with a memory cell. Source: Hochreiter and Schmidhuber 1997.

    Args:
        depth: recurrent layers.
        stride: readings per token; 0 = so that there are at most 32 tokens.
        last: one token instead, the state after the last reading: for forecasts and for what the latest readings decide.
        dropout: between the layers and on the tokens.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, T / stride, D]
    Cost:
        about 4 * depth * D^2 parameters; linear in T, step by step.
    """

    cell = "lstm"


@encoders("series-transformer")
class SeriesTransformer(_SeriesEncoder):
    """A transformer over patches of readings.

    With many rows, or where distant moments belong together. Source: Nie et al. 2023, "A Time Series is Worth 64 Words"
    (patches); here the channels of a patch are mixed at once.

    Args:
        patch: readings per token; 0 = so that there are at most 32.
        depth, heads, dropout: of the transformer.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, T / patch, D]
    Cost:
        12 * depth * D^2 parameters; quadratic in the patches.
    """

    def __init__(self, codec: SeriesCodec, width: int, *, patch: int = 0, depth: int = 3, heads: int = 4, dropout: float = 0.1):
        super().__init__(codec, width)
        self.patch = patch or max(1, -(-codec.longest // 32))
        self.enter = nn.Linear(2 * codec.channels * self.patch, width)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.most_tokens = -(-codec.longest // self.patch)
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.entered(x)
        h = F.pad(h.masked_fill(~mask.unsqueeze(-1), 0.0), (0, 0, 0, -h.shape[1] % self.patch))
        count = h.shape[1] // self.patch
        mask = shrink_mask(mask, self.patch, count)
        h = self.enter(h.reshape(len(h), count, self.patch * h.shape[2]))
        *earlier, last = self.transformer.states(h + positions(count, self.width, h.device), mask)
        return Encoded(last, mask, self.earlier(*((e, mask) for e in earlier)))


@encoders("series-lstnet")
class SeriesLstnet(_SeriesEncoder):
    """Convolution, recurrence, recurrence that skips a period, and a linear autoregressive part.

    For series with a known period (hours of a day). Source: Lai et al. 2018, "Modeling Long- and Short-Term Temporal Patterns
    with Deep Neural Networks", sections 3.2-3.6; the parts become tokens instead of a forecast, and the fusion's attention
    stands for the temporal attention.

    Args:
        period: readings of one period, which the skipping recurrence steps over.
        kernel: readings the convolution sees.
        memory: last readings of the autoregressive part.
        dropout: on the convolution.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, 3, D]: recurrence, skipping recurrence, autoregression
    Cost:
        about 7 * D^2 parameters; linear in T.
    """

    most_tokens = 3

    def __init__(self, codec: SeriesCodec, width: int, *, period: int = 8, kernel: int = 6, memory: int = 8, dropout: float = 0.1):
        super().__init__(codec, width)
        for option, number in (("period", period), ("kernel", kernel), ("memory", memory)):
            if number < 1:
                raise RecipeError("encoder 'series-lstnet'", f"has {option}={number}", expected="at least 1")
        self.period, self.memory, self.dropout = period, memory, dropout
        self.conv = nn.Conv1d(2 * codec.channels, width, kernel)
        self.pad = kernel - 1
        self.recurrent, self.skip = nn.GRU(width, width, batch_first=True), nn.GRU(width, width, batch_first=True)
        self.linear = nn.Linear(2 * codec.channels * memory, width)
        self.depth_widths = (width,)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.entered(x)
        h = h.masked_fill(~mask.unsqueeze(-1), 0.0)
        p, t, _ = h.shape
        lengths = mask.sum(1)  # [P]; real readings come first
        local = F.gelu(self.conv(F.pad(h.transpose(1, 2), (self.pad, 0)))).transpose(1, 2)  # sees the past only
        local = F.dropout(local, self.dropout, self.training)
        last = (lengths - 1).clamp(min=0)
        rows = torch.arange(p, device=h.device)
        one = self.recurrent(local)[0][rows, last]
        steps = -(-t // self.period)
        back = last.unsqueeze(1) - self.period * torch.arange(steps - 1, -1, -1, device=h.device)  # [P, steps], oldest first
        picked = local[rows.unsqueeze(1), back.clamp(min=0)].masked_fill((back < 0).unsqueeze(-1), 0.0)
        count = (back >= 0).sum(1)
        order = (torch.arange(steps, device=h.device) + (steps - count).unsqueeze(1)).clamp(max=steps - 1)  # real steps to the front
        two = self.skip(picked[rows.unsqueeze(1), order])[0][rows, (count - 1).clamp(min=0)]
        recent = last.unsqueeze(1) - torch.arange(self.memory, device=h.device)
        three = self.linear(h[rows.unsqueeze(1), recent.clamp(min=0)].masked_fill((recent < 0).unsqueeze(-1), 0.0).flatten(1))
        return Encoded(torch.stack([one, two, three], 1), mask.any(1, keepdim=True).expand(p, 3), self.earlier((local, mask)))


def _pooled(h: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Means over `stride` real steps: [P, T, D] -> [P, T / stride, D] and mask."""
    if stride == 1:
        return h.masked_fill(~mask.unsqueeze(-1), 0.0), mask
    pad = -h.shape[1] % stride
    h = F.pad(h.masked_fill(~mask.unsqueeze(-1), 0.0), (0, 0, 0, pad)).unflatten(1, (-1, stride))
    m = F.pad(mask, (0, pad)).unflatten(1, (-1, stride))
    return h.sum(2) / m.sum(2, keepdim=True).clamp(min=1), m.any(2)
