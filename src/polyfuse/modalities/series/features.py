"""From readings over time to one vector without training: statistics, and the answers of many small convolutions."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, encoders
from ...core.sample import evenly
from .codec import SeriesCodec
from .statistics import FLAT, LEVELS, SHAPES, bridged, levels, shapes

_CHUNK = 32  # cells at a time: what they need stays in the processor's cache
_SAMPLE = 512  # cells that are fitted on: this many, and fewer than twice as many
_LENGTH = 9  # readings a kernel looks at
_TRIPLES = list(itertools.combinations(range(_LENGTH), 3))  # where a kernel weighs 2 instead of -1
_CLIP = 10.0  # deviations


@encoders("series-features")
class SeriesFeatures(Encoder):
    """Two descriptions side by side: statistics of the channels and of combinations of them, and small fixed convolutions.

    What no label trains, computed in about a millisecond: levels, recent means and trends of every channel; the same and the shape
    (autocorrelations, steps, spectrum) of the first principal components and of the slowest combinations, in which a drift that
    every channel drowns in noise stands out; and the share of readings at which each of some hundred kernels answers more than a
    bias, which tells local shapes apart. Statistics decide where the level near the end matters, convolutions where the shape does.
    `series-cnn` or `series-gru` can be better with many thousand rows. A gap is bridged by a straight line between the readings beside it,
    and levels and trends are of real readings alone.
    Source: Dempster, Schmidt, Webb 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series Classification",
    section 3 (the kernels, their dilations, channels and biases); biases here are quantiles over many cells instead of one,
    and the ends of a series are continued instead of set to zero. Wiskott and Sejnowski 2002, "Slow Feature Analysis" (the linear case).
    Lubba et al. 2019, "catch22", for the kind of statistics.

    Args:
        kernels: about how many features of convolutions; there are 84 or a multiple for every dilation.
        combined: how many principal components, and how many slowest combinations, of the channels; a single one has none.
        channels: more channels than this are replaced by as many principal components of them.
    Shapes:
        value [P, T, C], real [P, T, C] -> tokens [P, 1, D]; stored [P, 1, F], F = 1 + 22 * C + 100 * combined + about kernels
    Cost:
        F * D parameters; linear in T but for the spectrum, T^2; a few seconds to fit.
    """

    modality = "series"
    frozen = True
    columnar = True
    lead: Tensor  # [lines, C]: what stands for the channels where these are too many
    combine: Tensor  # [2 * combined, C]: principal components, then slow features
    weights: Tensor  # [dilations, 84, lines, 9]
    bias: Tensor  # [dilations, biases of each kernel, 84]
    centre: Tensor
    scale: Tensor

    def __init__(self, codec: SeriesCodec, width: int, *, kernels: int = 504, combined: int = 4, channels: int = 32):
        super().__init__(codec, width)
        self.longest = codec.longest
        lines, pairs = min(codec.channels, channels), min(combined, codec.channels) if codec.channels > 1 else 0
        self.many = codec.channels > lines
        self.dilations = [d for d in (2**i for i in range(16)) if d == 1 or d * (_LENGTH - 1) < self.longest]
        biases = max(1, round(kernels / len(_TRIPLES) / len(self.dilations)))
        size = 1 + (lines + 2 * pairs) * LEVELS + (2 * pairs or lines) * SHAPES + len(self.dilations) * biases * len(_TRIPLES)
        self.register_buffer("lead", torch.eye(lines, codec.channels))
        self.register_buffer("combine", torch.eye(pairs, codec.channels).repeat(2, 1))
        self.register_buffer("weights", _kernels(len(self.dilations), lines))
        self.register_buffer("bias", torch.zeros(len(self.dilations), biases, len(_TRIPLES)))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.out = nn.Linear(size, width)

    @torch.no_grad()
    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        cells = evenly(_cells(stream), _SAMPLE)
        if not cells:
            return
        longest = max(value.shape[-1] for value, _, _ in cells)
        value, real, there = (torch.stack([F.pad(part, (0, longest - part.shape[-1])) for part in parts]) for parts in zip(*cells))
        line = bridged(value, real)
        self._fit_combinations(line.transpose(1, 2)[there[:, 0]], line.diff(dim=-1).transpose(1, 2)[there[:, 0, 1:]])
        some = slice(None, None, max(1, len(line) // (_SAMPLE // 2)))
        self._fit_biases(self._lines(line[some]), there[some, 0])
        found = torch.cat([self._described(*(x[at : at + _CHUNK] for x in (value, real, there))) for at in range(0, len(value), _CHUNK)])
        self.centre.copy_(found.mean(0))
        spread = found.std(0, correction=0)
        self.scale.copy_(torch.where(spread > FLAT, spread, 1.0))  # 1: the same in every cell

    def _fit_combinations(self, readings: Tensor, steps: Tensor) -> None:
        """Principal components and slow features, of readings [R, C] and of the differences [S, C] of neighbours."""
        shared, change = ((x.double().T @ x.double() / max(len(x), 1)).cpu() for x in (readings, steps))
        principal = torch.linalg.eigh(shared).eigenvectors.flip(1).T  # the strongest first
        noise = 0.01 * torch.eye(len(shared), dtype=torch.double)  # so that a combination that is always zero is not called slow
        whiten = torch.linalg.inv(torch.linalg.cholesky(shared + noise))
        slow = torch.linalg.eigh(whiten @ (change + noise) @ whiten.T).eigenvectors.T @ whiten  # the slowest first
        pairs = len(self.combine) // 2
        self.combine.copy_(_signed(torch.cat([principal[:pairs], slow[:pairs]])))
        if self.many:
            self.lead.copy_(_signed(principal[: len(self.lead)]))

    def _fit_biases(self, lines: Tensor, there: Tensor) -> None:
        """Quantiles of each kernel's answers, spread evenly in (0, 1) by steps of the golden ratio over kernels and biases."""
        golden = (5**0.5 - 1) / 2
        for at in range(len(self.dilations)):
            answers = self._answers(lines, at).transpose(0, 1)[:, there].sort(-1).values  # [84, readings]
            quantile = torch.arange(1, self.bias[at].numel() + 1, dtype=torch.double, device=answers.device) * golden % 1
            place = (quantile.view(self.bias[at].shape).T * (answers.shape[1] - 1)).long()
            self.bias[at] = answers.gather(1, place).T + FLAT  # an answer just as large is not above it

    def features(self, x: dict[str, Tensor]) -> Encoded:
        mask = x["mask"]
        parts = [self.centre.new_zeros(0, len(self.centre))]
        for at in range(0, len(mask), _CHUNK):
            parts.append(self._described(*_channels({name: value[at : at + _CHUNK] for name, value in x.items()})))
        found = ((torch.cat(parts) - self.centre) / self.scale).clamp(-_CLIP, _CLIP)
        some = mask.any(1, keepdim=True)
        return Encoded((found * some).unsqueeze(1), some)

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)

    def _described(self, value: Tensor, real: Tensor, there: Tensor) -> Tensor:
        """value, real, there [P, C, T] -> [P, F], not yet scaled."""
        every = bridged(value, real)
        lines, combined = self._lines(every), self.combine @ every
        throughout = there[:, :1]
        alike = throughout.expand_as(combined)
        single = levels(lines, throughout.expand_as(lines)) if self.many else levels(value, real)
        shaped = combined if len(self.combine) else lines
        count = throughout.sum(-1)
        parts = [count.clamp(min=1).log(), single.flatten(1), levels(combined, alike).flatten(1)]
        parts.append(shapes(shaped, throughout.expand_as(shaped), self.longest).flatten(1))
        beyond = lines.new_zeros(throughout.shape).masked_fill(~throughout, -torch.inf)
        for at, biases in enumerate(self.bias):
            answers = self._answers(lines, at) + beyond
            parts += [(answers > bias.unsqueeze(-1)).sum(-1) / count.clamp(min=1) for bias in biases]
        return torch.cat(parts, 1)

    def _lines(self, line: Tensor) -> Tensor:
        return self.lead @ line if self.many else line

    def _answers(self, lines: Tensor, at: int) -> Tensor:
        """[P, C, T] -> [P, 84, T]: the kernels at one dilation; their weights sum to zero, so continued ends add no edge."""
        reach = _LENGTH // 2 * self.dilations[at]
        return F.conv1d(F.pad(lines, (reach, reach), mode="replicate"), self.weights[at], dilation=self.dilations[at])


def _kernels(dilations: int, channels: int) -> Tensor:
    """[dilations, 84, channels, 9]: every kernel sees its own few channels, few more often than many."""
    kernels = np.full((len(_TRIPLES), _LENGTH), -1.0, np.float32)
    kernels[np.arange(len(_TRIPLES))[:, None], _TRIPLES] = 2.0
    draws = np.random.default_rng(0)
    sees = np.zeros((dilations, len(_TRIPLES), channels), np.float32)
    for row in sees.reshape(-1, channels):
        row[draws.choice(channels, int(2 ** draws.uniform(0, np.log2(min(channels, _LENGTH) + 1))), replace=False)] = 1.0
    return torch.from_numpy(sees[..., None] * kernels[:, None])


def _signed(rows: Tensor) -> Tensor:
    """The largest entry of each row positive: which of two opposite directions a solver gives is chance."""
    return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def _channels(x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Collated cells as value (zero in gaps), real and there [P, C, T]."""
    there = x["mask"].unsqueeze(1)
    real = x["real"].transpose(1, 2) & there
    return x["value"].float().transpose(1, 2).masked_fill(~real, 0.0), real, there.expand_as(real)


def _cells(stream: Iterable[dict[str, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One by one, as value, real and there [C, T]."""
    for x in stream:
        for value, real, there in zip(*_channels(x)):
            yield value.clone(), real.clone(), there.clone()
