"""From pictures to tokens: encoders that train with the model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, RecipeError, encoders
from ...core.layers import Transformer, positions
from ...core.vision import ConvBlock, PlainConvs, as_tokens, groups
from .codec import ImageCodec


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
