"""The n-grams of text, by their hashes: words and pairs of neighbours, and pieces of words, in any script."""

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.layers import Fitted
from .codec import UNSPACED

_ROW_BITS = np.uint64(12)  # a chunk's rows are numbered in as many bits
PIECES = (3, 4, 5)  # characters of a piece of a word
_SEEN = 3  # cells that have to hold an n-gram, where there are hundreds

_SPACE, _LETTER, _WORD, _SIGN, _NOTHING = range(5)  # what a character is; _WORD: a word by itself
_CALLS = "!?¡¿！？؟"  # they tell the mood of a text
_PLANES = 0x40000  # code points; behind them lie no letters
_BASE, _PAIR = 0x9E3779B97F4A7C15, np.uint64(0xD6E8FEB86659FD93)  # odd numbers without a pattern


# -- the terms ----------------------------------------------------------------------------------------------------


class Terms(Fitted):
    """The n-grams of one kind that are known, by their hashes, and what each weighs.

    Args:
        ngrams: finds them: text -> the row and the hash of each.
        most: how many are kept.
        power: of the inverse document frequency.
    """

    terms: Tensor
    weight: Tensor

    def __init__(self, ngrams: Callable[["Characters"], tuple[np.ndarray, np.ndarray]], most: int, power: float):
        super().__init__()
        self.ngrams, self.most, self.power = ngrams, most, power
        self.register_buffer("terms", torch.zeros(0, dtype=torch.int64))  # ascending
        self.register_buffer("weight", torch.zeros(0))

    def __len__(self) -> int:
        return len(self.terms)

    def fit(self, chunks: list[list[str]]) -> None:
        cells = sum(map(len, chunks))
        each = [counted(*self.ngrams(characters(c)))[1] for c in chunks]
        terms, seen = np.unique(np.concatenate([*each, np.zeros(0, np.int64)]), return_counts=True)
        enough = np.flatnonzero(seen >= min(_SEEN, 1 + cells // 100))  # of few cells there is nothing to spare
        kept = np.sort(enough[np.argsort(-seen[enough], kind="stable")[: self.most]])
        rarity = np.log((cells + 1) / (seen[kept] + 1)) + 0.5
        self.terms, self.weight = torch.from_numpy(terms[kept]), torch.from_numpy(rarity**self.power).float()

    def count(self, text: "Characters") -> Any:
        """[cells, terms] sparse float32: one plus the logarithm of the count, times the weight, in rows of length 1."""
        import scipy.sparse as sp

        shape = (text.cells, len(self))
        if not len(self):
            return sp.csr_matrix(shape, dtype=np.float32)
        terms, weight = self.terms.cpu().numpy(), self.weight.cpu().numpy()
        rows, found, counts = counted(*self.ngrams(text))
        at = np.searchsorted(terms, found).clip(max=len(terms) - 1)
        known = terms[at] == found
        rows, at = rows[known], at[known]
        value = (1.0 + np.log(counts[known])) * weight[at]
        value /= np.sqrt(np.bincount(rows, value**2, text.cells))[rows]
        return sp.csr_matrix((value.astype(np.float32), (rows, at)), shape)


def counted(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each different n-gram of each row: its row, its hash (52 bits, int64; ascending) and how often it is there."""
    low = (np.uint64(1) << _ROW_BITS) - np.uint64(1)
    both = np.sort((hashes & ~low) | rows.astype(np.uint64))  # one number to sort, not two
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(both)), bool), both[1:] != both[:-1]]))
    counts = np.diff(np.append(first, len(both)))
    return (both[first] & low).astype(np.int64), (both[first] >> _ROW_BITS).astype(np.int64), counts


# -- the characters -----------------------------------------------------------------------------------------------


class Characters(NamedTuple):
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


def characters(texts: list[str]) -> Characters:
    joined = "\0".join(["", *texts, ""]).lower()
    code = np.frombuffer(joined.encode("utf-32-le", "replace"), "<u4").astype(np.int64)
    kind = _kinds()[np.minimum(code, _PLANES - 1)]
    code, kind = code[kind != _NOTHING], kind[kind != _NOTHING]
    row = np.cumsum(code == 0) - 1
    code[kind == _SPACE] = 0  # all spaces are alike
    power, inverse = (_powers(base, len(code) + 1) for base in (_BASE, pow(_BASE, -1, 2**64)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(code.astype(np.uint64) + np.uint64(1)) * power[:-1])])
    return Characters(kind, row, len(texts), sums, inverse)


def words_of(text: Characters) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of neighbours of one cell: rows, hashes."""
    starts = np.flatnonzero(word_starts(text.kind))
    ends = np.flatnonzero(word_starts(text.kind[::-1])[::-1]) + 1
    rows, words = text.row[starts], text.stretch(starts, ends)
    inside = rows[1:] == rows[:-1]
    pairs = _mixed(words[:-1] * _PAIR + words[1:])[inside]
    return np.concatenate([rows, rows[1:][inside]]), np.concatenate([words, pairs])


def word_starts(kind: np.ndarray) -> np.ndarray:
    """Where a word starts: a letter after something else, or a character that is a word."""
    letter = kind == _LETTER
    starts = kind == _WORD
    starts[1:] |= letter[1:] & ~letter[:-1]
    return starts


def pieces_of(text: Characters) -> tuple[np.ndarray, np.ndarray]:
    """All pieces of 3 to 5 characters between spaces, these included where they touch: rows, hashes."""
    spaces = np.concatenate([[0], np.cumsum(text.kind == _SPACE)])
    rows, hashes = [], []
    for size in PIECES:
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
