"""From the raw cell to bytes of one size."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...core import Codec, DataError, Draws, RecipeError, Value, codecs
from ...core.vision import decoding, grain, nearest_size, open_picture, picture_of, pixels_of, warp

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_SAMPLE = 200


@codecs("image")
class ImageCodec(Codec):
    """A picture, or several, as bytes of one square size.

    Grey, RGB, RGBA (on white), palette, CMYK and 16-bit pictures; turned upright by EXIF; the content decides, not the
    file's ending. Several pictures of one cell are a list of paths.
    Source: ours.

    Args:
        size: side in pixels; 0 = the usual size nearest below the median side, at most 64.
        channels: 1 or 3; 0 = 1 where all pictures of a sample are grey, else 3.
        most: pictures of one cell that are used, the first ones.
        augment: strength of the random shift, scale, rotation, brightness and contrast while training; 0 = none.
        flip: mirror at random too; not where left and right mean something (digits, text).
    Shapes:
        cell -> "pixels" uint8 [K, C, size, size], ragged over the K pictures of the cell
    Raises:
        DataError: no picture, a broken one, an animation, or more than 100 million pixels.
    """

    encoder = "image-cnn"
    untrained = "image-descriptors"
    media = True
    ragged = True

    def __init__(self, column: str, *, size: int = 0, channels: int = 0, most: int = 4, augment: float = 1.0, flip: bool = False):
        super().__init__(column)
        if channels not in (0, 1, 3):
            raise RecipeError(f"column '{column}'", f"has channels={channels}", expected="1 or 3")
        self.given_size, self.given_channels, self.most, self.strength, self.flip = size, channels, most, augment, flip
        self.size, self.channels = size or 32, channels or 3
        self.mean, self.std = 127.5, 64.0

    @classmethod
    def examples(cls) -> list[Any]:
        rng = np.random.default_rng(0)
        one = [rng.integers(0, 256, (20, 24, 3), np.uint8), rng.integers(0, 256, (16, 16), np.uint8)]
        return [*one, [one[0], one[1]], rng.integers(0, 65536, (18, 18), np.uint16)]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        return sum(map(_looks_like, sample)) / len(sample) * 0.95 if sample else 0.0

    def read(self, raw: Any) -> list[Any] | None:
        """-> pictures whose headers were read; `clean` decodes them straight to their size."""
        if raw is None:
            return None
        if isinstance(raw, bytes):
            return [self._still(raw)]
        if isinstance(raw, np.ndarray):
            return [picture_of(raw, self.error)]
        if isinstance(raw, list | tuple) and raw:
            pictures = [p for r in raw[: self.most] if r is not None for p in (self.read(r) or [])]
            return pictures[: self.most] or None
        raise self.error(f"holds a {type(raw).__name__}", expected="a path, bytes or an array of a picture, or a list of these")

    def _still(self, data: bytes) -> Any:
        picture = open_picture(data, self.error)
        if picture.format in ("GIF", "WEBP", "PNG"):
            with decoding("the picture cannot be opened", self.error):
                frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise self.error(f"is an animation of {frames} frames", expected="a still picture", fix="declare modality='video'")
        return picture

    def fit(self, values: Iterator[list[Any]]) -> None:
        sides, grey = [], True
        pictures: list[Any] = []
        for at, value in enumerate(values):
            picture = value[0]
            sides.append(min(picture.size))
            grey = grey and picture.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F")
            if len(pictures) < 50:
                pictures.append(picture)
            if at + 1 == _SAMPLE:
                break
        self.size = self.given_size or nearest_size(sides, 64)
        self.channels = self.given_channels or (1 if grey and sides else 3)
        levels = []
        for picture in pictures:
            try:
                levels.append(pixels_of(picture, self.size, self.channels, self.error))
            except DataError:
                continue
        if levels:
            self.mean, self.std = float(np.mean(levels)), float(np.std(levels)) or 1.0

    def clean(self, value: list[Any]) -> Value:
        return {"pixels": np.stack([pixels_of(p, self.size, self.channels, self.error) for p in value])}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return {**x, "pixels": warp(x["pixels"], draws, self.strength, self.flip)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Normal noise on every pixel of every picture; at level 1 its deviation is 128 of 256 grey levels."""
        return {**x, "pixels": grain(x["pixels"], x["mask"], level, draws)} if level else x

    def filler(self) -> Value:
        return {"pixels": np.full((1, self.channels, self.size, self.size), round(self.mean), np.uint8)}

    def state(self) -> dict[str, Any]:
        return {"size": self.size, "channels": self.channels, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        self.size, self.channels, self.mean, self.std = state["size"], state["channels"], state["mean"], state["std"]


def _looks_like(cell: Any) -> bool:
    if isinstance(cell, str):
        text = cell.strip().lower()
        if text.startswith("["):
            return text.rstrip("]").rstrip().rstrip("\"'").endswith(SUFFIXES)
        return text.endswith(SUFFIXES)
    if isinstance(cell, bytes):
        return cell.startswith(_MAGIC) or (cell[:4] == b"RIFF" and cell[8:12] == b"WEBP")
    if isinstance(cell, dict):
        return _looks_like(cell.get("bytes") or cell.get("path") or "")
    if isinstance(cell, np.ndarray):
        return cell.dtype == np.uint8 and (cell.ndim == 2 or (cell.ndim == 3 and cell.shape[-1] in (1, 3, 4)))
    return (
        isinstance(cell, list)
        and bool(cell)
        and all(_looks_like(c) for c in cell if not isinstance(c, int | float))
        and not any(isinstance(c, int | float) for c in cell)
    )
