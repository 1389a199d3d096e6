"""What pictures are like in numbers that no label trains: their small patches, the gradients in them, their colours by place."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BINS, PLACES = 8, 7  # of gradients: directions, and squares along a side
_SMALLEST, _LARGEST = 16, 64  # side of what is described; other pictures are brought to it
_CHUNK = 16  # pictures at a time: what they need stays in the processor's cache
_PATCH = 4  # pixels along a side
_EACH = 24  # patches of a picture that the words are learned from
_ROUNDS = 12  # of expectation and maximisation
_FAINT = 1e-3  # of the strongest direction's variance, added to all when patches are whitened: faint directions are mostly noise
_REACH = 1.5  # the place of a patch goes from -this to this, beside directions of deviation 1
_LEAST = 0.05  # variance of a word
_SQUARES = 4  # of colours by place, along a side
_CLIP = 10.0  # deviations
_FLAT = 1e-3  # less than this is no difference: rounding must not decide


class Standardised(nn.Module):
    """Numbers less their mean, in deviations, clipped at 10; one that is the same everywhere is only centred: [P, F] -> [P, F]."""

    centre: Tensor
    scale: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, found: Tensor) -> None:
        """Args:
        found: [n, F] of some training cells, n >= 1.
        """
        spread = found.std(0, correction=0)
        self.centre.copy_(found.mean(0))
        self.scale.copy_(torch.where(spread > _FLAT, spread, 1.0))

    def forward(self, found: Tensor) -> Tensor:
        return ((found - self.centre) / self.scale).clamp(-_CLIP, _CLIP)


class PatchWords(nn.Module):
    """Which small patches a picture is made of, where, and in which way these differ from the patches of all pictures.

    Patches of 4 x 4 pixels are whitened, their place is added, and a mixture of normal distributions, the words, is learned of
    them. A picture is described by how its patches pull the mean and the variance of every word (a Fisher vector).
    Before `fit` the words are random ones, which describe too.

    Source: Perronnin, Sánchez, Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image Classification", sections 2 and
    3.2, without the norm of 3.1, as the numbers are standardised later; Sánchez, Perronnin, de Campos 2012, "Modeling the
    Spatial Layout of Images Beyond Spatial Pyramids" (the place as part of the descriptor). Raw whitened patches in the place of
    SIFT are ours: they hold the colours.

    Args:
        channels: of a picture.
        step: pixels from a patch to the next.
        words: K, how many.
        directions: principal directions of a patch that are kept, at most; a patch has 16 * channels.
    Shapes:
        `moments`: pictures [Q, C, S, S] -> [Q, M], which may be averaged over several pictures; `forward`: [P, M] -> [P, size],
        M = K * (2 E + 1) and size = 2 K E, E = directions + 2
    Cost:
        (S / step)^2 * E * (16 C + 4 K) multiplications a picture.
    """

    filters: Tensor  # [directions, C, 4, 4]: mean and whitening in one convolution
    offset: Tensor
    centre: Tensor  # [K, E], with `deviation` and `share` the words
    deviation: Tensor
    share: Tensor  # [K]

    def __init__(self, channels: int, *, step: int, words: int, directions: int):
        super().__init__()
        self.step, values = step, channels * _PATCH**2
        directions = min(directions, values)
        draws = torch.Generator().manual_seed(0)
        spread = 4 / values**0.5  # of random filters: their answers to usual patches have deviations of about 1
        self.register_buffer("filters", torch.randn(directions, channels, _PATCH, _PATCH, generator=draws) * spread)
        self.register_buffer("offset", torch.zeros(directions))
        self.register_buffer("centre", torch.randn(words, directions + 2, generator=draws))
        self.register_buffer("deviation", torch.ones(words, directions + 2))
        self.register_buffer("share", torch.full((words,), 1 / words))
        self.length, self.size = self.centre.numel() * 2 + words, self.centre.numel() * 2

    def fit(self, pictures: Tensor) -> None:
        """Args:
        pictures: [n, C, S, S] of some training cells, n >= 1, as `brightness` gives them.
        """
        draws = torch.Generator().manual_seed(0)
        self._fit_filters(torch.cat([_some(F.unfold(x, _PATCH, stride=self.step), draws) for x in pictures.split(_CHUNK)]))
        values = torch.cat([_some(self._patches(x), draws) for x in pictures.split(_CHUNK)])
        chosen = torch.randperm(len(values), generator=draws)[: len(self.share)]
        self.centre.copy_(values[chosen[torch.arange(len(self.share)) % len(chosen)]])
        self.deviation.copy_(values.var(0, correction=0).clamp(min=_LEAST).sqrt().expand_as(self.deviation))
        self.share.fill_(1 / len(self.share))
        squares = torch.cat([values, values.square()], 1)
        for _ in range(_ROUNDS):
            belongs = self._belonging(squares.T).T  # [n, K]
            count = belongs.sum(0).clamp(min=_FAINT)
            first, second = (belongs.T @ squares / count.unsqueeze(1)).chunk(2, 1)
            self.centre.copy_(first)
            self.deviation.copy_((second - first.square()).clamp(min=_LEAST).sqrt())
            self.share.copy_(count / count.sum())

    def _fit_filters(self, patches: Tensor) -> None:
        """Principal directions of patches [n, C * 16], each divided by its deviation."""
        mean = patches.double().mean(0)
        centred = patches.double() - mean
        strength, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        most = len(self.filters)
        strength, directions = strength.flip(0)[:most], directions.flip(1)[:, :most]  # the strongest first
        filters = (directions / (strength + _FAINT * strength[0] + 1e-6).sqrt()).T
        self.filters.copy_(filters.view_as(self.filters))
        self.offset.copy_(-filters @ mean)

    def _patches(self, pictures: Tensor) -> Tensor:
        """[Q, C, S, S] -> whitened patches and their places [Q, E, L]."""
        white = F.conv2d(pictures, self.filters, self.offset, stride=self.step)
        along = torch.linspace(-_REACH, _REACH, white.shape[-1], device=white.device)
        places = torch.stack(torch.meshgrid(along, along, indexing="ij")).flatten(1)
        return torch.cat([white.flatten(2), places.expand(len(white), -1, -1)], 1)

    def _belonging(self, squares: Tensor) -> Tensor:
        """How probably each patch is of each word: patches and their squares [..., 2 E, L] -> [..., K, L]."""
        precision = self.deviation.square().reciprocal()
        weights = torch.cat([self.centre * precision, -0.5 * precision], 1)
        start = self.share.log() - 0.5 * (self.centre.square() * precision).sum(1) - self.deviation.log().sum(1)
        return (weights @ squares + start.unsqueeze(1)).softmax(-2)

    def moments(self, pictures: Tensor) -> Tensor:
        """[Q, C, S, S] -> [Q, M]: of each word how often it occurs, and what its patches and their squares sum to, a patch."""
        patches = self._patches(pictures)
        squares = torch.cat([patches, patches.square()], 1)
        belongs = self._belonging(squares) / patches.shape[2]
        return torch.cat([belongs.sum(2, keepdim=True), belongs @ squares.transpose(1, 2)], 2).flatten(1)

    def forward(self, moments: Tensor) -> Tensor:
        count, sums = moments.unflatten(1, (len(self.share), -1)).split([1, 2 * self.centre.shape[1]], 2)
        first, second = sums.chunk(2, 2)
        pull = (first - count * self.centre) / self.deviation
        widening = (second - 2 * self.centre * first + count * self.centre.square()) / self.deviation.square() - count
        scale = self.share.sqrt().unsqueeze(1)
        found = torch.cat([pull / scale, widening / (2**0.5 * scale)], 2).flatten(1)
        return found * (found.abs() + 0.01).rsqrt()  # the signed square root, but not steep at 0, where only rounding is


class PictureDescriptors(nn.Module):
    """The average over the pictures of a row: words of small patches at two sizes, gradients by place, colours by place.

    Source: `PatchWords`; `gradients` and `colours` say theirs.

    Args:
        channels, side: of the pictures.
        words, directions: of `PatchWords`.
    Shapes:
        pixels [P, K, C, S, S] uint8, mask [P, K] -> [P, size]; zeros but for the words where a row has no picture
    Cost:
        0.6 ms a picture of 64 x 64 pixels in colour; larger ones are described at that size.
    """

    def __init__(self, channels: int, side: int, *, words: int, directions: int):
        super().__init__()
        fine = 2 if side > 32 else 1  # small pictures have few patches: none of them is skipped
        self.fine = PatchWords(channels, step=fine, words=words, directions=directions)
        self.coarse = PatchWords(channels, step=1, words=words, directions=directions)
        self.lengths = [self.fine.length, self.coarse.length, BINS * PLACES**2 + 2 * channels * _SQUARES**2]
        self.size = self.fine.size + self.coarse.size + self.lengths[2]

    def fit(self, pictures: Tensor) -> None:
        """Args:
        pictures: [n, C, S, S] of some training cells, n >= 1, as `brightness` gives them.
        """
        self.fine.fit(pictures)
        self.coarse.fit(F.avg_pool2d(pictures, 2))

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        row, real = mask.nonzero()[:, 0], pixels[mask]
        total = self.fine.centre.new_zeros(len(mask), sum(self.lengths))
        for at in range(0, len(real), _CHUNK):
            total.index_add_(0, row[at : at + _CHUNK], torch.cat(list(self._described(real[at : at + _CHUNK])), 1))
        fine, coarse, rest = (total / mask.sum(1, keepdim=True).clamp(min=1)).split(self.lengths, 1)
        return torch.cat([self.fine(fine), self.coarse(coarse), rest], 1)

    def _described(self, pixels: Tensor) -> Iterator[Tensor]:
        pictures = brightness(pixels)
        yield self.fine.moments(pictures)
        yield self.coarse.moments(F.avg_pool2d(pictures, 2))
        yield gradients(pictures.mean(1, keepdim=True))
        yield colours(pictures)


def brightness(pixels: Tensor) -> Tensor:
    """Square roots of the pixels, which are even in how noisy they are and how they are seen, at a side of 16 to 64.

    Shapes:
        [Q, C, S, S] uint8, Q >= 1 -> [Q, C, side, side] in [0, 1]
    """
    side = min(max(pixels.shape[-1], _SMALLEST), _LARGEST)
    pictures = pixels.float() / 255
    if pixels.shape[-1] > side:
        pictures = F.interpolate(pictures, (side, side), mode="area")
    elif pixels.shape[-1] < side:
        pictures = F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False)
    return pictures.sqrt()


def slopes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """To the right and downwards, over two pixels: [..., S, S] -> twice [..., S, S]."""
    wide = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    return wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]


def directed(right: Tensor, down: Tensor) -> Tensor:
    """How much of an arrow points in each of 8 directions, clockwise from the right: twice [Q, 1, S, S] -> [Q, 8, S, S]."""
    angle = torch.arange(BINS, device=right.device).view(-1, 1, 1) * (2 * math.pi / BINS)
    return (right * angle.cos()).add_(down * angle.sin()).clamp_(min=0)


def gradients(pictures: Tensor) -> Tensor:
    """How strong the edges of each direction are in 7 x 7 squares, against those around: [Q, 1, S, S] -> [Q, 8 * 49] in [0, 1].

    Source: Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection", section 6; here every square has one
    norm, over itself and its neighbours, and the square root is taken.
    """
    strength = F.adaptive_avg_pool2d(directed(*slopes(pictures)), PLACES)
    around = F.avg_pool2d(strength.square().sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return ((strength * (around + 1e-3).rsqrt()).clamp(max=1) + 0.01).sqrt().sub(0.1).flatten(1)


def colours(pictures: Tensor) -> Tensor:
    """Mean and deviation of each channel in 4 x 4 squares: [Q, C, S, S] -> [Q, 2 * C * 16]. Source: ours."""
    mean = F.adaptive_avg_pool2d(pictures, _SQUARES)
    variance = F.adaptive_avg_pool2d(pictures.square(), _SQUARES) - mean.square()
    return torch.cat([mean, (variance.clamp(min=0) + 1e-3).sqrt()], 1).flatten(1)


def _some(patches: Tensor, draws: torch.Generator) -> Tensor:
    """Patches at some random places: [Q, E, L] -> [Q * places, E]."""
    places = torch.randperm(patches.shape[2], generator=draws)[:_EACH].to(patches.device)
    return patches[:, :, places].transpose(1, 2).flatten(0, 1)
