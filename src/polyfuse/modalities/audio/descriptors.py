"""From a sound to one vector without training: a coarse picture, statistics, modulation, and a dictionary of whitened patches."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, encoders
from ...core.sample import evenly
from .codec import FLOOR, AudioCodec

_CHUNK = 32  # cells at a time: what they need stays in the processor's cache
_SAMPLE = 400  # cells that are fitted on: this many, and fewer than twice as many
_PATCHES = 20_000  # of them, from which the dictionary is made
_POWER = 0.5  # loudness = energy ** this: the logarithm would give the noise between the sounds as much weight as these
_HIGHEST = 60.0  # natural log of an energy, so that no sum overflows
_RHYTHMS_HZ = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # of speech most lies at 2 to 16
_QUANTILES = (0.1, 0.5, 0.9)
_CEPSTRA = 20
_SHRINK = 10.0  # added to the spectrum of the patches when they are whitened, in its means: faint directions are mostly noise
_QUIET = 0.25  # answers of the dictionary up to here count as none
_CLIP = 10.0  # deviations
_FLAT = 1e-4  # less than this is no difference: rounding must not decide


@encoders("audio-descriptors")
class AudioDescriptors(Encoder):
    """What a sound is like in some 1,500 numbers that no label trains: when, how loud, in which bands, and how fast it changes.

    Four descriptions side by side: a coarse picture of the sound, time by mel bands, from beginning to end; statistics over time
    of bands, of their changes and of cepstra; the spectrum of each band's and each cepstrum's own rise and fall, which stays the
    same when the sound begins later; and how much each of some dozen learned patches occurs in the beginning, middle and end.
    A short word is told by the picture and the patches, a scene or a machine by the statistics and the modulation. With some thousand
    sounds `audio-cnn` may be better, and for speech a pretrained network (encoder="hub:NAME") is.
    The picture, the modulation and the patches are of energies to the power 0.5, relative to the sound's own mean: in noise they
    say more than logarithms, and they are the same however loud the sound is. Its loudness is a number of its own.

    Source: Coates and Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization" (whitened random
    patches as the dictionary; the answer is what exceeds a threshold, of either sign), with patches as high as the spectrogram,
    whitened only mildly; Davis and Mermelstein 1980, "Comparison of Parametric Representations for Monosyllabic Word Recognition in
    Continuously Spoken Sentences" (cepstra); Greenberg and Kingsbury 1997, "The Modulation Spectrogram: In Pursuit of an Invariant
    Representation of Speech", for the kind of the modulation, here by Fourier sums over pieces of one second. Ours: the choice of all.

    Args:
        segments: pieces of time of the picture.
        patches: of the dictionary.
        patch_ms: their length.
        parts: of time over which a patch's answers are averaged.
    Shapes:
        mel [P, T, M] or wave [P, T] -> tokens [P, 1, D]; stored [P, 1, F],
        F = 3 + (segments + 14) * M + 11 * min(20, M) + 2 * patches * parts
    Cost:
        F * D parameters; linear in T; about half a millisecond for a sound of one second, a second to fit.
    """

    modality = "audio"
    frozen = True
    atoms: Tensor  # [patches, M, steps]: whitening and patch in one, a convolution over time
    offset: Tensor  # [patches]
    centre: Tensor  # [F]
    scale: Tensor  # [F]
    cosines: Tensor  # [M, cepstra]
    waves: Tensor  # [2 * rhythms, second]
    window: Tensor
    bank: Tensor
    mean: Tensor  # [M], with std what the codec took off the levels
    std: Tensor

    def __init__(self, codec: AudioCodec, width: int, *, segments: int = 10, patches: int = 64, patch_ms: float = 80.0, parts: int = 3):
        super().__init__(codec, width)
        self.codec, self.segments, self.parts = codec, segments, parts
        bands, self.second = codec.mels, max(1, round(codec.rate_hz / codec.hop))
        cepstra, steps = min(_CEPSTRA, bands), max(1, round(patch_ms / 1000 * codec.rate_hz / codec.hop))
        size = 3 + (segments + 3 + len(_QUANTILES) + len(_RHYTHMS_HZ)) * bands + (3 + len(_RHYTHMS_HZ)) * cepstra + 2 * patches * parts
        self.register_buffer("atoms", torch.zeros(patches, bands, steps))
        self.register_buffer("offset", torch.zeros(patches))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("cosines", _cosines(bands, cepstra), persistent=False)
        self.register_buffer("waves", _waves(self.second), persistent=False)
        self.register_buffer("window", torch.hann_window(codec.window, periodic=False), persistent=False)
        self.register_buffer("bank", torch.from_numpy(codec.bank), persistent=False)
        self.register_buffer("mean", torch.tensor(codec.mean), persistent=False)
        self.register_buffer("std", torch.tensor(codec.std), persistent=False)
        self.out = nn.Linear(size, width)

    @torch.no_grad()
    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        cells = evenly(self._cells(stream), _SAMPLE)
        if not cells:
            return
        chunks = [_padded(cells[at : at + _CHUNK]) for at in range(0, len(cells), _CHUNK)]
        self._fit_atoms(chunks, -(-_PATCHES // len(cells)))
        found = torch.cat([self._described(level, mask) for level, mask in chunks])
        self.centre.copy_(found.mean(0))
        spread = found.std(0, correction=0)
        self.scale.copy_(torch.where(spread > _FLAT, spread, 1.0))  # 1: the same in every cell

    def _fit_atoms(self, chunks: list[tuple[Tensor, Tensor]], each: int) -> None:
        """`each` random patches of every cell are whitened; some of them become the dictionary."""
        draws, drawn = torch.Generator().manual_seed(0), []
        for level, mask in chunks:
            places = (torch.rand(len(mask), each, generator=draws).to(mask.device) * mask.sum(1, keepdim=True)).long()
            drawn.append(self._windows(_loudness(level, mask)[0], mask)[torch.arange(len(mask)).unsqueeze(1), places].flatten(0, 1))
        patches = torch.cat(drawn).cpu()  # [R, M, steps]
        mean, spread = patches.mean(0), patches.std((0, 2), correction=0).clamp(min=_FLAT).unsqueeze(1)
        x = ((patches - mean) / spread).flatten(1)
        strength, directions = torch.linalg.eigh((x.T @ x / len(x)).double())
        whiten = (directions * (strength + _SHRINK * strength.mean() + _FLAT).rsqrt()) @ directions.T
        chosen = x[torch.randperm(len(x), generator=draws)[: len(self.atoms)]].double() @ whiten
        atoms = (F.normalize(chosen) @ whiten).float().view_as(self.atoms) / spread
        self.atoms.copy_(atoms)
        self.offset.copy_((atoms * mean).sum((1, 2)))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        parts = [self.centre.new_zeros(0, len(self.centre))]
        for at in range(0, len(x["mask"]), _CHUNK):
            parts.append(self._described(*self._levels({name: value[at : at + _CHUNK] for name, value in x.items()})))
        found = ((torch.cat(parts) - self.centre) / self.scale).clamp(-_CLIP, _CLIP)
        some = x["mask"].any(1, keepdim=True)
        return Encoded((found * some).unsqueeze(1), some)

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)

    def _cells(self, stream: Iterable[dict[str, Tensor]]) -> Iterator[Tensor]:
        """One by one, as levels [T, M]."""
        for x in stream:
            for at in range(len(x["mask"])):
                level, mask = self._levels({name: value[at : at + 1] for name, value in x.items()})
                yield level[mask]

    def _levels(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Collated cells as natural logarithms of energies [P, T, M], zero under the mask, and mask [P, T]."""
        mask = x["mask"]
        if "mel" in x:
            level = x["mel"].float() * self.std + self.mean
        else:
            wave, length = x["wave"].float().masked_fill(~mask, 0.0), mask.sum(1, keepdim=True)
            window, hop = self.codec.window, self.codec.hop
            frames = F.pad(wave, (0, max(0, window - wave.shape[1]))).unfold(1, window, hop)
            level = (torch.fft.rfft(frames * self.window).abs().square() @ self.bank + FLOOR).log()
            windows = 1 + (length - window).clamp(min=0) // hop
            mask = (torch.arange(frames.shape[1], device=mask.device) < windows) & (length > 0)
        return level.clamp(max=_HIGHEST).masked_fill(~mask.unsqueeze(-1), 0.0), mask

    def _described(self, level: Tensor, mask: Tensor) -> Tensor:
        """level [P, T, M], mask [P, T] -> [P, F], not yet scaled."""
        loud, mean = _loudness(level, mask)
        seconds = mask.sum(1, keepdim=True).clamp(min=1) / self.second
        cepstra = (level - mean.unsqueeze(-1)) @ self.cosines
        parts = [seconds, seconds.log(), mean, (_shares(mask, self.segments) @ loud).flatten(1)]
        parts += [*_statistics(level - mean.unsqueeze(-1), mask, _QUANTILES), *_statistics(cepstra, mask)]
        parts += [*self._modulation(loud, mask), self._occurrences(loud, mask)]
        return torch.cat(parts, 1)

    def _modulation(self, loud: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """How strongly each band, and each cepstrum, rises and falls at each rhythm: [P, R * M] and [P, R * cepstra]."""
        real, count = mask.unsqueeze(-1), mask.sum(1).clamp(min=1).view(-1, 1, 1)
        centred = (loud - loud.sum(1, keepdim=True) / count).masked_fill(~real, 0.0)
        pieces = F.pad(centred, (0, 0, 0, -mask.shape[1] % self.second)).unflatten(1, (-1, self.second))
        turning = self.waves @ pieces  # [P, pieces, 2 R, M]: cosines, then sines
        for x in (turning, turning @ self.cosines):
            strength = x.unflatten(2, (2, -1)).square().sum(2).sqrt()
            yield (strength.sum(1) / count).flatten(1)

    def _occurrences(self, loud: Tensor, mask: Tensor) -> Tensor:
        """How much each patch, and its opposite, occurs in each part of the sound: [P, parts * 2 * patches]."""
        answers = F.conv1d(self._extended(loud, mask).transpose(1, 2), self.atoms, -self.offset)
        both = torch.cat([answers - _QUIET, -answers - _QUIET], 1).relu()
        return (_shares(mask, self.parts) @ both.transpose(1, 2)).flatten(1)

    def _windows(self, loud: Tensor, mask: Tensor) -> Tensor:
        """[P, T, M] -> [P, T, M, steps], the patch around each moment."""
        return self._extended(loud, mask).unfold(1, self.atoms.shape[2], 1)

    def _extended(self, loud: Tensor, mask: Tensor) -> Tensor:
        """[P, T, M] -> [P, T + steps - 1, M]: the first and the last real moment go on, so that patches reach over the ends."""
        reach = self.atoms.shape[2] - 1
        steps = torch.arange(-(reach // 2), mask.shape[1] + reach - reach // 2, device=mask.device).clamp(min=0)
        at = torch.minimum(steps, (mask.sum(1, keepdim=True) - 1).clamp(min=0))
        return loud.gather(1, at.unsqueeze(-1).expand(-1, -1, loud.shape[2]))


def _padded(cells: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Levels [T, M] of own lengths as [P, T, M] and mask [P, T]."""
    lengths = torch.tensor([len(cell) for cell in cells], device=cells[0].device)
    level = nn.utils.rnn.pad_sequence(cells, batch_first=True)
    return level, torch.arange(level.shape[1], device=level.device) < lengths.unsqueeze(1)


def _loudness(level: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Energies to a power, relative to the sound's mean energy: [P, T, M], zero under the mask; and the log of that mean [P, 1]."""
    real = mask.unsqueeze(-1)
    total = level.masked_fill(~real, -torch.inf).flatten(1).logsumexp(1, keepdim=True)
    mean = total.clamp(min=-_HIGHEST) - (mask.sum(1, keepdim=True) * level.shape[2]).clamp(min=1).log()
    return ((level - mean.unsqueeze(-1)) * _POWER).exp().masked_fill(~real, 0.0), mean


def _shares(mask: Tensor, parts: int) -> Tensor:
    """[P, T] -> [P, parts, T]: how much of each equal part of the real steps each step is; a part's shares sum to one.

    Example:
        >>> _shares(torch.tensor([[True, True, True, False]]), 2)
        tensor([[[0.6667, 0.3333, 0.0000, 0.0000],
                 [0.0000, 0.3333, 0.6667, 0.0000]]])
    """
    length = mask.sum(1).clamp(min=1).view(-1, 1, 1) / parts
    begin = torch.arange(parts, device=mask.device).view(1, -1, 1) * length
    step = torch.arange(mask.shape[1], device=mask.device)
    return (torch.minimum(begin + length, step + 1) - torch.maximum(begin, step)).clamp(min=0) / length * mask.unsqueeze(1)


def _statistics(x: Tensor, mask: Tensor, quantiles: tuple[float, ...] = ()) -> Iterator[Tensor]:
    """Mean, spread, mean change from step to step and quantiles over the real steps: each [P, M]."""
    real, count = mask.unsqueeze(-1), mask.sum(1, keepdim=True)
    some = count.clamp(min=1)
    mean = x.masked_fill(~real, 0.0).sum(1) / some
    yield mean
    yield ((x - mean.unsqueeze(1)).masked_fill(~real, 0.0).square().sum(1) / some).sqrt()
    yield x.diff(dim=1).abs().masked_fill(~real[:, 1:], 0.0).sum(1) / (count - 1).clamp(min=1)
    if quantiles:
        ordered = x.masked_fill(~real, torch.inf).sort(1).values
        for quantile in quantiles:
            place = (quantile * (some - 1)).round().long().unsqueeze(-1).expand(-1, 1, x.shape[2])
            yield ordered.gather(1, place)[:, 0].masked_fill(count == 0, 0.0)


def _cosines(bands: int, count: int) -> Tensor:
    """[bands, count]: the cosine transform that makes cepstra of bands."""
    return ((torch.arange(bands).unsqueeze(1) + 0.5) * torch.arange(count) * (math.pi / bands)).cos() / bands


def _waves(second: int) -> Tensor:
    """[2 R, second]: cosines, then sines, of each rhythm, sampled `second` times a second."""
    angle = 2 * math.pi * torch.tensor(_RHYTHMS_HZ).unsqueeze(1) * torch.arange(second) / second
    return torch.cat([angle.cos(), angle.sin()])
