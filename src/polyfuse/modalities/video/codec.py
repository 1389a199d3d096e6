"""From the raw cell to frames of one size."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import Codec, DataError, Draws, Value, codecs
from ...core.vision import MOST_PIXELS, Jpeg, bytes_of, decoding, grain, nearest_size, open_picture, picture_of, pixels_of, warp

SUFFIXES = (".gif", ".mp4", ".webm", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg")
_CONTAINERS = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
_SAMPLE = 50
_LONG = 5_000  # frames; of a longer clip only the key frames are decoded


@codecs("video")
class VideoCodec(Codec):
    """A clip as frames that are evenly spaced over its time.

    GIF and animated WebP and PNG are read as they are; mp4, webm, avi, mov and mkv through PyAV (pip install polyfuse[video]).
    A still picture is a clip of one frame. The sound track is a column of its own. Of a clip of more than 5000 frames only
    key frames are decoded, those nearest to even spacing.
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
    untrained = "video-descriptors"
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
        if isinstance(raw, list | tuple) and raw and not any(isinstance(frame, bytes) for frame in raw):
            try:
                raw = np.asarray(raw)
            except ValueError:
                raise self.error("has frames of different shapes", expected="an array [time, height, width] of a clip") from None
        if isinstance(raw, np.ndarray):
            return self._of_array(raw)
        if isinstance(raw, list | tuple) and raw:
            return [self._of_file(raw[i]) for i in _spaced(len(raw), self._wanted)]
        raise self.error(f"holds a {type(raw).__name__}", expected="a path, bytes or an array [time, height, width] of a clip")

    def _of_array(self, array: np.ndarray) -> list[Any]:
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4)):
            array = array[None]  # a still picture
        if array.ndim not in (3, 4) or not array.size:
            raise self.error(f"is an array of shape {array.shape}", expected="[time, height, width] or [time, height, width, 3]")
        kept = bytes_of(array[_spaced(len(array), self._wanted)], self.error)  # one range for all frames: no flicker
        return [picture_of(frame, self.error) for frame in kept]

    def _of_file(self, frame: Any) -> Any:
        if not isinstance(frame, bytes):
            raise self.error(f"has a {type(frame).__name__} among its frames", expected="pictures only")
        return open_picture(frame, self.error)

    @property
    def _wanted(self) -> int:
        return self.frames if self.frames else 16

    def _animated(self, data: bytes) -> list[Any]:
        picture = open_picture(data, self.error)
        if isinstance(picture, Jpeg):
            return [picture]
        with decoding("the clip cannot be decoded", self.error):
            count = int(getattr(picture, "n_frames", 1))
            if count * picture.width * picture.height > 10 * MOST_PIXELS:
                raise self.error(f"has {count} frames of {picture.width} x {picture.height} pixels", expected="a smaller clip")
            frames = []
            for at in _spaced(count, self._wanted):
                picture.seek(at)
                frames.append(self._kept(picture))
        return frames

    def _kept(self, picture: Any) -> Any:
        """A copy of the present frame, at most a few times as large as needed: sixteen whole ones would fill the memory."""
        if picture.mode in ("1", "P", "PA"):
            picture = picture.convert("RGBA" if picture.mode == "PA" or "transparency" in picture.info else "RGB")
        enough = 2 * max(self.size, 64)
        fewer = max(1, picture.width // enough), max(1, picture.height // enough)
        return picture.reduce(fewer) if fewer != (1, 1) and picture.mode in ("L", "LA", "RGB", "RGBA") else picture.copy()

    def _contained(self, data: bytes) -> list[Any]:
        try:
            import av
        except ImportError:
            raise self.error("is a clip in a container", expected="PyAV, which reads it", fix="pip install polyfuse[video]") from None
        frames = []
        with (
            decoding("the clip cannot be decoded", self.error, av.error.FFmpegError),
            av.open(BytesIO(data), "r", metadata_errors="replace") as container,
        ):
            if not container.streams.video:
                if container.streams.audio:
                    raise self.error("has no frames, only sound", expected="a clip", fix="declare modality='audio'")
                raise self.error("has no frames", expected="a whole clip")
            stream = container.streams.video[0]
            if stream.width * stream.height > MOST_PIXELS:
                raise self.error(f"has frames of {stream.width} x {stream.height} pixels", expected=f"at most {MOST_PIXELS:,} pixels")
            is_key = [packet.is_keyframe for packet in container.demux(stream) if packet.size]  # the header's count may be wrong
            wanted, keys = _spaced(len(is_key), self._wanted), np.flatnonzero(is_key)
            if len(is_key) > _LONG and len(keys):
                stream.codec_context.skip_frame = "NONKEY"
                wanted = sorted({int(np.abs(keys - at).argmin()) for at in wanted})
            container.seek(0)
            for at, frame in enumerate(container.decode(stream)):
                if at in wanted:
                    upright = frame.to_image().rotate(frame.rotation, expand=True)  # a telephone held upright says so in the header
                    frames.append(self._kept(upright))
                if at == wanted[-1]:
                    break
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
        shown = []
        for picture in pictures:
            try:
                shown.append(pixels_of(picture, self.size, 3, self.error))
            except DataError:
                continue
        grey = bool(shown) and all((p[0] == p[1]).all() and (p[1] == p[2]).all() for p in shown)
        self.channels = self.given_channels or (1 if grey else 3)
        if shown:
            self.mean, self.std = float(np.mean(shown)), float(np.std(shown)) or 1.0

    def clean(self, value: list[Any]) -> Value:
        kept = [value[i] for i in _spaced(len(value), self.frames)]
        return {"pixels": np.stack([pixels_of(f, self.size, self.channels, self.error) for f in kept])}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return {**x, "pixels": warp(x["pixels"], draws, self.strength, self.flip)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Normal noise on every pixel of every frame; at level 1 its deviation is 128 of 256 grey levels."""
        return {**x, "pixels": grain(x["pixels"], x["mask"], level, draws)} if level else x

    def filler(self) -> Value:
        return {"pixels": np.full((1, self.channels, self.size, self.size), round(self.mean), np.uint8)}

    def state(self) -> dict[str, Any]:
        return {"frames": self.frames, "size": self.size, "channels": self.channels, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        for name in ("frames", "size", "channels", "mean", "std"):
            setattr(self, name, state[name])


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
