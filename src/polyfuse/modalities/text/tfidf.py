"""Text to one vector without training: its words, pairs of words and pieces of words are counted, weighed and reduced."""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...core import Encoded, Encoder, RecipeError, encoders
from ...core.layers import Fitted
from .codec import UNSPACED, Text

_CELLS = 16384  # cells that are learned from: a sample of all
_CHUNK = 1024  # cells that are counted at a time
_ROW_BITS = np.uint64(12)  # a chunk's rows are numbered in as many bits
_SHORT = 12  # words of a cell: up to so many on average, pieces of words are counted too
_PIECES = (3, 4, 5)  # characters of a piece of a word
_SEEN = 3  # cells that have to hold an n-gram, where there are hundreds
_ITERATIONS = 3  # of the power method
_WEAKEST = 1e-2  # of the strongest direction's strength: a weaker one is noise
_FEW = 1000  # cells of which a direction is lifted half way to the strength of the strongest

_SPACE, _LETTER, _WORD, _SIGN, _NOTHING = range(5)  # what a character is; _WORD: a word by itself
_CALLS = "!?¡¿！？؟"  # they tell the mood of a text
_PLANES = 0x40000  # code points; behind them lie no letters
_BASE, _PAIR = 0x9E3779B97F4A7C15, np.uint64(0xD6E8FEB86659FD93)  # odd numbers without a pattern


@encoders("text-tfidf")
class TextTfidf(Fitted, Encoder):
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

    modality = "text"
    frozen = True
    directions: Tensor

    def __init__(self, codec: Text, width: int, *, dims: int = 256, terms: int = 10_000, pieces: bool | None = None):
        super().__init__(codec, width)
        for option, value in (("dims", dims), ("terms", terms)):
            if not isinstance(value, int) or value < 1:
                raise RecipeError(f"column '{codec.column}', option '{option}'", f"is {value!r}", expected="a whole number from 1 on")
        self.codec, self.dims, self.with_pieces = codec, dims, pieces
        self.words, self.pieces = _Terms(_words, terms, power=2.0), _Terms(_pieces, terms, power=1.0)
        self.register_buffer("directions", torch.zeros(0, dims, dtype=torch.float16))  # [terms of both, F]
        self.out = nn.Linear(dims, width)

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        texts = self._texts(_sample(stream))
        chunks = [texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK)]
        self.words.fit(chunks)
        with_pieces = self.with_pieces
        if with_pieces is None:
            with_pieces = sum(_starts(_characters(c).kind).sum() for c in chunks) <= _SHORT * len(texts)
        self.pieces.fit(chunks if with_pieces else [])
        self.directions = self._main_directions(chunks)

    def _main_directions(self, chunks: list[list[str]]) -> Tensor:
        import scipy.sparse as sp
        from sklearn.utils.extmath import randomized_svd

        size = len(self.words) + len(self.pieces)
        directions = np.zeros((size, self.dims), np.float32)
        if size:
            counts = sp.vstack([self._counts(_characters(c)) for c in chunks], format="csr")
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
            out[at : at + _CHUNK] = self._counts(_characters(self._texts(rows[at : at + _CHUNK]))) @ directions
        return Encoded(torch.from_numpy(out).to(x["ids"].device).unsqueeze(1), x["mask"].any(1, keepdim=True))

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)

    def _texts(self, rows: list[np.ndarray]) -> list[str]:
        return [t.replace("\0", " ") for t in self.codec.tokenizer.decode_batch([r.tolist() for r in rows])]

    def _counts(self, text: "_Characters") -> Any:
        """[cells, terms of both] sparse: the words and the pieces of each cell, weighed to length 1 each."""
        import scipy.sparse as sp

        return sp.hstack([self.words.count(text), self.pieces.count(text)], format="csr")


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


# -- the terms ----------------------------------------------------------------------------------------------------


class _Terms(Fitted):
    """The n-grams of one kind that are known, by their hashes, and what each weighs.

    Args:
        ngrams: finds them: text -> the row and the hash of each.
        most: how many are kept.
        power: of the inverse document frequency.
    """

    terms: Tensor
    weight: Tensor

    def __init__(self, ngrams: Callable[["_Characters"], tuple[np.ndarray, np.ndarray]], most: int, power: float):
        super().__init__()
        self.ngrams, self.most, self.power = ngrams, most, power
        self.register_buffer("terms", torch.zeros(0, dtype=torch.int64))  # ascending
        self.register_buffer("weight", torch.zeros(0))

    def __len__(self) -> int:
        return len(self.terms)

    def fit(self, chunks: list[list[str]]) -> None:
        cells = sum(map(len, chunks))
        each = [_counted(*self.ngrams(_characters(c)))[1] for c in chunks]
        terms, seen = np.unique(np.concatenate([*each, np.zeros(0, np.int64)]), return_counts=True)
        enough = np.flatnonzero(seen >= min(_SEEN, 1 + cells // 100))  # of few cells there is nothing to spare
        kept = np.sort(enough[np.argsort(-seen[enough], kind="stable")[: self.most]])
        rarity = np.log((cells + 1) / (seen[kept] + 1)) + 0.5
        self.terms, self.weight = torch.from_numpy(terms[kept]), torch.from_numpy(rarity**self.power).float()

    def count(self, text: "_Characters") -> Any:
        """[cells, terms] sparse float32: one plus the logarithm of the count, times the weight, in rows of length 1."""
        import scipy.sparse as sp

        shape = (text.cells, len(self))
        if not len(self):
            return sp.csr_matrix(shape, dtype=np.float32)
        terms, weight = self.terms.cpu().numpy(), self.weight.cpu().numpy()
        rows, found, counts = _counted(*self.ngrams(text))
        at = np.searchsorted(terms, found).clip(max=len(terms) - 1)
        known = terms[at] == found
        rows, at = rows[known], at[known]
        value = (1.0 + np.log(counts[known])) * weight[at]
        value /= np.sqrt(np.bincount(rows, value**2, text.cells))[rows]
        return sp.csr_matrix((value.astype(np.float32), (rows, at)), shape)


def _counted(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each different n-gram of each row: its row, its hash (52 bits, int64; ascending) and how often it is there."""
    low = (np.uint64(1) << _ROW_BITS) - np.uint64(1)
    both = np.sort((hashes & ~low) | rows.astype(np.uint64))  # one number to sort, not two
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(both)), bool), both[1:] != both[:-1]]))
    counts = np.diff(np.append(first, len(both)))
    return (both[first] & low).astype(np.int64), (both[first] >> _ROW_BITS).astype(np.int64), counts


# -- the characters -----------------------------------------------------------------------------------------------


class _Characters(NamedTuple):
    """The characters of some cells in one row, a space in front of each cell and behind the last.

    kind [L] uint8; row [L] int64, the cell of each (of a space, the one it stands before); cells, how many there are.
    sums [L + 1] and inverse [L + 1] uint64 give the hash of any stretch: `stretch`.
    """

    kind: np.ndarray
    row: np.ndarray
    cells: int
    sums: np.ndarray
    inverse: np.ndarray

    def stretch(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The hashes of the characters from `start` to before `end`, wherever they stand: polynomials modulo 2^64."""
        return _mixed((self.sums[end] - self.sums[start]) * self.inverse[start])


def _characters(texts: list[str]) -> _Characters:
    joined = "\0".join(["", *texts, ""]).lower()
    code = np.frombuffer(joined.encode("utf-32-le", "replace"), "<u4").astype(np.int64)
    kind = _kinds()[np.minimum(code, _PLANES - 1)]
    code, kind = code[kind != _NOTHING], kind[kind != _NOTHING]
    row = np.cumsum(code == 0) - 1
    code[kind == _SPACE] = 0  # all spaces are alike
    power, inverse = (_powers(base, len(code) + 1) for base in (_BASE, pow(_BASE, -1, 2**64)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(code.astype(np.uint64) + np.uint64(1)) * power[:-1])])
    return _Characters(kind, row, len(texts), sums, inverse)


def _words(text: _Characters) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of neighbours of one cell: rows, hashes."""
    starts = np.flatnonzero(_starts(text.kind))
    ends = np.flatnonzero(_starts(text.kind[::-1])[::-1]) + 1
    rows, words = text.row[starts], text.stretch(starts, ends)
    inside = rows[1:] == rows[:-1]
    pairs = _mixed(words[:-1] * _PAIR + words[1:])[inside]
    return np.concatenate([rows, rows[1:][inside]]), np.concatenate([words, pairs])


def _starts(kind: np.ndarray) -> np.ndarray:
    """Where a word starts: a letter after something else, or a character that is a word."""
    letter = kind == _LETTER
    starts = kind == _WORD
    starts[1:] |= letter[1:] & ~letter[:-1]
    return starts


def _pieces(text: _Characters) -> tuple[np.ndarray, np.ndarray]:
    """All pieces of 3 to 5 characters between spaces, these included where they touch: rows, hashes."""
    spaces = np.concatenate([[0], np.cumsum(text.kind == _SPACE)])
    rows, hashes = [], []
    for size in _PIECES:
        start = np.arange(max(0, len(text.kind) - size + 1))
        start = start[spaces[start + size - 1] == spaces[start + 1]]  # no space inside
        rows.append(text.row[start + 1])
        hashes.append(text.stretch(start, start + size))
    return np.concatenate(rows), np.concatenate(hashes)


@cache
def _kinds() -> np.ndarray:
    """[code points] uint8: what each character is to the counting."""
    return np.fromiter((_kind(chr(code)) for code in range(_PLANES)), np.uint8, _PLANES)


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":  # joiners, soft hyphens, variants of an emoji
        return _NOTHING
    if category[0] in "LMN":
        return _WORD if UNSPACED.match(character) else _LETTER
    if category == "So" or character in _CALLS:
        return _WORD
    if category == "Pc":  # _ and its like
        return _LETTER
    return _SPACE if category[0] == "Z" or category == "Cc" else _SIGN


def _powers(base: int, count: int) -> np.ndarray:
    """base^0 ... base^(count - 1) modulo 2^64."""
    out = np.full(count, base, np.uint64)
    out[0] = 1
    return np.multiply.accumulate(out)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Numbers spread over all 64 bits (the finaliser of SplitMix64: Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
