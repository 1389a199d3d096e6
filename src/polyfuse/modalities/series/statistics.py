"""What a series is like in numbers: level, spread, trend, order, rhythm, each channel by itself."""

import math

import torch
from torch import Tensor

DECAYS = (1.5, 4.0, 10.0, 25.0)  # readings after which a decayed mean has forgotten all but 1/e
LAGS = (1, 2, 3, 5, 8, 13)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
BANDS = 6


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


def statistics(value: Tensor, real: Tensor, mask: Tensor, longest: int) -> Tensor:
    line, there = bridged(value, real), mask.unsqueeze(1).expand_as(real)
    mean, std = _moments(value, real)
    z = ((line - mean) / std.clamp(min=1e-6)).masked_fill(~there, 0.0)
    parts = [mean, std, *_levels(value, real, mean), *_trend(value, real, mean), *_order(line, z, there), *_rhythm(z, there, longest)]
    return torch.cat(parts, -1)


def _moments(value, real):
    n = real.sum(-1, keepdim=True).clamp(min=1)
    mean = value.masked_fill(~real, 0.0).sum(-1, keepdim=True) / n
    std = ((value - mean).masked_fill(~real, 0.0).square().sum(-1, keepdim=True) / n).sqrt()
    return mean, std


def _mean(x, there):
    return x.masked_fill(~there, 0.0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)


def _levels(value, real, mean):
    n = real.sum(-1, keepdim=True)
    ordered = value.masked_fill(~real, torch.inf).sort(-1).values
    last = (n - 1).clamp(min=0)
    out = []
    for q in (0.0, *QUANTILES, 1.0):
        at = q * last
        low = at.floor().long()
        a, b = ordered.gather(-1, low), ordered.gather(-1, torch.minimum(low + 1, last))
        out.append((a + (at - low) * (b - a)).masked_fill(n == 0, 0.0))
    # age: readings after
    age = (real.flip(-1).cumsum(-1).flip(-1) - 1).to(value.dtype)
    v = value.masked_fill(~real, 0.0)
    out.append((v * (age == 0) * real).sum(-1, keepdim=True))
    for tau in DECAYS:
        w = torch.exp(-age / tau) * real
        out.append((w * v).sum(-1, keepdim=True) / w.sum(-1, keepdim=True).clamp(min=1e-6))
    place = (real.cumsum(-1) - 1) / n.clamp(min=1)
    thirds = [_mean(v, real & (place >= i / 3 - 1e-6) & (place < (i + 1) / 3 - 1e-6)) for i in range(3)]
    out += [thirds[0], thirds[2], thirds[2] - thirds[0], thirds[1] - (thirds[0] + thirds[2]) / 2]
    out.append(n / real.shape[-1] * 0 + n.clamp(min=1).log())
    return out


def _trend(value, real, mean):
    t = torch.arange(value.shape[-1], dtype=value.dtype, device=value.device)
    t = t - _mean(t.expand_as(value), real)
    v = (value - mean).masked_fill(~real, 0.0)
    tt = t.masked_fill(~real, 0.0)
    slope = (tt * v).sum(-1, keepdim=True) / tt.square().sum(-1, keepdim=True).clamp(min=1e-6)
    rest = (v - slope * tt).masked_fill(~real, 0)
    noise = _mean(rest.square(), real).sqrt()
    s = v / _mean(v.square(), real).sqrt().clamp(min=1e-6)
    end = slope * (tt.max(-1, keepdim=True).values)
    return [slope, end + mean, noise, _mean(s**3, real), _mean(s**4, real), slope / noise.clamp(min=1e-3)]


def _order(line, z, there):
    n = there.sum(-1, keepdim=True).clamp(min=1)
    pair = there[..., 1:]
    step = (z[..., 1:] - z[..., :-1]).masked_fill(~pair, 0.0)
    var = _mean(z.square(), there).clamp(min=1e-6)
    acf = []
    for lag in LAGS:
        if lag < z.shape[-1]:
            p = there[..., lag:]
            acf.append((z[..., lag:] * z[..., :-lag] * p).sum(-1, keepdim=True) / n / var)
        else:
            acf.append(torch.zeros_like(var))
    up = z > 0
    out = [*acf, _mean(step.abs(), pair), _mean(step**3, pair), _mean(step.square(), pair),
           _mean((up[..., 1:] != up[..., :-1]).float(), pair), _stretch(up & there) / n, _stretch((step < 0) & pair) / n,
           _mean((step.abs() > 1).float(), pair)]
    raw = (line[..., 1:] - line[..., :-1]).masked_fill(~pair, 0.0)
    out.append(_mean(raw.square(), pair).sqrt())
    for e in (line.masked_fill(~there, -torch.inf), (-line).masked_fill(~there, -torch.inf)):
        out.append(e.argmax(-1, keepdim=True) / n)
    return out


def _stretch(x):
    """longest run of True"""
    if not x.shape[-1]:
        return x.new_zeros(*x.shape[:-1], 1, dtype=torch.float)
    c = x.cumsum(-1)
    start = c.masked_fill(x, 0).cummax(-1).values
    return (c - start).max(-1, keepdim=True).values


def _rhythm(z, there, longest):
    n = there.sum(-1, keepdim=True).clamp(min=1)
    count = max(1, longest // 2)
    f = torch.arange(1, count + 1, dtype=z.dtype, device=z.device) / max(longest, 2)
    angle = 2 * math.pi * f * torch.arange(z.shape[-1], dtype=z.dtype, device=z.device).unsqueeze(1)
    power = (z @ angle.cos()).square() + (z @ angle.sin()).square()
    share = power / power.sum(-1, keepdim=True).clamp(min=1e-6)
    edges = 0.5 * 2.0 ** torch.arange(-BANDS + 1, 1, dtype=z.dtype)
    band = torch.bucketize(f, edges - 1e-6)
    out = torch.zeros(*z.shape[:-1], BANDS + 1).index_add(-1, band, share)[..., :BANDS]
    centroid = (share * f).sum(-1, keepdim=True)
    entropy = -(share * share.clamp(min=1e-9).log()).sum(-1, keepdim=True)
    peak = f[share.argmax(-1, keepdim=True)]
    return [out, centroid, entropy, peak]
