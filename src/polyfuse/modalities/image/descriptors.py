"""From pictures to one vector without training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...core import Encoded, Encoder, encoders
from ...core.descriptors import PictureDescriptors, Standardised, brightness
from ...core.sample import evenly
from .codec import ImageCodec

_SAMPLE = 750  # cells that are fitted on: this many, and fewer than twice as many


@encoders("image-descriptors")
class ImageDescriptors(Encoder):
    """What a picture is like in some 2,700 numbers (grey: 1,600) that no label trains: patches, gradients, colours.

    Three descriptions side by side: which small patches occur, at two sizes, and how they differ from usual ones; the edges by
    direction and place; the colours by place. The first tells materials, goods and textures apart, the second shapes that fill
    the picture, such as digits. Several pictures of a cell are averaged. With many thousand pictures `image-cnn` is better, and a
    pretrained network (encoder="hub:NAME") mostly is.

    Source: Perronnin, Sánchez, Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image Classification"; Dalal and Triggs
    2005, "Histograms of Oriented Gradients for Human Detection". Ours: whitened patches in the place of SIFT, and the choice.

    Args:
        words: patches that are told apart, at each of the two sizes.
        directions: in which patches may differ, at most; a patch has 16 * channels.
    Shapes:
        pixels [P, K, C, S, S] -> tokens [P, 1, D]; stored [P, 1, F], F = 4 * words * (2 + min(directions, 16 C)) + 392 + 32 C
    Cost:
        F * D parameters; about 0.6 ms a picture of 64 x 64 or more pixels in colour, some seconds to fit.
    """

    modality = "image"
    frozen = True

    def __init__(self, codec: ImageCodec, width: int, *, words: int = 16, directions: int = 32):
        super().__init__(codec, width)
        self.describe = PictureDescriptors(codec.channels, codec.size, words=words, directions=directions)
        self.standard = Standardised(self.describe.size)
        self.out = nn.Linear(self.describe.size, width)

    @torch.no_grad()
    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        # the first picture of a cell; a copy, as a view would keep the whole batch in memory
        kept = evenly((p.clone() for x in stream for p in x["pixels"][:, 0][x["mask"][:, 0]]), _SAMPLE)
        if not kept:
            return
        pixels = torch.stack(kept)
        self.describe.fit(brightness(pixels))
        self.standard.fit(self.describe(pixels.unsqueeze(1), torch.ones(len(pixels), 1, dtype=torch.bool, device=pixels.device)))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        some = x["mask"].any(1, keepdim=True)
        found = self.standard(self.describe(x["pixels"], x["mask"]))
        return Encoded((found * some).unsqueeze(1), some)

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)
