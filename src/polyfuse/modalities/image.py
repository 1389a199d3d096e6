"""Pictures: any mode and depth, one or several in a cell, decoded once to bytes of one size."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Codec, DataError, Draws, Encoded, Encoder, RecipeError, Value, codecs, encoders
from ..core.layers import Transformer, positions
from ..core.vision import ConvBlock, PlainConvs, as_tokens, decoding, grain, groups, nearest_size, open_picture, picture_of, pixels_of, warp

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


class _ImageEncoder(Encoder):
    """Runs `maps` on every real picture of the batch and lays the pictures' tokens side by side."""

    modality = "image"
    each: int  # tokens of one picture

    def __init__(self, codec: ImageCodec, width: int):
        super().__init__(codec, width)
        self.mean, self.std, self.most = codec.mean, codec.std, codec.most

    def pictures(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[Q, C, S, S] float -> tokens [Q, each, D] and the maps of earlier layers, each [Q, F_i, h, w]."""
        raise NotImplementedError

    def features(self, x: dict[str, Tensor]) -> Encoded:
        pixels, mask = x["pixels"], x["mask"]
        p, k = mask.shape
        real = pixels[mask].float().sub(self.mean).div(self.std)  # only pictures that are there
        tokens, maps = self.pictures(real)
        earlier = [_laid(as_tokens(_four_by_four(m)), mask) for m in maps] if self.deep else []
        return Encoded(*_laid(tokens, mask), self.earlier(*earlier))


@encoders("image-cnn")
class ImageCnn(_ImageEncoder):
    """A plain convolutional network that trains well on a few thousand pictures.

    The first to try from scratch. `image-resnet` takes more rows and time, `image-light` less; a pretrained network
    (encoder="hub:NAME") beats all three where photographs are few.
    Every token also carries the strongest response of the whole picture.
    Source: ours, after LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition".

    Args:
        first: fewest channels of a stage; the last has D, each before it half as many.
        convs: convolutions of a stage; 0 = 1, or 2 where the picture has fewer than 24 pixels a side.
        dropout: on the tokens.
    Shapes:
        pixels [P, K, C, S, S] -> tokens [P, K * (about 16), D]
    Cost:
        about 14 * D^2 parameters.
    """

    def __init__(self, codec: ImageCodec, width: int, *, first: int = 16, convs: int = 0, dropout: float = 0.1):
        super().__init__(codec, width)
        self.stages = PlainConvs(codec.channels, codec.size, width, first, convs)
        self.depth_widths = self.stages.widths[:-1]
        self.out = nn.Linear(2 * width, width)
        self.dropout = dropout
        self.each = self.stages.side(codec.size) ** 2
        self.most_tokens = self.each * codec.most

    def pictures(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = self.stages(x)
        local = as_tokens(maps[-1])
        strongest = local.amax(1, keepdim=True).expand_as(local)  # what is small and anywhere survives a mean over the tokens
        tokens = self.out(torch.cat([local, strongest], 2))
        return F.dropout(tokens, self.dropout, self.training), maps[:-1]


@encoders("image-resnet")
class ImageResnet(_ImageEncoder):
    """A small residual network: three stages of residual blocks.

    With some ten thousand pictures or more; below that `image-cnn` is as good and quicker.
    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks"; group norm after Wu and He 2018.

    Args:
        depth: blocks per stage.
        dropout: on the tokens.
    Shapes:
        pixels [P, K, C, S, S] -> tokens [P, K * (S/8)^2, D]
    Cost:
        about 25 * depth * D^2 parameters.
    """

    def __init__(self, codec: ImageCodec, width: int, *, depth: int = 2, dropout: float = 0.1):
        super().__init__(codec, width)
        sizes = [max(16, width // 4), max(16, width // 2), width]
        self.enter = nn.Conv2d(codec.channels, sizes[0], 3, 2 if codec.size >= 64 else 1, 1)
        blocks, inputs = [], sizes[0]
        for size in sizes:
            blocks.append(nn.Sequential(*[ConvBlock(inputs if i == 0 else size, size, 2 if i == 0 else 1) for i in range(depth)]))
            inputs = size
        self.blocks = nn.ModuleList(blocks)
        self.norm = groups(width)
        self.depth_widths = tuple(sizes[:-1])
        self.dropout = dropout
        self.each = _halved(codec.size, 3 + (codec.size >= 64)) ** 2
        self.most_tokens = self.each * codec.most

    def pictures(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.enter(x)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return F.dropout(as_tokens(F.gelu(self.norm(x))), self.dropout, self.training), maps[:-1]


@encoders("image-light")
class ImageLight(_ImageEncoder):
    """Depthwise separable convolutions: a tenth of the arithmetic, for small machines and quick answers.

    Source: Howard et al. 2017, "MobileNets", section 3.1; group norm in place of batch norm.

    Args:
        dropout: on the tokens.
    Shapes:
        pixels [P, K, C, S, S] -> tokens [P, K * (S/8)^2, D]
    Cost:
        about 2 * D^2 parameters.
    """

    def __init__(self, codec: ImageCodec, width: int, *, dropout: float = 0.1):
        super().__init__(codec, width)
        sizes = [max(16, width // 4), max(16, width // 2), width]
        self.enter = nn.Conv2d(codec.channels, sizes[0], 3, 2, 1)
        stages = []
        for a, b, stride in zip(sizes, [*sizes[1:], width], (2, 2, 1)):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False),
                    groups(a),
                    nn.GELU(),
                    nn.Conv2d(a, b, 1, bias=False),
                    groups(b),
                    nn.GELU(),
                )
            )
        self.stages = nn.ModuleList(stages)
        self.depth_widths = tuple(sizes[1:])
        self.dropout = dropout
        self.each = _halved(codec.size, 3) ** 2
        self.most_tokens = self.each * codec.most

    def pictures(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.enter(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return F.dropout(as_tokens(x), self.dropout, self.training), maps[:-1]


@encoders("image-vit")
class ImageVit(_ImageEncoder):
    """Square patches as tokens of a transformer.

    Needs many more pictures than a convolutional network when trained from scratch; gives tokens that know their place.
    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", eq. 1-4, with fixed positions in two dimensions.

    Args:
        patch: side of a patch in pixels; 0 = an eighth of the picture.
        depth, heads, dropout: of the transformer.
    Shapes:
        pixels [P, K, C, S, S] -> tokens [P, K * (S / patch)^2, D]
    Cost:
        12 * depth * D^2 parameters; quadratic in patches.
    """

    places: Tensor

    def __init__(self, codec: ImageCodec, width: int, *, patch: int = 0, depth: int = 4, heads: int = 4, dropout: float = 0.1):
        super().__init__(codec, width)
        patch = patch or max(2, codec.size // 8)
        if patch > codec.size:
            raise RecipeError("encoder 'image-vit'", f"has patch={patch}", expected=f"at most the picture's size, {codec.size}")
        self.enter = nn.Conv2d(codec.channels, width, patch, patch)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.depth_widths = (width,) * depth
        self.side = codec.size // patch
        self.each = self.side**2
        self.most_tokens = self.each * codec.most
        half = width // 2
        rows = positions(self.side, half).repeat_interleave(self.side, 0)
        columns = positions(self.side, width - half).repeat(self.side, 1)
        self.register_buffer("places", torch.cat([rows, columns], 1), persistent=False)

    def pictures(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = as_tokens(self.enter(x)) + self.places
        *earlier, last = self.transformer.states(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device))
        return last, [e.transpose(1, 2).unflatten(2, (self.side, self.side)) for e in earlier]


def _laid(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of all real pictures [Q, n, F] side by side in their rows, by mask [P, K]: -> [P, K * n, F] and mask."""
    p, k = mask.shape
    real = mask.repeat_interleave(tokens.shape[1], 1)
    if k == 1 and len(tokens) == p:
        return tokens, real
    return tokens.new_zeros(p, k, *tokens.shape[1:]).masked_scatter(mask.view(p, k, 1, 1), tokens).flatten(1, 2), real


def _four_by_four(maps: Tensor) -> Tensor:
    """Means over squares, so that at most 4 x 4 are left."""
    return F.avg_pool2d(maps, -(-maps.shape[-1] // 4), ceil_mode=True)


def _halved(side: int, times: int) -> int:
    """The side of a map after that many convolutions of stride 2."""
    return -(-side // 2**times)


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
