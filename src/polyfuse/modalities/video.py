"""Clips: frames sampled over time, each decoded once to one size."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Codec, Draws, Encoded, Encoder, Value, codecs, encoders
from ..core.layers import Recurrent, Transformer, positions
from ..core.vision import MOST_PIXELS, PlainConvs, nearest_size, open_picture, picture_of, pixels_of, warp

SUFFIXES = (".gif", ".mp4", ".webm", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg")
_CONTAINERS = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
_SAMPLE = 50
_MOST_FRAMES = 20_000  # of a clip that tells no length; more are refused


@codecs("video")
class VideoCodec(Codec):
    """A clip as frames that are evenly spaced over its time.

    GIF and animated WebP and PNG are read as they are; mp4, webm, avi, mov and mkv through PyAV (pip install polyfuse[video]).
    A still picture is a clip of one frame. The sound track is a column of its own.
    Source: ours.

    Args:
        frames: frames kept; 0 = the median number of frames of a sample, at most 16.
        size: side in pixels; 0 = the usual size nearest below the median side, at most 64.
        channels: 1 or 3; 0 = 1 where a sample shows grey only.
        augment: strength of the random shift, scale, rotation, brightness and contrast of a whole clip while training.
        flip: mirror at random too.
    Shapes:
        cell -> "pixels" uint8 [T, C, size, size]
    Raises:
        DataError: no clip, a broken one, one without frames, or with more than 100 million pixels in a frame.
    """

    encoder = "video-gru"
    media = True
    ragged = True

    def __init__(self, column: str, *, frames: int = 0, size: int = 0, channels: int = 0, augment: float = 1.0, flip: bool = False):
        super().__init__(column)
        self.given_frames, self.given_size, self.given_channels, self.strength, self.flip = frames, size, channels, augment, flip
        self.frames, self.size, self.channels = frames or 8, size or 32, channels or 3
        self.mean, self.std = 127.5, 64.0

    @classmethod
    def examples(cls) -> list[Any]:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (t, 18, 20, 3), np.uint8) for t in (5, 1, 9)] + [rng.integers(0, 256, (4, 16, 16), np.uint8)]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        return sum(map(_looks_like, sample)) / len(sample) * 0.95 if sample else 0.0

    def read(self, raw: Any) -> list[Any] | None:
        """-> the kept frames as Pillow images."""
        if raw is None:
            return None
        if isinstance(raw, bytes):
            if not raw:
                raise self.error("the file is empty (zero bytes)", expected="a clip")
            contained = raw[4:8] == b"ftyp" or raw.startswith(_CONTAINERS) or (raw[:4] == b"RIFF" and raw[8:12] == b"AVI ")
            return self._contained(raw) if contained else self._animated(raw)
        if isinstance(raw, np.ndarray) and raw.ndim in (3, 4) and len(raw):
            return [picture_of(raw[i], self.error) for i in _spaced(len(raw), self._wanted)]
        if isinstance(raw, list | tuple) and raw:
            return [
                picture_of(np.asarray(raw[i]), self.error) if not isinstance(raw[i], bytes) else open_picture(raw[i], self.error)
                for i in _spaced(len(raw), self._wanted)
            ]
        raise self.error(f"holds a {type(raw).__name__}", expected="a path, bytes or an array [time, height, width] of a clip")

    @property
    def _wanted(self) -> int:
        return self.frames if self.frames else 16

    def _animated(self, data: bytes) -> list[Any]:
        from PIL import Image

        picture = open_picture(data, self.error)
        try:
            count = int(getattr(picture, "n_frames", 1))
            if count * picture.width * picture.height > 10 * MOST_PIXELS:
                raise self.error(f"has {count} frames of {picture.width} x {picture.height} pixels", expected="a smaller clip")
            frames = []
            for at in _spaced(count, self._wanted):
                picture.seek(at)
                frames.append(picture.convert("RGBA" if "transparency" in picture.info else "L" if picture.mode == "L" else "RGB"))
            return frames
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
            if isinstance(error, type(self.error(""))):
                raise
            raise self.error(f"the clip cannot be decoded ({error})", expected="a whole clip") from None

    def _contained(self, data: bytes) -> list[Any]:
        try:
            import av
        except ImportError:
            raise self.error("is a clip that needs PyAV", fix="pip install polyfuse[video]") from None
        try:
            with av.open(BytesIO(data), "r") as container:
                if not container.streams.video:
                    raise self.error("has no frames, only sound", expected="a clip", fix="declare modality='audio'")
                stream = container.streams.video[0]
                if stream.width * stream.height > MOST_PIXELS:
                    raise self.error(f"has frames of {stream.width} x {stream.height} pixels", expected=f"at most {MOST_PIXELS:,} pixels")
                count = stream.frames or sum(1 for _ in zip(container.decode(video=0), range(_MOST_FRAMES)))
                container.seek(0)
                wanted = set(_spaced(count, self._wanted))
                frames = [f.to_image() for i, f in enumerate(container.decode(video=0)) if i in wanted]
        except av.error.FFmpegError as error:
            raise self.error(f"the clip cannot be decoded ({error})", expected="a whole clip") from None
        if not frames:
            raise self.error("has no frames", expected="a clip with at least one")
        return frames

    def fit(self, values: Iterator[list[Any]]) -> None:
        counts, sides, pictures = [], [], []
        self.frames = self.given_frames
        for at, value in enumerate(values):
            counts.append(len(value))
            sides.append(min(value[0].size))
            pictures.append(value[0])
            if at + 1 == _SAMPLE:
                break
        self.frames = self.given_frames or (sorted(counts)[len(counts) // 2] if counts else 8)
        self.size = self.given_size or nearest_size(sides, 64)
        shown = [pixels_of(p, self.size, 3, self.error) for p in pictures]
        grey = bool(shown) and all((p[0] == p[1]).all() and (p[1] == p[2]).all() for p in shown)
        self.channels = self.given_channels or (1 if grey else 3)
        if shown:
            self.mean, self.std = float(np.mean(shown)), float(np.std(shown)) or 1.0

    def clean(self, value: list[Any]) -> Value:
        kept = [value[i] for i in _spaced(len(value), self.frames)]
        return {"pixels": np.stack([pixels_of(f, self.size, self.channels, self.error) for f in kept])}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return {**x, "pixels": warp(x["pixels"], draws, self.strength, self.flip)}

    def filler(self) -> Value:
        return {"pixels": np.full((1, self.channels, self.size, self.size), round(self.mean), np.uint8)}

    def state(self) -> dict[str, Any]:
        return {"frames": self.frames, "size": self.size, "channels": self.channels, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        for name in ("frames", "size", "channels", "mean", "std"):
            setattr(self, name, state[name])


class _VideoEncoder(Encoder):
    """A convolutional network on every real frame: one vector a frame."""

    modality = "video"

    def __init__(self, codec: VideoCodec, width: int, first: int):
        super().__init__(codec, width)
        self.mean, self.std = codec.mean, codec.std
        self.stages = PlainConvs(codec.channels, codec.size, width, first)
        side = self.stages.side(codec.size)
        self.enter = nn.Linear(width * side * side, width)

    def frames(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-> [P, T, D], zero where there is no frame, and mask [P, T]."""
        mask = x["mask"]
        real = x["pixels"][mask].float().sub(self.mean).div(self.std)
        h = self.enter(self.stages(real)[-1].flatten(1))
        return h.new_zeros(*mask.shape, h.shape[-1]).masked_scatter(mask.unsqueeze(-1), h), mask


@encoders("video-gru")
class VideoGru(_VideoEncoder):
    """A convolutional network per frame, a recurrent one over the frames.

    The first to try from scratch; it sees motion and order. `video-pool` where order means nothing.
    Source: Donahue et al. 2015, "Long-term Recurrent Convolutional Networks for Visual Recognition and Description".

    Args:
        first: fewest channels of a stage of the frame network.
        depth, dropout: of the recurrent layers.
    Shapes:
        pixels [P, T, C, S, S] -> tokens [P, T, D]
    Cost:
        about 30 * D^2 parameters; the frame network runs T times.
    """

    def __init__(self, codec: VideoCodec, width: int, *, first: int = 16, depth: int = 1, dropout: float = 0.1):
        super().__init__(codec, width, first)
        self.recurrent = Recurrent(width, width, depth, "gru", dropout)
        self.norm = nn.LayerNorm(width)
        self.most_tokens = codec.frames

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.frames(x)
        return Encoded(self.norm(h + self.recurrent(h, mask)).masked_fill(~mask.unsqueeze(-1), 0.0), mask, (h,))


@encoders("video-transformer")
class VideoTransformer(_VideoEncoder):
    """A convolutional network per frame, a transformer over the frames.

    With many clips. Source: Neimark et al. 2021, "Video Transformer Network", section 3.

    Args:
        first: fewest channels of a stage of the frame network.
        depth, heads, dropout: of the transformer.
    Shapes:
        pixels [P, T, C, S, S] -> tokens [P, T, D]
    Cost:
        (27 + 12 * depth) * D^2 parameters; the frame network runs T times.
    """

    def __init__(self, codec: VideoCodec, width: int, *, first: int = 16, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(codec, width, first)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.most_tokens = codec.frames

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.frames(x)
        return Encoded(self.transformer(h + positions(h.shape[1], self.width, h.device), mask), mask, (h,))


@encoders("video-pool")
class VideoPool(_VideoEncoder):
    """A convolutional network per frame, and their mean: one token, blind to order.

    Where the scene tells and the motion does not; the cheapest. Source: Karpathy et al. 2014, "Large-scale Video
    Classification with Convolutional Neural Networks" (late fusion over time).

    Args:
        first: fewest channels of a stage of the frame network.
        dropout: on the token.
    Shapes:
        pixels [P, T, C, S, S] -> tokens [P, 1, D]
    Cost:
        about 27 * D^2 parameters; the frame network runs T times.
    """

    def __init__(self, codec: VideoCodec, width: int, *, first: int = 16, dropout: float = 0.1):
        super().__init__(codec, width, first)
        self.dropout = dropout

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.frames(x)
        mean = h.sum(1, keepdim=True) / mask.sum(1).clamp(min=1).view(-1, 1, 1)
        return Encoded(F.dropout(mean, self.dropout, self.training), mask.any(1, keepdim=True), (h,))


def _spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` frame numbers, evenly spaced over all."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long().tolist() if count else []


def _looks_like(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower().endswith(SUFFIXES)
    if isinstance(cell, bytes):
        return cell.startswith((*_CONTAINERS, b"GIF8")) or cell[4:8] == b"ftyp" or (cell[:4] == b"RIFF" and cell[8:12] == b"AVI ")
    if isinstance(cell, dict):
        return _looks_like(cell.get("bytes") or cell.get("path") or "")
    return isinstance(cell, np.ndarray) and cell.dtype == np.uint8 and cell.ndim == 4
