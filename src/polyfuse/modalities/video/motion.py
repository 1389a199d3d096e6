"""What moves in a clip: in which direction, where and when; where the moving thing is, and what it looks like cut out."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.descriptors import BINS, PLACES, directed, gradients, slopes

_PARTS = 3  # of time, for the directions
_SQUARES = 4  # along a side, for the directions
_STEPS = 4  # parts of time, for the way
_CUT, _SHRUNK = 24, 8  # side of what is cut out, in pixels, and of its small picture
_REACH = 2.2  # half a side of what is cut out, in deviations of where the change is
_STILL = 1e-5  # of every pixel's change squared, so that where nothing moves the whole picture is cut out
_FAINT = 0.01  # of a slope squared: weaker ones give no sure direction
MOTION = BINS * _SQUARES**2 * _PARTS + 3 * _STEPS + BINS * PLACES**2 + _SHRUNK**2  # numbers


def motion(frames: Tensor, mask: Tensor) -> Tensor:
    """Directions of motion by place and time, the way of what moves, and its picture.

    Source: ours. The directions are those of the normal flow of Horn and Schunck 1981, "Determining Optical Flow", eq. 1, as
    histograms like those of Dalal, Triggs, Schmid 2006, "Human Detection Using Oriented Histograms of Flow and Appearance".

    Shapes:
        frames [P, T, S, S] in [0, 1], mask [P, T], real frames first -> [P, 924]; of a still picture all but the way is 0
    """
    frames, mask = F.pad(frames, (0, 0, 0, 0, 0, 1)), F.pad(mask, (0, 1))  # nothing follows a still picture
    return torch.cat([_directions(frames, mask), *_moving(frames, mask)], 1)


def _directions(frames: Tensor, mask: Tensor) -> Tensor:
    """[P, 8 directions * 16 squares * 3 parts of time]."""
    small = F.avg_pool2d(frames, 2)
    change, middle = small.diff(dim=1), (small[:, 1:] + small[:, :-1]) / 2
    right, down = slopes(middle)
    moved = -change * (right.square() + down.square() + _FAINT).rsqrt()  # against the slope, where it grows brighter
    arrows = directed((moved * right).flatten(0, 1).unsqueeze(1), (moved * down).flatten(0, 1).unsqueeze(1))
    strength = F.adaptive_avg_pool2d(arrows, _SQUARES).flatten(1).unflatten(0, change.shape[:2])
    found = _by_time(strength, mask[:, 1:], _PARTS).flatten(1)
    return (found + 1e-4).sqrt() - 0.01


def _moving(frames: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Where and how large what moves is [P, 3 * 4 parts of time]; cut out and averaged: its edges [P, 392] and picture [P, 64]."""
    count = mask.sum(1).clamp(min=1).view(-1, 1, 1)
    change = (frames - (frames.sum(1) / count).unsqueeze(1)).masked_fill(~mask[..., None, None], 0.0)
    weight = change.square() + _STILL
    weight = weight / weight.sum((2, 3), keepdim=True)
    along = (torch.arange(frames.shape[-1], device=frames.device) + 0.5) / frames.shape[-1] * 2 - 1
    across, downwards = weight.sum(2), weight.sum(3)  # [P, T, S]
    x, y = across @ along, downwards @ along
    spread = (across * (along - x.unsqueeze(2)).square() + downwards * (along - y.unsqueeze(2)).square()).sum(2) / 2
    half = _REACH * spread.sqrt()
    yield _by_time(torch.stack([x, y, half], 2), mask, _STEPS).flatten(1)
    zero = torch.zeros_like(half)
    window = torch.stack([half, zero, x, zero, half, y], 2).view(-1, 2, 3)
    grid = F.affine_grid(window, [len(window), 1, _CUT, _CUT], align_corners=False)
    cut = F.grid_sample(change.flatten(0, 1).unsqueeze(1), grid, align_corners=False).view(*mask.shape, _CUT, _CUT)
    cut = cut.sum(1, keepdim=True) / count.unsqueeze(1)
    yield gradients(cut)
    yield F.adaptive_avg_pool2d(cut, _SHRUNK).flatten(1)


def _by_time(found: Tensor, mask: Tensor, parts: int) -> Tensor:
    """Means over parts of the time that a row has: [P, T, F], mask [P, T], real ones first -> [P, parts, F]; zeros of an empty part."""
    count, step = mask.sum(1, keepdim=True), torch.arange(mask.shape[1], device=mask.device)
    part = (step * parts // count.clamp(min=1)).clamp(max=parts - 1)
    member = F.one_hot(part, parts).masked_fill(~mask.unsqueeze(2), 0).to(found.dtype)  # [P, T, parts]
    return member.transpose(1, 2) @ found / member.sum(1).clamp(min=1).unsqueeze(2)
