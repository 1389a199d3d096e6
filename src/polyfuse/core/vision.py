"""What pictures and clips share: decoding one picture safely, the frame network, augmentation in one resampling."""

import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .draws import Draws
from .errors import DataError

MOST_PIXELS = 100_000_000  # of one picture; a larger one is refused by its header
_EXIF_WITHIN = 2**17  # bytes from the start in which a camera writes its metadata
SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)

Refuse = Callable[..., Exception]

_MISREAD = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)
# what decoders throw at broken content: far more than they promise
BROKEN: tuple[type[Exception], ...] = (*_MISREAD, RuntimeError, MemoryError, struct.error, zlib.error)


@contextmanager
def decoding(what: str, refuse: Refuse, *also: type[Exception]) -> Iterator[None]:
    """Whatever a decoder throws at broken content becomes a refusal (`also`: its own errors); its warnings are no news to a user."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise refuse(f"is too large ({error})", expected=f"at most {MOST_PIXELS:,} pixels", fix="scale it down") from None
    except (*BROKEN, *also) as error:
        about = str(error) or type(error).__name__
        raise refuse(f"{what} ({about})", expected="a whole file", fix="copy it again, or empty the cell") from None


def open_picture(data: bytes, refuse: Refuse) -> Any:
    """A picture whose header was read; its pixels are not decoded yet: a Pillow image, or a `Jpeg`.

    Args:
        refuse: makes the error from (what, expected=, fix=).
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise refuse("the file is empty (zero bytes)", expected="a picture")
    jpeg = _jpeg(data) if data.startswith(b"\xff\xd8\xff") else None
    if jpeg is not None:
        return jpeg
    with decoding("the picture cannot be opened", refuse):
        try:
            picture = Image.open(BytesIO(data))
        except UnidentifiedImageError:
            raise refuse("the content is no picture that is known", expected="PNG, JPEG, WebP, GIF, BMP or TIFF") from None
    if picture.width * picture.height > MOST_PIXELS:
        raise refuse(
            f"the picture has {picture.width} x {picture.height} pixels", expected=f"at most {MOST_PIXELS:,} in all", fix="scale it down"
        )
    if picture.width < 1 or picture.height < 1:
        raise refuse(f"the picture has {picture.width} x {picture.height} pixels", expected="at least 1 x 1")
    return picture


@dataclass(frozen=True)
class Jpeg:
    """A JPEG that libjpeg-turbo decodes straight to a smaller size, several times as fast as whole.

    Attributes:
        size: width and height as stored.
        mode: "L" or "RGB".
        orientation: EXIF's, 1 to 8.
    """

    data: bytes
    size: tuple[int, int]
    mode: str
    orientation: int
    format = "JPEG"

    def decoded(self, size: int, channels: int) -> np.ndarray | None:
        """[height, width] or [height, width, 3] uint8 of at least `size` a side where it has that; None where it is broken."""
        import simplejpeg

        try:
            pixels = simplejpeg.decode_jpeg(
                self.data, "GRAY" if channels == 1 else "RGB", min_height=size, min_width=size, min_factor=2, strict=True
            )
        except ValueError:
            return None
        return _upright(pixels[..., 0] if channels == 1 else pixels, self.orientation)

    def by_pillow(self) -> Any:
        """The same picture for Pillow, which says better what is wrong with it."""
        from PIL import Image

        return Image.open(BytesIO(self.data))


def _jpeg(data: bytes) -> Jpeg | None:
    """None where Pillow must read it: CMYK, a broken header, or more pixels than are allowed."""
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in ("Gray", "YCbCr", "RGB") or not 0 < height * width <= MOST_PIXELS:
        return None
    orientation = 1
    if b"Exif\0\0" in data[:_EXIF_WITHIN]:
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                orientation = _orientation(Image.open(BytesIO(data)))
            except BROKEN:  # only Pillow cannot open it
                orientation = 1
    return Jpeg(data, (width, height), "L" if colours == "Gray" else "RGB", orientation)


def _orientation(picture: Any) -> int:
    """EXIF's, 1 to 8; upright where the metadata beside good pixels are broken."""
    try:
        return int(picture.getexif().get(0x0112, 1))
    except BROKEN:
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    quarters = {3: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0)
    pixels = np.rot90(pixels, quarters) if quarters else pixels
    return pixels[:, ::-1] if orientation in (2, 5, 7) else pixels[::-1] if orientation == 4 else pixels


def pixels_of(picture: Any, size: int, channels: int, refuse: Refuse) -> np.ndarray:
    """Decode, turn upright, scale: [channels, size, size] uint8. The aspect is not kept; every picture fills the square."""
    from PIL import Image

    if isinstance(picture, Jpeg):
        pixels = picture.decoded(size, channels)
        if pixels is not None:
            if pixels.shape[:2] != (size, size):
                pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
            return pixels.reshape(size, size, channels).transpose(2, 0, 1)
    with decoding("the picture cannot be decoded", refuse):
        if isinstance(picture, Jpeg):
            picture = picture.by_pillow()
        picture.load()  # first: a TIFF turns itself upright here
        orientation = _orientation(picture)
        picture = _eight_bits(picture, refuse)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _upright(np.asarray(picture, np.uint8), orientation).reshape(size, size, channels).transpose(2, 0, 1)


def _eight_bits(picture: Any, refuse: Refuse) -> Any:
    """16-bit and floating grey scaled to 8 bits by the range of their type (floats: of their values)."""
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.clip(np.asarray(picture), 0, 65535) // 257).astype(np.uint8))
    if picture.mode == "F":
        return Image.fromarray(bytes_of(np.asarray(picture), refuse))
    return picture


def bytes_of(array: np.ndarray, refuse: Refuse) -> np.ndarray:
    """Pixels of any type as uint8: 16 bits and floats scaled, floats by the range they fit (0 to 1, 0 to 255, else their own)."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array // 257).astype(np.uint8)
    if array.dtype.kind in "iu":
        return np.clip(array, 0, 255).astype(np.uint8)
    if array.dtype.kind != "f":
        raise refuse(f"is an array of {array.dtype}", expected="numbers")
    low, high = float(array.min()), float(array.max())
    if not -1e30 < low <= high < 1e30:
        raise refuse("has NaN, infinite or enormous pixels", expected="finite pixels")
    if 0.0 <= low and high <= 1.0:
        low, high = 0.0, 1.0
    elif 0.0 <= low and high <= 255.0:
        low, high = 0.0, 255.0
    array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    return np.clip((array - low) * (255.0 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)


def picture_of(array: np.ndarray, refuse: Refuse) -> Any:
    """An array [H, W] or [H, W, 1, 3 or 4] as a Pillow image."""
    from PIL import Image

    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or not array.size:
        raise refuse(f"is an array of shape {array.shape}", expected="[height, width] or [height, width, 1, 3 or 4]")
    if array.shape[0] * array.shape[1] > MOST_PIXELS:
        raise refuse(f"has {array.shape[1]} x {array.shape[0]} pixels", expected=f"at most {MOST_PIXELS:,} in all")
    return Image.fromarray(np.ascontiguousarray(bytes_of(array, refuse)))


def nearest_size(sides: list[int], most: int) -> int:
    """The usual size nearest below the median side, at most `most`."""
    side = sorted(sides)[len(sides) // 2] if sides else most
    return max((s for s in SIZES if s <= min(side, most)), default=SIZES[0])


def warp(x: Tensor, draws: Draws, strength: float, flip: bool) -> Tensor:
    """Shift, scale, rotate and (where asked) mirror pictures in one bilinear resampling; then brightness and contrast.

    Shapes:
        x [P, ..., H, W] uint8 -> the same; every picture of a row gets the row's own change
    """
    if strength <= 0 or not len(x):
        return x
    u = draws.uniform(7) * 2 - 1  # [P, 7]
    angle, scale = u[:, 0] * strength * math.pi / 18, 1 + u[:, 1] * 0.1 * strength
    shift = u[:, 2:4] * 0.12 * strength
    mirror = torch.where((u[:, 4] < 0) & flip, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1)
    h, w = x.shape[-2:]
    flat = x.reshape(len(x), -1, h, w).float()
    grid = F.affine_grid(theta.to(flat.device), [len(x), 1, h, w], align_corners=False)
    flat = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    gain = (1 + 0.2 * strength * u[:, 5]).view(-1, 1, 1, 1).to(flat.device)
    bias = (25 * strength * u[:, 6]).view(-1, 1, 1, 1).to(flat.device)
    return (flat * gain + bias).clamp_(0, 255).round_().to(torch.uint8).view(x.shape)


def grain(x: Tensor, mask: Tensor, level: float, draws: Draws) -> Tensor:
    """Normal noise on every pixel of the real pictures, of deviation `level` times 128 grey levels.

    Row by row, so that what is drawn for a large picture is never held for a whole batch.

    Shapes:
        x [P, K, ...] uint8, mask [P, K] -> the same as x
    """
    out, seeds = x.clone(), draws.integers(2**24)
    for i, seed in enumerate(seeds.tolist()):
        real = x[i, mask[i]].float()
        drawn = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
        out[i, mask[i]] = (real + 128 * level * drawn).round_().clamp_(0, 255).to(torch.uint8)
    return out


def groups(channels: int) -> nn.GroupNorm:
    """A norm that mixes no rows."""
    return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with a residual path: [P, C, H, W] -> [P, width, H/stride, W/stride].

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks"; group norm after Wu and He 2018.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        self.norm1, self.norm2 = groups(inputs), groups(width)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inputs, width, 1, stride, bias=False) if stride > 1 or inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.gelu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.gelu(self.norm2(h)))


class PlainConvs(nn.Module):
    """Convolutions from a picture down to a map of about 4 x 4: [P, C, H, W] -> maps, shallow to deep.

    A stage convolves and halves the side; its channels are half of the next one's, so that no stage is costly. No norms:
    one over a row's map drowns a small thing before a large plain ground, one over rows would mix them.
    Source: ours, after LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition".
    """

    def __init__(self, channels: int, size: int, width: int, first: int = 16, convs: int = 0):
        super().__init__()
        count = max(2, round(math.log2(max(size, 8) / 4)))
        convs = convs or (2 if count == 2 else 1)  # small pictures have few stages: these get depth
        self.widths = tuple(max(min(first, width), width // 2 ** (count - 1 - i)) for i in range(count))
        stages, inputs = [], channels
        for outputs in self.widths:
            layers: list[nn.Module] = []
            for _ in range(convs):
                layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.GELU()]
                inputs = outputs
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def side(self, size: int) -> int:
        """Of the last map."""
        return size // 2 ** len(self.stages)


def as_tokens(maps: Tensor) -> Tensor:
    """[P, F, h, w] -> [P, h * w, F]."""
    return maps.flatten(2).transpose(1, 2)
