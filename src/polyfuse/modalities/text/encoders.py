"""Subword ids to tokens, trained from scratch: a bag, recurrent networks, a Transformer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...core import Encoded, Encoder, encoders
from ...core.layers import AttentionPool, Mlp, Recurrent, Transformer, positions, squeeze
from .codec import Text
from .word_vectors import subword_vectors


class TextEncoder(Encoder):
    """What all have in common: a table of subword vectors, from random numbers or from word vectors of a file.

    Args:
        tokens: most tokens given; a longer cell's neighbours are averaged until it has that many.
        dropout: share of each subword's vector that is zeroed while training.
        vectors: a word2vec (text or binary) or GloVe file to start from; needed while fitting only.
        most_words: how many words of that file are read.
    """

    modality = "text"

    def __init__(
        self, codec: Text, width: int, *, tokens: int = 64, dropout: float = 0.2, vectors: str | None = None, most_words: int = 400_000
    ):
        super().__init__(codec, width)
        self.codec, self.vectors, self.most_words = codec, vectors, most_words
        self.most_tokens = min(tokens, codec.length)
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(codec.size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        if self.vectors:
            found, vectors = subword_vectors(self.codec, self.vectors, self.width, self.most_words)
            with torch.no_grad():
                self.embedding.weight[found] = vectors * self.width**-0.5

    def embed(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """{"ids" [P, T], "mask" [P, T]} -> ids with zeros under the mask [P, T] int64, their vectors [P, T, D]."""
        ids = x["ids"].long().masked_fill(~x["mask"], 0)
        return ids, self.dropout(self.embedding(ids))

    def squeezed(self, x: Tensor, mask: Tensor, *earlier: Tensor) -> Encoded:
        """No more than the allowed tokens."""
        return Encoded(*squeeze(x, mask, self.most_tokens), self.earlier(*((h, mask) for h in earlier)))


@encoders("text-bag")
class TextBag(TextEncoder):
    """Subwords and pairs of neighbours, weighed by a learned attention and averaged: one token, order otherwise lost.

    The cheapest one; for topics and moods it is hard to beat, for word order (questions, negation) take
    `text-gru`.
    Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", section 2 (hashed pairs), with
    the attention of Ilse et al. 2018 beside the mean.

    Args:
        buckets: rows of the table into which pairs are hashed.
        dropout: share of each subword's vector that is zeroed while training.
        vectors: a word2vec (text or binary) or GloVe file to start from; needed while fitting only.
        most_words: how many words of that file are read.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> tokens [P, 1, D]

    Cost:
        one look-up and two sums a subword; (size + buckets) D + 5 D^2 parameters.
    """

    def __init__(
        self, codec: Text, width: int, *, buckets: int = 16384, dropout: float = 0.2, vectors: str | None = None, most_words: int = 400_000
    ):
        super().__init__(codec, width, tokens=1, dropout=dropout, vectors=vectors, most_words=most_words)
        self.pairs = nn.Embedding(buckets, width)
        nn.init.normal_(self.pairs.weight, std=width**-0.5)
        self.attention = AttentionPool(width)
        self.out = nn.Sequential(nn.LayerNorm(2 * width), Mlp(2 * width, width, width))
        self.depth_widths = (width,)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        ids, single = self.embed(x)
        # two odd constants spread neighbouring ids over the buckets (Knuth's multiplicative hashing)
        bucket = ((ids[:, :-1] * 2654435761 + ids[:, 1:] * 40503) >> 8) % self.pairs.num_embeddings
        all_ = torch.cat([single, self.dropout(self.pairs(bucket))], 1)
        mask = torch.cat([x["mask"], x["mask"][:, :-1] & x["mask"][:, 1:]], 1)
        weighed, _ = self.attention(all_, mask)
        mean = all_.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        pooled = self.out(torch.cat([weighed, mean], 1))
        return Encoded(pooled.unsqueeze(1), x["mask"].any(1, keepdim=True), self.earlier((single, x["mask"])))


class TextRecurrent(TextEncoder):
    """Both directions of a recurrent network over the subwords; `cell` names which."""

    cell = "gru"

    def __init__(
        self,
        codec: Text,
        width: int,
        *,
        depth: int = 1,
        tokens: int = 64,
        dropout: float = 0.2,
        vectors: str | None = None,
        most_words: int = 400_000,
    ):
        super().__init__(codec, width, tokens=tokens, dropout=dropout, vectors=vectors, most_words=most_words)
        self.recurrent = Recurrent(width, width, depth, self.cell)
        self.norm = nn.LayerNorm(width)
        self.depth_widths = (width,)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        _, embedded = self.embed(x)
        return self.squeezed(self.norm(self.recurrent(embedded, x["mask"])), x["mask"], embedded)


@encoders("text-gru")
class TextGru(TextRecurrent):
    """A bidirectional GRU over the subwords: a token for each of them.

    Learns word order from a few thousand rows and needs no tuning; `text-bag` is faster where order says little,
    `text-transformer` gains on longer text and larger tables.
    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", section 2.3.

    Args:
        depth: layers.
        tokens: most tokens given; a longer cell's neighbours are averaged until it has that many.
        dropout: share of each subword's vector that is zeroed while training.
        vectors: a word2vec (text or binary) or GloVe file to start from; needed while fitting only.
        most_words: how many words of that file are read.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> tokens [P, min(T, tokens), D]

    Cost:
        size * D + 6 D^2 parameters a layer and more; T steps one after the other.
    """


@encoders("text-lstm")
class TextLstm(TextRecurrent):
    """A bidirectional LSTM over the subwords: a token for each of them.

    A third more arithmetic than `text-gru` and seldom better; it keeps more over long distances.
    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory".

    Args:
        depth: layers.
        tokens: most tokens given; a longer cell's neighbours are averaged until it has that many.
        dropout: share of each subword's vector that is zeroed while training.
        vectors: a word2vec (text or binary) or GloVe file to start from; needed while fitting only.
        most_words: how many words of that file are read.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> tokens [P, min(T, tokens), D]

    Cost:
        size * D + 8 D^2 parameters a layer and more; T steps one after the other.
    """

    cell = "lstm"


@encoders("text-transformer")
class TextTransformer(TextEncoder):
    """A small Transformer over the subwords: a token for each of them.

    Any two words meet in one layer, and a graphics processor works on all at once. With few short rows `text-gru`
    learns faster.
    Source: Vaswani et al. 2017, "Attention Is All You Need"; the blocks are normalised first.

    Args:
        depth: layers.
        heads: of the attention; the largest number up to it that divides D.
        tokens: most tokens given; a longer cell's neighbours are averaged until it has that many.
        dropout: share zeroed while training, of the subwords' vectors and inside the layers.
        vectors: a word2vec (text or binary) or GloVe file to start from; needed while fitting only.
        most_words: how many words of that file are read.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> tokens [P, min(T, tokens), D]

    Cost:
        size * D + 12 D^2 parameters a layer and more; quadratic in T.
    """

    def __init__(
        self,
        codec: Text,
        width: int,
        *,
        depth: int = 2,
        heads: int = 4,
        tokens: int = 64,
        dropout: float = 0.2,
        vectors: str | None = None,
        most_words: int = 400_000,
    ):
        super().__init__(codec, width, tokens=tokens, dropout=dropout, vectors=vectors, most_words=most_words)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        mask = x["mask"]
        _, embedded = self.embed(x)
        placed = embedded + positions(mask.shape[1], self.width, mask.device) * self.width**-0.5
        *earlier, last = self.transformer.states(placed, mask)
        return self.squeezed(last, mask, *earlier)
