"""Sounds of any rate and depth to a log-mel spectrogram that is computed once, or to samples at one rate."""

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import Codec, Draws, RecipeError, Value, codecs

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".oga", ".aif", ".aiff", ".au")
FLOOR = 1e-6  # added to an energy before its logarithm is taken
_SAMPLE = 300
_LONGEST_S = 10.0  # kept of a sound where the user does not say
_LOUDEST = np.float64(1e9)  # a sample beyond it is no sound, and its square is no float

Sound = tuple[np.ndarray, int]


@codecs("audio")
class AudioCodec(Codec):
    """A sound as a log-mel spectrogram, or as its waveform for pretrained encoders.

    wav, flac, ogg, mp3 and opus of any rate; channels are averaged; a longer sound is cut at its end.
    Source: the mel scale of O'Shaughnessy 1987, "Speech Communication" (2595 log10(1 + f / 700)); SpecAugment of Park et al. 2019.

    Args:
        form: "logmel", or "wave" for a pretrained encoder.
        rate_hz: samples per second; 0 = the most common of a sample, at most 16000. Also the rate of plain arrays.
        longest_s: seconds kept; 0 = as long as 99 of 100 training sounds, at most 10.
        mels: bands of the spectrogram.
        window_ms, hop_ms: length and distance of its windows.
        augment: strength of time and frequency masks, shift, gain and noise while training; 0 = none.
    Shapes:
        cell -> "mel" float16 [T, mels], or "wave" float32 [T]
    Raises:
        DataError: no sound, a broken one, one without samples, or with NaN.
    """

    encoder = "audio-cnn"
    untrained = "audio-descriptors"
    media = True
    ragged = True

    def __init__(
        self,
        column: str,
        *,
        form: str = "logmel",
        rate_hz: int = 0,
        longest_s: float = 0.0,
        mels: int = 40,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        augment: float = 1.0,
    ):
        super().__init__(column)
        if form not in ("logmel", "wave"):
            raise RecipeError(f"column '{column}'", f"has form={form!r}", expected="'logmel' or 'wave'")
        self.form, self.given_rate_hz, self.given_longest_s = form, rate_hz, longest_s
        self.mels, self.window_ms, self.hop_ms, self.strength = mels, window_ms, hop_ms, augment
        self.rate_hz, self.longest_s = rate_hz or 16000, longest_s or _LONGEST_S
        self.mean, self.std = [0.0] * mels, [1.0] * mels
        self._bank: np.ndarray | None = None

    @classmethod
    def examples(cls) -> list[Any]:
        t = np.arange(4000) / 16000
        rng = np.random.default_rng(0)
        return [np.sin(2 * np.pi * f * t[:n]) + rng.normal(0, 0.01, n) for f, n in ((300, 4000), (900, 1600), (2000, 3000), (150, 100))]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        return sum(map(_looks_like, sample)) / len(sample) * 0.95 if sample else 0.0

    def read(self, raw: Any) -> Sound | None:
        """-> samples float32 [T] (mean of the channels) and their rate."""
        if raw is None:
            return None
        if isinstance(raw, bytes):
            return self._decoded(raw)
        rate = self.given_rate_hz or 16000
        if isinstance(raw, dict) and raw.get("array") is not None:
            raw, rate = raw["array"], raw.get("sampling_rate") or rate
        if not isinstance(raw, np.ndarray | list | tuple):
            raise self.error(f"holds a {type(raw).__name__}", expected="a path, bytes or samples of a sound")
        try:
            samples = np.asarray(raw)
        except ValueError:
            raise self.error("has channels of different lengths", expected="samples [T] or [T, channels]") from None
        if samples.dtype.kind not in "fiu" or samples.ndim not in (1, 2):
            raise self.error(f"is an array of {samples.dtype} with shape {samples.shape}", expected="samples [T] or [T, channels]")
        return self._checked(samples[: self._most(rate, samples[:1].size)], rate)

    def _decoded(self, data: bytes) -> Sound:
        import soundfile

        if not data:
            raise self.error("the file is empty (zero bytes)", expected="a sound")
        try:
            with soundfile.SoundFile(BytesIO(data)) as file:
                samples = file.read(frames=self._most(file.samplerate, file.channels), dtype="float32", always_2d=True)
                return self._checked(samples, file.samplerate)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = getattr(error, "error_string", error)  # its own message names our buffer's address
            raise self.error(
                f"the sound cannot be decoded ({reason})", expected="wav, flac, ogg, mp3 or opus", fix="copy it again, or empty the cell"
            ) from None

    def _most(self, rate_hz: Any, channels: int) -> int:
        """Samples of a sound that can matter; more are not decoded."""
        if not isinstance(rate_hz, int | float | np.integer | np.floating) or not 100 <= rate_hz <= 1_000_000 or channels > 64:
            raise self.error(
                f"has {rate_hz!r} samples a second in {channels} channels", expected="100 to 1,000,000 in at most 64, as [T, channels]"
            )
        return int((self.given_longest_s or _LONGEST_S) * rate_hz) + 1

    def _checked(self, samples: np.ndarray, rate_hz: int) -> Sound:
        if not samples.size:
            raise self.error("has no samples", expected="a sound of at least one sample")
        if samples.dtype.kind in "iu":
            samples = _scaled(samples)
        if not (np.abs(samples) <= _LOUDEST).all():  # false for NaN too
            raise self.error(
                "has NaN, infinite or enormous samples", expected="finite samples", fix="write the sound again, or empty the cell"
            )
        samples = samples.astype(np.float32, copy=False)
        return (samples.mean(1) if samples.ndim == 2 else samples), rate_hz

    def fit(self, values: Iterator[Sound]) -> None:
        rates, lengths = [], []
        kept: list[Sound] = []
        for at, (samples, rate) in enumerate(values):
            rates.append(rate)
            lengths.append(len(samples) / rate)
            if len(kept) < 100:
                kept.append((samples, rate))
            if at + 1 == _SAMPLE:
                break
        if not rates:
            return
        self.rate_hz = self.given_rate_hz or min(16000, max(set(rates), key=lambda r: (rates.count(r), r)))
        self.longest_s = self.given_longest_s or min(_LONGEST_S, max(float(np.quantile(lengths, 0.99)), 0.05))
        self._bank = None
        if self.form == "logmel":
            levels = np.concatenate([self.spectrogram(v) for v in kept])
            self.mean, self.std = levels.mean(0).tolist(), (levels.std(0) + 1e-3).tolist()

    def spectrogram(self, value: Sound) -> np.ndarray:
        """[T, mels] natural log of the mel energies, float32."""
        samples = self.resampled(value)
        window, hop = self.window, self.hop
        if len(samples) < window:
            samples = np.pad(samples, (0, window - len(samples)))
        frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
        power = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32), axis=1)) ** 2
        return np.log(power @ self.bank + FLOOR).astype(np.float32)

    def resampled(self, value: Sound) -> np.ndarray:
        import soxr

        samples, rate = value
        samples = samples[: math.ceil(self.longest_s * rate)]
        if rate != self.rate_hz:
            samples = soxr.resample(samples, rate, self.rate_hz)
        return np.asarray(samples if len(samples) else np.zeros(1), np.float32)

    def clean(self, value: Sound) -> Value:
        if self.form == "wave":
            return {"wave": self.resampled(value)}
        scaled = (self.spectrogram(value) - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return {"mel": np.clip(scaled, -20, 20).astype(np.float16)}

    @property
    def window(self) -> int:
        return max(16, round(self.rate_hz * self.window_ms / 1000))

    @property
    def hop(self) -> int:
        return max(1, round(self.rate_hz * self.hop_ms / 1000))

    @property
    def most_steps(self) -> int:
        """Windows of the longest sound."""
        return max(1, 1 + (math.ceil(self.longest_s * self.rate_hz) + 1 - self.window) // self.hop)

    @property
    def bank(self) -> np.ndarray:
        """[frequencies, mels] triangular filters, evenly spaced in mel between 20 Hz and half the rate."""
        if self._bank is None:
            high = 2595 * np.log10(1 + self.rate_hz / 2 / 700)
            low = 2595 * np.log10(1 + min(20.0, self.rate_hz / 8) / 700)
            edges = 700 * (10 ** (np.linspace(low, high, self.mels + 2) / 2595) - 1)
            frequencies = np.fft.rfftfreq(self.window, 1 / self.rate_hz)
            width = self.rate_hz / self.window  # a filter narrower than the resolution still catches its nearest line
            left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
            rise = (frequencies - left) / np.maximum(centre - left, width)
            fall = (right - frequencies) / np.maximum(right - centre, width)
            bank = np.clip(np.minimum(rise, fall), 0, None)
            nearest = np.abs(frequencies - centre).argmin(1)
            empty = bank.sum(1) == 0
            bank[empty, nearest[empty]] = 1.0
            self._bank = (bank / bank.sum(1, keepdims=True)).T.astype(np.float32)
        return self._bank

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Shift in time, gain, noise, two masks in time and two in frequency."""
        if self.form == "wave" or self.strength <= 0 or not len(x["mel"]):
            return x
        mel, s = x["mel"].float(), self.strength
        p, t, m = mel.shape
        u = draws.uniform(12)
        shift = ((u[:, 0] - 0.5) * 0.2 * s * t).round().long().view(-1, 1)
        steps = (torch.arange(t).unsqueeze(0) - shift).clamp(0, t - 1)
        mel = mel.gather(1, steps.unsqueeze(-1).expand(p, t, m))
        mel = mel + (u[:, 1].view(-1, 1, 1) - 0.5) * 0.6 * s + draws.normal(t, m) * 0.1 * s
        for k in range(2):
            mel = mel.masked_fill(_band(t, u[:, 2 + k], u[:, 4 + k] * 0.15 * s).unsqueeze(-1), 0.0)
            mel = mel.masked_fill(_band(m, u[:, 6 + k], u[:, 8 + k] * 0.2 * s).unsqueeze(1), 0.0)
        return {**x, "mel": mel.masked_fill(~x["mask"].unsqueeze(-1), 0.0).half()}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """White noise of `level` times the sound's own effective value: at level 1 it is as loud as the sound (0 dB).

        On a spectrogram it is added where it would be, to the energies before the logarithm: as much in every band, and in
        each cell as random as the band is narrow (a gamma variable by the approximation of Wilson and Hilferty 1931).
        """
        if not level:
            return x
        real = x["mask"].unsqueeze(-1)
        if self.form == "wave":
            wave, count = x["wave"].float(), x["mask"].sum(1, keepdim=True).clamp(min=1)
            loud = (wave.masked_fill(~x["mask"], 0.0).square().sum(1, keepdim=True) / count).sqrt()
            noisy = wave + level * loud * draws.normal(wave.shape[1]).to(wave.device)
            return {**x, "wave": torch.where(x["mask"], noisy, x["wave"])}
        mel = x["mel"].float()
        mean, std, bank = mel.new_tensor(self.mean), mel.new_tensor(self.std), torch.from_numpy(self.bank).to(mel.device)
        energy = (mel * std + mean).exp().sub(FLOOR).clamp(min=0.0)
        span = 1 / bank.amax(0)  # how many lines of the spectrum a band covers
        own = ((energy * span / span.sum()).sum(-1, keepdim=True) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        lines = 1 / bank.square().sum(0)
        drawn = draws.normal(*mel.shape[1:]).to(mel.device)
        gamma = (1 - 1 / (9 * lines) + drawn / (3 * lines.sqrt())).clamp(min=0.0) ** 3
        noisy = (((energy + level**2 * own * gamma + FLOOR).log() - mean) / std).clamp(-20, 20)
        return {**x, "mel": torch.where(real, noisy.to(x["mel"].dtype), x["mel"])}

    def filler(self) -> Value:
        if self.form == "wave":
            return {"wave": np.zeros(max(400, self.window), np.float32)}
        return {"mel": np.zeros((1, self.mels), np.float16)}

    def state(self) -> dict[str, Any]:
        return {"rate_hz": self.rate_hz, "longest_s": self.longest_s, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rate_hz, self.longest_s, self.mean, self.std = state["rate_hz"], state["longest_s"], state["mean"], state["std"]
        self._bank = None


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Whole numbers to -1 .. 1 by the range of their type; plain lists of them come as 64 bits, which no sound has."""
    if samples.dtype.itemsize == 8:
        samples = samples.astype(np.float64)
        return samples / (2.0**15 if np.abs(samples).max() <= 2**15 else 2.0**31)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32) / half - (samples.dtype.kind == "u")


def _band(length: int, start: Tensor, width: Tensor) -> Tensor:
    """[P, length] bool: a band of width * length that begins somewhere."""
    wide = (width * length).view(-1, 1)
    first = start.view(-1, 1) * (length - wide)
    steps = torch.arange(length).unsqueeze(0)
    return (steps >= first) & (steps < first + wide)


def _looks_like(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower().endswith(SUFFIXES)
    if isinstance(cell, bytes):
        return cell[:4] in (b"fLaC", b"OggS") or cell[:3] == b"ID3" or (cell[:4] == b"RIFF" and cell[8:12] == b"WAVE")
    if isinstance(cell, dict):
        return "sampling_rate" in cell or _looks_like(cell.get("bytes") or cell.get("path") or "")
    return False
