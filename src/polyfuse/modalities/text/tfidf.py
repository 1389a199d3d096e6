"""Text without training: its words, pairs of words and pieces of words are counted and weighed, and reduced to a vector or not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core import Encoded, Encoder, RecipeError, encoders
from ...core.layers import Fitted
from .codec import Text
from .ngrams import PIECES, Characters, Terms, characters, pieces_of, word_starts, words_of

_CELLS = 16384  # cells that are learned from: a sample of all
_CHUNK = 1024  # cells that are counted at a time
_SHORT = 12  # words of a cell: up to so many on average, pieces of words are counted too
_ITERATIONS = 3  # of the power method
_WEAKEST = 1e-2  # of the strongest direction's strength: a weaker one is noise
_FEW = 1000  # cells of which a direction is lifted half way to the strength of the strongest
_BUCKETS = 1024  # vectors that the terms share in a network
_CHARACTERS = 32  # of a subword: more the codec does not read


class _Counting(Fitted, Encoder):
    """What counts the terms of a text: words with pairs of neighbours, and pieces of words.

    Args:
        terms: most words and pairs that are kept, the most frequent ones, and most pieces.
        pieces: whether pieces of words are counted; None = where cells have up to 12 words on average.
    Class attributes:
        power: of the inverse document frequency of words.
    """

    modality = "text"
    frozen = True
    power = 1.0

    def __init__(self, codec: Text, width: int, terms: int, pieces: bool | None):
        super().__init__(codec, width)
        self.codec, self.with_pieces = codec, pieces
        self.check("terms", terms)
        self.words, self.pieces = Terms(words_of, terms, self.power), Terms(pieces_of, terms, 1.0)

    def check(self, option: str, value: object) -> None:
        if not isinstance(value, int) or value < 1:
            raise RecipeError(f"column '{self.codec.column}', option '{option}'", f"is {value!r}", expected="a whole number from 1 on")

    def fit_terms(self, stream: Iterable[dict[str, Tensor]]) -> list[list[str]]:
        """Choose the terms -> the cells they were chosen from, in chunks."""
        texts = self.texts(_sample(stream))
        chunks = [texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK)]
        self.words.fit(chunks)
        with_pieces = self.with_pieces
        if with_pieces is None:
            with_pieces = sum(word_starts(characters(c).kind).sum() for c in chunks) <= _SHORT * len(texts)
        self.pieces.fit(chunks if with_pieces else [])
        return chunks

    def texts(self, rows: list[np.ndarray]) -> list[str]:
        decode = self.codec.tokenizer.decode  # its batches are no faster, and their threads leave up to gigabytes of heap behind
        return [decode(r.tolist()).replace("\0", " ") for r in rows]

    def counts(self, text: Characters) -> Any:
        """[cells, terms of both] sparse: the words and the pieces of each cell, weighed to length 1 each."""
        import scipy.sparse as sp

        return sp.hstack([self.words.count(text), self.pieces.count(text)], format="csr")


@encoders("text-tfidf")
class TextTfidf(_Counting):
    """Words and pairs of neighbours, weighed by how rare they are, in their main directions: one vector, nothing is trained.

    For text whose words say more than their order does, such as reviews and descriptions, and the fastest there is.
    A pretrained encoder is better where order, or words that were never seen, matter.
    A character of a script without spaces, an emoji, ! and ? count as words. Where cells are short, pieces of words
    count too: they see through endings and misspellings. Subwords are decoded first, so that words are whole.
    Source: Deerwester et al. 1990, "Indexing by Latent Semantic Analysis"; the directions after Halko et al. 2011,
    "Finding Structure with Randomness", algorithm 4.4. Ours: the inverse document frequency of words is squared, without
    which the first directions are those of the frequent words; the weak directions are lifted towards the strength of the
    strongest, the more the more cells there are to know them by.

    Args:
        dims: F, how many directions; zeros where the cells have fewer.
        terms: most words and pairs that are kept, the most frequent ones, and most pieces.
        pieces: whether pieces of words are counted; None = where cells have up to 12 words on average.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> features [P, 1, F] -> tokens [P, 1, D]

    Raises:
        RecipeError: an option is out of range.

    Cost:
        2 F bytes a term; `fit` looks at 16384 cells, however many there are.

    Example:
        >>> text, cells = Text("review"), ["red shoes", "red socks", "blue shoes", "blue hat"]
        >>> text.fit(iter(cells))
        >>> x = text.collate(text.clean_many(cells))
        >>> encoder = TextTfidf(text, width=8, dims=16)
        >>> encoder.fit([x])
        >>> encoder.features(x).x.shape
        torch.Size([4, 1, 16])
    """

    power = 2.0
    directions: Tensor

    def __init__(self, codec: Text, width: int, *, dims: int = 256, terms: int = 10_000, pieces: bool | None = None):
        super().__init__(codec, width, terms, pieces)
        self.check("dims", dims)
        self.dims = dims
        self.register_buffer("directions", torch.zeros(0, dims, dtype=torch.float16))  # [terms of both, F]
        self.out = nn.Linear(dims, width)

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        self.directions = self._main_directions(self.fit_terms(stream))

    def _main_directions(self, chunks: list[list[str]]) -> Tensor:
        import scipy.sparse as sp
        from sklearn.utils.extmath import randomized_svd

        size = len(self.words) + len(self.pieces)
        directions = np.zeros((size, self.dims), np.float32)
        if size:
            counts = sp.vstack([self.counts(characters(c)) for c in chunks], format="csr")
            _, strength, found = randomized_svd(counts, min(self.dims, *counts.shape), n_iter=_ITERATIONS, random_state=0)
            rank = int((strength > _WEAKEST * strength[0]).sum())
            # the strongest has a mean square of 1; of few cells the weak ones are mostly noise and stay weak, of many they are lifted
            cells = counts.shape[0]
            lifted = (strength[:rank] / strength[0]) ** (1 / (1 + cells / _FEW))
            directions[:, :rank] = found[:rank].T * (lifted * np.sqrt(cells) / strength[:rank])
        return torch.from_numpy(directions).half()

    def features(self, x: dict[str, Tensor]) -> Encoded:
        rows = _rows(x)
        directions = self.directions.float().cpu().numpy()
        out = np.zeros((len(rows), self.dims), np.float32)
        for at in range(0, len(rows), _CHUNK):
            out[at : at + _CHUNK] = self.counts(characters(self.texts(rows[at : at + _CHUNK]))) @ directions
        return Encoded(torch.from_numpy(out).to(x["ids"].device).unsqueeze(1), x["mask"].any(1, keepdim=True))

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)


@encoders("text-terms")
class TextTerms(_Counting):
    """Words and pairs of neighbours, weighed by how rare they are, every one a column of its own: what a linear learner likes best.

    For `linear-sparse`, to which no word is lost; the presets take it for that. A network gets a token for each, several of
    which share a vector; it does better with `text-tfidf` or `text-bag`.
    Terms are those of `text-tfidf`. Source: Salton and Buckley 1988, "Term-Weighting Approaches in Automatic Text Retrieval";
    for networks the signs of Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning", eq. 1.

    Args:
        terms: most words and pairs that are kept, the most frequent ones, and most pieces.
        pieces: whether pieces of words are counted; None = where cells have up to 12 words on average.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> features [P, N, 2], of each term that a cell has its number and weight -> tokens [P, N, D]

    Raises:
        RecipeError: an option is out of range.

    Cost:
        12 bytes a term; `fit` looks at 16384 cells, however many there are.

    Example:
        >>> text, cells = Text("review"), ["red shoes", "red socks", "blue shoes", "blue hat"]
        >>> text.fit(iter(cells))
        >>> x = text.collate(text.clean_many(cells))
        >>> encoder = TextTerms(text, width=8, pieces=False)
        >>> encoder.fit([x])
        >>> encoder.columns, encoder.features(x).x.shape
        (9, torch.Size([4, 3, 2]))
    """

    sparse = True

    def __init__(self, codec: Text, width: int, *, terms: int = 20_000, pieces: bool | None = None):
        super().__init__(codec, width, terms, pieces)
        self.most_tokens = codec.longest * (2 + len(PIECES) * _CHARACTERS)
        self.vectors = nn.Embedding(_BUCKETS, width)

    @property
    def columns(self) -> int:
        return len(self.words) + len(self.pieces)

    @property
    def terms(self) -> tuple[int, ...]:
        words, pieces = self.words.terms, self.pieces.terms
        return *(words + 1).tolist(), *(-1 - pieces).tolist()  # a piece is not the word that is written alike

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        self.fit_terms(stream)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        rows = _rows(x)
        chunks = [self.counts(characters(self.texts(rows[at : at + _CHUNK]))) for at in range(0, len(rows), _CHUNK)]
        lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(c.indptr) for c in chunks)])
        mask = np.arange(max(lengths.max(initial=0), 1)) < lengths.clip(min=1)[:, None]  # a cell without any: term 0, weight 0
        pairs = np.zeros((*mask.shape, 2), np.float32)
        pairs[mask & (lengths > 0)[:, None]] = np.concatenate(
            [np.zeros((0, 2), np.float32), *(np.stack([c.indices, c.data], 1).astype(np.float32) for c in chunks)]
        )
        device = x["ids"].device
        return Encoded(torch.from_numpy(pairs).to(device), torch.from_numpy(mask).to(device))

    def project(self, encoded: Encoded) -> Tensor:
        number = encoded.x[..., 0].masked_fill(~encoded.mask, 0.0).long()
        sign = 1.0 - 2.0 * (number // _BUCKETS % 2)
        return self.vectors(number % _BUCKETS) * (encoded.x[..., 1] * sign).unsqueeze(-1)


def _rows(x: dict[str, Tensor]) -> list[np.ndarray]:
    """The real ids of each cell."""
    ids, mask = x["ids"].cpu(), x["mask"].cpu()
    return np.split(ids[mask].numpy(), mask.sum(1).cumsum(0).numpy())[:-1]


def _sample(stream: Iterable[dict[str, Tensor]]) -> list[np.ndarray]:
    """The ids of some cells, each of the stream equally likely to be among them."""
    generator = torch.Generator().manual_seed(0)
    kept: list[tuple[float, np.ndarray]] = []
    for x in stream:
        draws = torch.rand(len(x["ids"]), generator=generator).tolist()
        kept += [(draw, ids.copy()) for draw, ids in zip(draws, _rows(x))]  # a view would keep its whole batch
        if len(kept) > 2 * _CELLS:
            kept = sorted(kept, key=lambda pair: pair[0])[:_CELLS]
    return [ids for _, ids in sorted(kept, key=lambda pair: pair[0])[:_CELLS]]
