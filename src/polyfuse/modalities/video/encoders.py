"""From frames to tokens: encoders that train with the model."""

from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, encoders
from ...core.layers import Recurrent, Transformer, positions
from ...core.vision import PlainConvs
from .codec import VideoCodec


class _VideoEncoder(Encoder):
    """A convolutional network on every real frame: one vector a frame."""

    modality = "video"

    def __init__(self, codec: VideoCodec, width: int, first: int):
        super().__init__(codec, width)
        self.mean, self.std = codec.mean, codec.std
        self.stages = PlainConvs(codec.channels, codec.size, width, first)
        side = self.stages.side(codec.size)
        self.enter = nn.Linear(width * side * side, width)
        self.depth_widths = (width,)

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
        return Encoded(self.norm(h + self.recurrent(h, mask)).masked_fill(~mask.unsqueeze(-1), 0.0), mask, self.earlier((h, mask)))


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
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = self.frames(x)
        *earlier, last = self.transformer.states(h + positions(h.shape[1], self.width, h.device), mask)
        return Encoded(last, mask, self.earlier(*((e, mask) for e in earlier)))


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
        return Encoded(F.dropout(mean, self.dropout, self.training), mask.any(1, keepdim=True), self.earlier((h, mask)))
