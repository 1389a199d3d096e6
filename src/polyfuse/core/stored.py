"""What stands in a network for frozen encoders whose features were computed outside of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codec import Codec, Encoder
from .layers import masked_softmax
from .tokens import Encoded, pool

_QUERIES = 8
_DROPOUT = 0.2
_BESIDE = 64  # most numbers that are made of each vector beside the tokens


class Stored(Encoder):
    """Stored tokens of a checkpoint, and vectors of other frozen encoders beside them, to one token: attention with several queries.

    In a long text the one sentence counts that says it: each query finds its own.
    Source: Lin et al. 2017, "A Structured Self-attentive Sentence Embedding", section 2.1, with one layer that scores, and the mean
    over all tokens beside what the queries find.

    Args:
        sizes: of the tokens F_1, and of each vector beside them.
    Shapes:
        features x [P, N, F_1 + F_2 + ...], where what is of a vector is the same in every token of a cell; `project` -> [P, 1, D]
    """

    def __init__(self, codec: Codec, width: int, sizes: Sequence[int]):
        super().__init__(codec, width)
        self.sizes = list(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes)
        self.token, self.query = nn.Linear(sizes[0], width), nn.Linear(width, _QUERIES, bias=False)
        beside = [min(size, _BESIDE) for size in sizes[1:]]
        self.beside = nn.ModuleList(nn.Linear(size, small) for size, small in zip(sizes[1:], beside))
        self.out = nn.Linear((_QUERIES + 1) * width + sum(beside), width)

    def project(self, encoded: Encoded) -> Tensor:
        tokens, *vectors = encoded.x.split(self.sizes, 2)
        x = self._dropped(F.gelu(self.token(self.norms[0](tokens))))
        weights = masked_softmax(self.query(x).transpose(1, 2), encoded.mask.unsqueeze(1))  # [P, Q, N]
        found = [(weights @ x).flatten(1), pool(x, encoded.mask)]
        for vector, norm, layer in zip(vectors, list(self.norms)[1:], self.beside):
            found.append(layer(self._dropped(norm(vector[:, 0]))))
        return self.out(torch.cat(found, 1)).unsqueeze(1)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, _DROPOUT, self.training)
