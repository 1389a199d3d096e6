"""What stands in a network for frozen encoders whose features were computed outside of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codec import Codec, Encoder
from .layers import masked_softmax
from .tokens import Encoded, pool

_QUERIES = 8
_DROPOUT = 0.3
_BESIDE = 64  # most numbers that are made of each vector beside the tokens


class Stored(Encoder):
    """Stored tokens of a checkpoint, and vectors of other frozen encoders beside them, to one token: attention with several queries.

    In a long text the one sentence counts that says it: each query finds its own.
    Source: Lin et al. 2017, "A Structured Self-attentive Sentence Embedding", section 2.1, with one layer that scores, and the mean
    over all tokens beside what the queries find.

    Args:
        sizes: of the tokens F_1, and of each vector beside them.
    Shapes:
        features x [P, M + N, F_1] as `beside` lays them out; `project` -> [P, 1, D]
    """

    def __init__(self, codec: Codec, width: int, sizes: Sequence[int]):
        super().__init__(codec, width)
        self.sizes = list(sizes)
        self.token, self.query = nn.Linear(sizes[0], width), nn.Linear(width, _QUERIES, bias=False)
        smaller = [min(size, _BESIDE) for size in sizes[1:]]
        self.beside = nn.ModuleList(nn.Linear(size, small) for size, small in zip(sizes[1:], smaller))
        self.out = nn.Linear((_QUERIES + 1) * width + sum(smaller), width)

    def project(self, encoded: Encoded) -> Tensor:
        size, *others = self.sizes
        front = _front(size, others)
        mask = encoded.mask[:, front:]
        # Standardised without scale and shift, which the layer behind has too: so nothing has to be derived by what is stored.
        x = F.gelu(self.token(F.layer_norm(encoded.x, (size,)))[:, front:])
        weights = masked_softmax(self.query(x).transpose(1, 2), mask.unsqueeze(1))  # [P, Q, N]
        found = [(weights @ x).flatten(1), pool(x, mask)]
        vectors = encoded.x[:, :front].flatten(1)[:, : sum(others)].split(others, 1)
        for vector, layer in zip(vectors, self.beside):
            found.append(layer(self._dropped(F.layer_norm(vector, vector.shape[1:]))))
        return self.out(self._dropped(torch.cat(found, 1))).unsqueeze(1)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, _DROPOUT, self.training)


def beside(tokens: Tensor, mask: Tensor, vectors: Sequence[Tensor], size: int) -> dict[str, Tensor]:
    """What `Stored` projects: the vectors stand in front, one after the other, in M tokens of their own.

    Of several layers of a checkpoint a network gets the sum: side by side they say little more, and there it learns by heart.
    Source: Peters et al. 2018, "Deep Contextualized Word Representations", equation 1, with even weights; `Stored` standardises.

    Args:
        size: F_1, of one of the layers that lie side by side in a token.
    Shapes:
        tokens [P, N, L * F_1], mask [P, N], vectors [P, F_i] -> {"features" [P, M + N, F_1] float32, "mask" [P, M + N]}
    """
    cells, count, _ = tokens.shape
    front = _front(size, [v.shape[1] for v in vectors])
    x = torch.empty(cells, front + count, size, device=tokens.device)  # large: what is kept in half precision is widened into its place
    first, *layers = tokens.split(size, 2)
    x[:, front:] = first
    for layer in layers:
        x[:, front:] += layer
    if front:
        flat = torch.cat(list(vectors), 1)
        x[:, :front] = F.pad(flat, (0, front * size - flat.shape[1])).view(cells, front, size)
    return {"features": x, "mask": F.pad(mask, (front, 0), value=True)}


def _front(size: int, others: Sequence[int]) -> int:
    """M, how many tokens of this size the numbers of all vectors take."""
    return -(-sum(others) // size)
