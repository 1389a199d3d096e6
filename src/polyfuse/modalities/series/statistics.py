"""What a series is like in numbers, each channel by itself: level, trend, spread, order, rhythm.

After Lubba et al. 2019, "catch22: CAnonical Time-series CHaracteristics" in kind, not in the letter: all are computed for many
series at once, and the level is kept, for near the end it often decides.
Lines are [P, C, T]: readings with `real` where there is one, or bridged over the gaps, with `there` up to the end of the series.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEVELS, SHAPES = 22, 28  # how many statistics `levels` and `shapes` give
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_DECAYS = (1.5, 4.0, 10.0, 25.0)  # readings after which a decayed mean has forgotten all but 1/e
_LAGS = (1, 2, 3, 5, 8, 13)
_OCTAVES = 6  # bands of the spectrum, each half as wide as the next
_FINEST = 512  # frequencies looked at, at most
FLAT = 1e-3  # less than this, in deviations of the training readings, is no difference: rounding must not decide


def bridged(value: Tensor, real: Tensor) -> Tensor:
    """Straight lines over the gaps, the nearest reading before the first and after the last; zeros where there is none.

    Shapes:
        value [..., T], real [..., T] -> [..., T]
    """
    steps = torch.arange(value.shape[-1], device=value.device)
    before = torch.where(real, steps, -1).cummax(-1).values
    after = torch.where(real, steps, len(steps)).flip(-1).cummin(-1).values.flip(-1)
    before, after = torch.where(before < 0, after, before), torch.where(after == len(steps), before, after)
    share = (steps - before) / (after - before).clamp(min=1)
    value = value.masked_fill(~real, 0.0)
    left, right = (value.gather(-1, at.clamp(0, len(steps) - 1)) for at in (before, after))
    return left + share * (right - left)


def levels(value: Tensor, real: Tensor) -> Tensor:
    """Where the readings lie and where they go: [P, C, T] -> [P, C, LEVELS], from real readings alone."""
    value = value.masked_fill(~real, 0.0)
    return torch.cat([*_spread(value, real), *_recent(value, real), *_trend(value, real)], -1)


def shapes(line: Tensor, there: Tensor, longest: int) -> Tensor:
    """How the readings follow each other, whatever their level and spread: [P, C, T] -> [P, C, SHAPES].

    Args:
        line: bridged readings.
        longest: readings of the longest series, which sets the finest step of the spectrum.
    """
    centred = line - _mean(line, there)
    std = _mean(centred.square(), there).sqrt()
    z = (centred / std.clamp(min=FLAT)).masked_fill(~there | (std < FLAT), 0.0)  # a flat line is zeros, not enlarged rounding
    return torch.cat([*_order(z, there), *_steps(line, z, there), *_rhythm(z, longest)], -1)


def _mean(x: Tensor, real: Tensor) -> Tensor:
    return x.masked_fill(~real, 0.0).sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp(min=1)


def _spread(value: Tensor, real: Tensor) -> Iterator[Tensor]:
    """Mean, deviation, quantiles (by straight lines between ordered readings)."""
    mean = _mean(value, real)
    yield mean
    yield _mean((value - mean).square(), real).sqrt()
    ordered = value.masked_fill(~real, torch.inf).sort(-1).values
    count = real.sum(-1, keepdim=True)
    last = (count - 1).clamp(min=0)
    for quantile in _QUANTILES:
        at = quantile * last
        low = at.floor().long()
        below, above = ordered.gather(-1, low), ordered.gather(-1, torch.minimum(low + 1, last))
        yield (below + (at - low) * (above - below)).masked_fill(count == 0, 0.0)


def _recent(value: Tensor, real: Tensor) -> Iterator[Tensor]:
    """The last reading, means that forget, the means of the first and the last third and how they differ."""
    age = real.flip(-1).cumsum(-1).flip(-1) - 1  # real readings that follow
    yield (value * (real & (age == 0))).sum(-1, keepdim=True)
    for decay in _DECAYS:
        weight = torch.exp(-age / decay) * real
        yield (weight * value).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=FLAT)
    third = (3 * (real.cumsum(-1) - 1)).div(real.sum(-1, keepdim=True).clamp(min=1), rounding_mode="floor")
    first, middle, last = (_mean(value, real & (third == i)) for i in range(3))
    yield from (first, last, last - first)
    yield middle - (first + last) / 2


def _trend(value: Tensor, real: Tensor) -> Iterator[Tensor]:
    """The straight line through the readings: its rise over them all, where it ends, what is left; the share of real readings."""
    time = torch.arange(value.shape[-1], dtype=value.dtype, device=value.device).expand_as(value)
    time = (time - _mean(time, real)).masked_fill(~real, 0.0)
    mean = _mean(value, real)
    slope = (time * (value - mean)).sum(-1, keepdim=True) / time.square().sum(-1, keepdim=True).clamp(min=FLAT)
    end = slope * time.amax(-1, keepdim=True)
    rest = _mean((value - mean - slope * time).square(), real).sqrt()
    yield slope * (time.amax(-1, keepdim=True) - time.amin(-1, keepdim=True))
    yield mean + end
    yield rest
    yield slope / rest.clamp(min=0.01)


def _order(z: Tensor, there: Tensor) -> Iterator[Tensor]:
    """Skewness, tails, autocorrelations, where the extremes are, crossings of the mean, the longest stretch above it."""
    count = there.sum(-1, keepdim=True).clamp(min=1)
    yield _mean(z**3, there)
    yield _mean(z**4, there)
    for lag in _LAGS:
        yield (z[..., lag:] * z[..., : max(z.shape[-1] - lag, 0)]).sum(-1, keepdim=True) / count
    for side in (z, -z):
        top = side.masked_fill(~there, -torch.inf).amax(-1, keepdim=True)
        yield (there & (side >= top - FLAT)).byte().argmax(-1, keepdim=True) / count  # the first where several are equal
    above = there & (z > FLAT)
    yield _mean((above[..., 1:] != above[..., :-1]).to(z.dtype), there[..., 1:])
    yield longest_stretch(above) / count


def _steps(line: Tensor, z: Tensor, there: Tensor) -> Iterator[Tensor]:
    """From reading to reading: size, asymmetry in time, jumps, falls."""
    pair = there[..., 1:]
    step = z.diff(dim=-1).masked_fill(~pair, 0.0)
    yield _mean(line.diff(dim=-1).square(), pair).sqrt()
    yield _mean(step.abs(), pair)
    yield _mean(step.square(), pair)
    yield _mean(step**3, pair)
    yield _mean((step.abs() > 1).to(z.dtype), pair)
    yield _mean((step < -FLAT).to(z.dtype), pair)
    yield longest_stretch(step < -FLAT) / there.sum(-1, keepdim=True).clamp(min=1)


def longest_stretch(flags: Tensor) -> Tensor:
    """[..., T] bool -> [..., 1]: most True in a row."""
    if not flags.shape[-1]:
        return flags.new_zeros(*flags.shape[:-1], 1, dtype=torch.long)
    count = flags.cumsum(-1)
    return (count - count.masked_fill(flags, 0).cummax(-1).values).amax(-1, keepdim=True)


def _rhythm(z: Tensor, longest: int) -> Iterator[Tensor]:
    """Shares of the octaves in the spectrum, its centre, its entropy and its peak.

    The frequencies are the same for series of every length, so that padding changes nothing.
    """
    steps = min(max(longest // 2, 1), _FINEST)
    frequency = torch.arange(1, steps + 1, dtype=z.dtype, device=z.device) / (2 * steps)
    angle = 2 * math.pi * torch.arange(z.shape[-1], dtype=z.dtype, device=z.device).unsqueeze(1) * frequency
    power = (z @ angle.cos()).square() + (z @ angle.sin()).square()
    share = power / power.sum(-1, keepdim=True).clamp(min=FLAT)
    octave = (-torch.log2(2 * frequency) + 1e-4).long().clamp(max=_OCTAVES - 1)  # 0: the fastest
    yield z.new_zeros(*z.shape[:-1], _OCTAVES).index_add(-1, octave, share)
    yield (share * frequency).sum(-1, keepdim=True)
    yield -(share * share.clamp(min=1e-9).log()).sum(-1, keepdim=True)
    yield (share**4 * frequency).sum(-1, keepdim=True) / (share**4).sum(-1, keepdim=True).clamp(min=1e-9)
