"""Encoders of the view `table`: all numbers, categories and dates of a row in one batched operation."""

import torch
from torch import Tensor, nn

from ..core import Encoded, Encoder, TableCodec, encoders


@encoders("table-mlp")
class TableMlp(Encoder):
    """All columns of the view through one residual perceptron to one token.

    Source: ours, after the tabular ResNet of Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data".

    Args:
        depth: residual blocks.
        dropout: in each block.
    Shapes:
        value [P, K], index [P, C], present [P, M] -> tokens [P, 1, D]
    """

    modality = "table"
    number_owner: Tensor
    index_owner: Tensor
    starts: Tensor

    def __init__(self, codec: TableCodec, width: int, *, depth: int = 2, dropout: float = 0.1):
        super().__init__(codec, width)
        self.register_buffer("number_owner", codec.number_owner, persistent=False)
        self.register_buffer("index_owner", codec.index_owner, persistent=False)
        sizes = codec.cardinalities
        self.register_buffer("starts", torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], dtype=torch.long), persistent=False)
        each = 8
        self.embedding = nn.Embedding(max(sum(sizes), 1), each) if sizes else None
        self.enter = nn.Linear(codec.numbers + each * len(sizes) + len(codec.members), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))
            for _ in range(depth)
        )

    def features(self, x: dict[str, Tensor]) -> Encoded:
        present = x["present"]
        pieces = [present.to(x["value"].dtype)]
        if len(self.number_owner):
            pieces.append(x["value"].masked_fill(~present[:, self.number_owner], 0.0))
        if self.embedding is not None:
            here = present[:, self.index_owner]
            pieces.append((self.embedding(x["index"].masked_fill(~here, 0) + self.starts) * here.unsqueeze(-1)).flatten(1))
        h = self.enter(torch.cat(pieces, 1))
        for block in self.blocks:
            h = h + block(h)
        return Encoded(h.unsqueeze(1), present.any(1, keepdim=True))
