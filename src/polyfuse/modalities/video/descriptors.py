"""From frames to one vector without training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...core import Encoded, Encoder, encoders
from ...core.descriptors import PictureDescriptors, Standardised, brightness
from ...core.sample import evenly
from .codec import VideoCodec
from .motion import MOTION, motion

_CHUNK = 8  # clips at a time: what they need stays in the processor's cache
_SAMPLE = 250  # clips that are fitted on: this many, and fewer than twice as many
_FRAMES = 4  # of each, that the patches are learned from


@encoders("video-descriptors")
class VideoDescriptors(Encoder):
    """What a clip is like in some 3,600 numbers (grey: 2,500) that no label trains: what is to be seen, and what moves how.

    Side by side: the frames' average patches, edges and colours, as `image-descriptors` has them; in which direction things
    move, by place and time; the way of what moves; and what moves, cut out of each frame and averaged.
    It does not know one moving thing from two. With many thousand clips `video-gru` is better.

    Source: ours; `PictureDescriptors` and `motion` say after whom.

    Args:
        words: patches that are told apart, at each of two sizes.
        directions: in which patches may differ, at most; a patch has 16 * channels.
    Shapes:
        pixels [P, T, C, S, S] -> tokens [P, 1, D]; stored [P, 1, F], F = 4 * words * (2 + min(directions, 16 C)) + 1316 + 32 C
    Cost:
        F * D parameters; about 0.7 ms a frame of 64 x 64 or more pixels in colour, some seconds to fit.
    """

    modality = "video"
    frozen = True

    def __init__(self, codec: VideoCodec, width: int, *, words: int = 16, directions: int = 32):
        super().__init__(codec, width)
        self.describe = PictureDescriptors(codec.channels, codec.size, words=words, directions=directions)
        size = self.describe.size + MOTION
        self.standard = Standardised(size)
        self.out = nn.Linear(size, width)

    @torch.no_grad()
    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        clips = evenly((p[m] for x in stream for p, m in zip(x["pixels"], x["mask"]) if m.any()), _SAMPLE)  # [T, C, S, S], copies
        if not clips:
            return
        self.describe.fit(brightness(torch.cat([clip[:: -(-len(clip) // _FRAMES)] for clip in clips])))
        real = [torch.ones(1, len(clip), dtype=torch.bool, device=clip.device) for clip in clips]
        self.standard.fit(torch.cat([self._described(clip.unsqueeze(0), mask) for clip, mask in zip(clips, real)]))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        pixels, mask = x["pixels"], x["mask"]
        parts = [self._described(pixels[at : at + _CHUNK], mask[at : at + _CHUNK]) for at in range(0, len(mask), _CHUNK)]
        found = self.standard(torch.cat([self.standard.centre.new_zeros(0, len(self.standard.centre)), *parts]))
        some = mask.any(1, keepdim=True)
        return Encoded((found * some).unsqueeze(1), some)

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)

    def _described(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """pixels [P, T, C, S, S], P >= 1, mask [P, T] -> [P, F], not yet scaled."""
        frames = brightness(pixels.flatten(0, 1)).mean(1).unflatten(0, mask.shape)
        return torch.cat([self.describe(pixels, mask), motion(frames.masked_fill(~mask[..., None, None], 0.0), mask)], 1)
