"""Encoders of the view `table`: all numbers, categories and dates of a row in one batched operation."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Encoded, Encoder, Layout, TableCodec, encoders
from ..core.layers import Mlp, Transformer


class TableEncoder(Encoder):
    """Which member of the view each number and each index belongs to, and the cells of absent members as zeros."""

    modality = "table"
    number_owner: Tensor
    index_owner: Tensor
    starts: Tensor

    def __init__(self, codec: TableCodec, width: int):
        super().__init__(codec, width)
        self.members, self.numbers, self.cardinalities = len(codec.members), codec.numbers, codec.cardinalities
        starts = [sum(self.cardinalities[:i]) for i in range(len(self.cardinalities))]
        self.register_buffer("number_owner", codec.number_owner, persistent=False)
        self.register_buffer("index_owner", codec.index_owner, persistent=False)
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.long), persistent=False)

    def cells(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> numbers [P, K] and rows of one common table [P, C], both 0 where absent; which are there [P, K] and [P, C]."""
        number_there, index_there = x["present"][:, self.number_owner], x["present"][:, self.index_owner]
        index = x["index"].masked_fill(~index_there, 0) + self.starts
        return x["value"].masked_fill(~number_there, 0.0), index, number_there, index_there


@encoders("table-mlp")
class TableMlp(TableEncoder):
    """All columns of the view through one residual perceptron to one token.

    The first to try, and the cheapest. `table-tokens` where a fusion should weigh single columns, `table-periodic` where
    an answer jumps with a number, `table-fm` where pairs of categories decide.
    Source: ours, after the tabular ResNet of Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data".

    Args:
        depth: residual blocks.
        each: size of a category's vector.
        dropout: in each block.
    Shapes:
        value [P, K], index [P, C], present [P, M] -> tokens [P, 1, D]
    Cost:
        4 * depth * D^2 + (K + each * C + M) * D parameters.
    """

    def __init__(self, codec: TableCodec, width: int, *, depth: int = 2, each: int = 8, dropout: float = 0.1):
        super().__init__(codec, width)
        self.embedding = nn.Embedding(sum(self.cardinalities), each) if self.cardinalities else None
        self.enter = nn.Linear(self.entered(each), width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), Mlp(width, 2 * width, width, dropout=dropout)) for _ in range(depth))
        self.depth_widths = (width,) * depth

    def entered(self, each: int) -> int:
        """Numbers that enter the perceptron."""
        return self.numbers + each * len(self.cardinalities) + self.members

    def numeric(self, value: Tensor, there: Tensor) -> Tensor:
        """[P, K] -> [P, what `entered` counts for it]."""
        return value

    def features(self, x: dict[str, Tensor]) -> Encoded:
        value, index, number_there, index_there = self.cells(x)
        pieces = [x["present"].to(value.dtype)]
        if self.numbers:
            pieces.append(self.numeric(value, number_there))
        if self.embedding is not None:
            pieces.append((self.embedding(index) * index_there.unsqueeze(-1)).flatten(1))
        states = [self.enter(torch.cat(pieces, 1)).unsqueeze(1)]
        for block in self.blocks:
            states.append(states[-1] + block(states[-1]))
        mask = x["present"].any(1, keepdim=True)
        return Encoded(states[-1], mask, self.earlier(*((h, mask) for h in states[:-1])))


@encoders("table-periodic")
class TablePeriodic(TableMlp):
    """As `table-mlp`, each number seen through sines and cosines of learned frequencies.

    Where an answer turns or jumps with a number (thresholds, seasons), which a perceptron learns slowly.
    Source: Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", eq. 1 (PLR).

    Args:
        frequencies: of each number.
        scale: deviation of the frequencies at the start; larger sees finer steps and overfits sooner.
        depth: residual blocks.
        each: size of a category's and of a number's vector.
        dropout: in each block.
    Shapes:
        value [P, K], index [P, C], present [P, M] -> tokens [P, 1, D]
    Cost:
        4 * depth * D^2 + each * (K + C) * D + 2 * frequencies * each * K parameters.
    """

    def __init__(
        self,
        codec: TableCodec,
        width: int,
        *,
        frequencies: int = 16,
        scale: float = 0.3,
        depth: int = 2,
        each: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(codec, width, depth=depth, each=each, dropout=dropout)
        self.rate = nn.Parameter(torch.randn(self.numbers, frequencies) * scale)
        self.weight = nn.Parameter(torch.randn(self.numbers, 2 * frequencies, each) * (2 * frequencies) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(self.numbers, each))

    def entered(self, each: int) -> int:
        return super().entered(each) + each * self.numbers

    def numeric(self, value: Tensor, there: Tensor) -> Tensor:
        angle = 2 * math.pi * self.rate * value.unsqueeze(-1)  # [P, K, frequencies]
        seen = F.relu(torch.einsum("pkf,kfe->pke", torch.cat([angle.sin(), angle.cos()], -1), self.weight) + self.bias)
        return torch.cat([value, (seen * there.unsqueeze(-1)).flatten(1)], 1)


class ColumnTokens(nn.Module):
    """One vector a column: a learned direction times the number, or the category's row: -> [P, M, D] and mask [P, M].

    Source: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", section 3.3, "Feature Tokenizer".
    """

    def __init__(self, encoder: TableEncoder, width: int):
        super().__init__()
        self.numbers = nn.Parameter(torch.randn(encoder.numbers, width) * width**-0.5)
        self.categories = nn.Embedding(max(sum(encoder.cardinalities), 1), width)
        nn.init.normal_(self.categories.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.randn(encoder.members, width) * width**-0.5)
        self.has_categories = bool(encoder.cardinalities)
        self.categories.requires_grad_(self.has_categories)

    def forward(self, encoder: TableEncoder, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        value, index, _, index_there = encoder.cells(x)
        tokens = self.bias.expand(len(value), -1, -1)
        if encoder.numbers:  # a member may have several numbers (a date has): they add up
            tokens = tokens.index_add(1, encoder.number_owner, value.unsqueeze(-1) * self.numbers)
        if self.has_categories:
            tokens = tokens.index_add(1, encoder.index_owner, self.categories(index) * index_there.unsqueeze(-1))
        return tokens.masked_fill(~x["present"].unsqueeze(-1), 0.0), x["present"]


@encoders("table-tokens")
class TableTokens(TableEncoder):
    """A token for every column, mixed by a transformer.

    The fusion sees every column by itself and may weigh it against a word or a patch; with many columns it is slower than
    `table-mlp` and seldom better on the table alone.
    Source: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", section 3.3 (FT-Transformer).

    Args:
        depth, heads, dropout: of the transformer.
    Shapes:
        value [P, K], index [P, C], present [P, M] -> tokens [P, M, D]
    Cost:
        12 * depth * D^2 + (K + categories) * D parameters; quadratic in M.
    """

    def __init__(self, codec: TableCodec, width: int, *, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(codec, width)
        self.tokens = ColumnTokens(self, width)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.most_tokens = self.members
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        tokens, mask = self.tokens(self, x)
        *earlier, last = self.transformer.states(tokens, mask)
        return Encoded(last, mask, self.earlier(*((e, mask) for e in earlier)))


@encoders("table-fm")
class TableFm(TableEncoder):
    """The sum of the columns' vectors and the sum of all their products in pairs: one token.

    Where pairs decide (this user with that item), in time linear in the columns.
    Source: Rendle 2010, "Factorization Machines", eq. 5 per component; on vectors as Guo et al. 2017, "DeepFM", eq. 2.

    Args:
        dropout: on the columns' vectors.
    Shapes:
        value [P, K], index [P, C], present [P, M] -> tokens [P, 1, D]
    Cost:
        3 * D^2 + (K + categories) * D parameters; linear in M.
    """

    def __init__(self, codec: TableCodec, width: int, *, dropout: float = 0.1):
        super().__init__(codec, width)
        self.tokens = ColumnTokens(self, width)
        self.dropout = dropout
        self.out = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        tokens, mask = self.tokens(self, x)
        tokens = F.dropout(tokens, self.dropout, self.training)
        total = tokens.sum(1)
        pairs = 0.5 * (total.square() - tokens.square().sum(1))
        return Encoded(self.out(torch.cat([total, pairs], 1)).unsqueeze(1), mask.any(1, keepdim=True))


@encoders("table-columns")
class TableColumns(TableEncoder):
    """The columns as they are, for learners that take numbers and categories themselves: nothing is trained.

    One feature a number and one a category, its index; then a flag for each column, whether it is there.
    In a network `table-mlp` is the better one.
    Source: ours.

    Shapes:
        value [P, K], index [P, C], present [P, M] -> features [P, 1, K + C + M] -> tokens [P, 1, D]
    Cost:
        (K + M + categories) * D parameters of the projection.
    """

    frozen = True
    columnar = True

    def __init__(self, codec: TableCodec, width: int):
        super().__init__(codec, width)
        owner = [*self.number_owner.tolist(), *self.index_owner.tolist()]
        self.layout = Layout((0,) * self.numbers + tuple(self.cardinalities), tuple(owner), self.members)
        self.enter = nn.Linear(self.numbers + self.members, width)
        self.embedding = nn.Embedding(sum(self.cardinalities), width) if self.cardinalities else None

    def features(self, x: dict[str, Tensor]) -> Encoded:
        value, index, _, _ = self.cells(x)
        index = (index - self.starts) * x["present"][:, self.index_owner]
        pieces = [value.float(), index.float(), x["present"].float()]
        return Encoded(torch.cat(pieces, 1).unsqueeze(1), x["present"].any(1, keepdim=True))

    def project(self, encoded: Encoded) -> Tensor:
        value, index, present = encoded.x.split([self.numbers, len(self.cardinalities), self.members], -1)
        token = self.enter(torch.cat([value, present], -1))
        if self.embedding is not None:
            rows = self.embedding(index.long() + self.starts) * present[..., self.index_owner].unsqueeze(-1)
            token = token + rows.sum(-2)
        return token
