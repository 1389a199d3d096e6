"""Word vectors from a file, brought to the subwords of a column. Reads word2vec (text and binary) and GloVe itself."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...core import DataError
from .codec import Text

_MOST_NUMBERS, _MOST_BYTES = 4096, 1000  # of one vector, of one word: beyond these a file is no file of word vectors
_CHUNK = 8192
_HEADER = re.compile(rb"\d{1,10} \d{1,6}\s*\Z")


def read_word_vectors(path: str, most: int) -> Iterator[tuple[str, np.ndarray]]:
    """The first `most` words of a file with their vectors (float32 [K]), one at a time.

    Formats: word2vec's text (a line "words numbers", then a word and its numbers a line), its binary form (the
    same first line, then word, space, little-endian float32), and GloVe's text (no first line). Files are sorted
    by frequency as a rule, so the first words are the useful ones.

    Raises:
        DataError: the file is missing, cut off, or holds something else; it names the word's place.
    """
    where = f"word vectors {path}"
    try:
        with open(path, "rb") as file:
            first = _line(file, where)
            if not _HEADER.match(first):
                file.seek(0)
                yield from _text(file, where, len(first.decode("utf-8", "replace").split()) - 1, None, most)
                return
            words, size = map(int, first.split())
            start = file.tell()
            binary = _is_binary(file, size)
            file.seek(start)
            yield from (_binary if binary else _text)(file, where, size, words, most)
    except OSError as error:
        raise DataError(where, f"cannot be read ({error.strerror})", expected="a word2vec or GloVe file") from None


def _line(file: BinaryIO, where: str) -> bytes:
    line = file.readline(_MOST_NUMBERS * 32 + _MOST_BYTES)
    if not line:
        raise DataError(where, "is empty", expected="a word2vec or GloVe file")
    return line


def _is_binary(file: BinaryIO, size: int) -> bool:
    line = file.readline(size * 32 + _MOST_BYTES)
    try:
        _numbers(line.decode("utf-8").rstrip("\r\n ").rsplit(" ", size)[1:], size)
    except (UnicodeDecodeError, ValueError):
        return True
    return False


def _text(file: BinaryIO, where: str, size: int, words: int | None, most: int) -> Iterator[tuple[str, np.ndarray]]:
    _check_size(where, size)
    place = 0
    while place < most:
        line = file.readline(size * 32 + _MOST_BYTES)
        if not line.strip():
            break
        place += 1
        try:
            word, *numbers = line.decode("utf-8").rstrip("\r\n ").rsplit(" ", size)  # GloVe has words with spaces in them
            vector = _numbers(numbers, size)
        except (UnicodeDecodeError, ValueError):
            raise _broken(where, place, f"a word and {size} finite numbers") from None
        yield word, vector
    _check_count(where, place, words, most)


def _binary(file: BinaryIO, where: str, size: int, words: int, most: int) -> Iterator[tuple[str, np.ndarray]]:
    _check_size(where, size)
    buffer, at = b"", 0
    for place in range(1, min(words, most) + 1):
        if len(buffer) - at < _MOST_BYTES + 1 + 4 * size:
            buffer, at = buffer[at:] + file.read(1 << 20), 0
        space = buffer.find(b" ", at, at + _MOST_BYTES)
        if len(buffer) == at or len(buffer) < space + 1 + 4 * size:
            raise _cut_off(where, place - 1, words)
        word, end = buffer[at:space].lstrip(b"\n"), space + 1 + 4 * size
        vector = np.frombuffer(buffer[space + 1 : end], "<f4").astype(np.float32)
        if space < 0 or not np.isfinite(vector).all():
            raise _broken(where, place, f"a word and {size} finite float32 numbers")
        yield word.decode("utf-8", "replace"), vector
        at = end


def _numbers(fields: list[str], size: int) -> np.ndarray:
    vector = np.array(fields, np.float32)
    if len(vector) != size or not np.isfinite(vector).all():
        raise ValueError
    return vector


def _check_size(where: str, size: int) -> None:
    if not 1 <= size <= _MOST_NUMBERS:
        raise DataError(where, f"has {size} numbers a word", expected=f"1 to {_MOST_NUMBERS}; a word2vec or GloVe file")


def _check_count(where: str, found: int, promised: int | None, most: int) -> None:
    if promised is not None and found < min(promised, most):
        raise _cut_off(where, found, promised)


def _broken(where: str, place: int, expected: str) -> DataError:
    return DataError(where, f"cannot be read at its word {place}", expected=expected, fix="fetch the file again")


def _cut_off(where: str, found: int, promised: int) -> DataError:
    return DataError(where, f"is cut off: its first line promises {promised} words, {found} are there", fix="fetch the file again")


def subword_vectors(codec: Text, path: str, width: int, most: int) -> tuple[Tensor, Tensor]:
    """Vectors for the codec's subwords, from those of words.

    A subword that is a word of the file gets that word's vector, any other the mean over the words that contain
    it, each weighed by one over its number of subwords. More numbers than `width` are reduced to the main
    directions (principal components), fewer are filled up with zeros.

    Shapes:
        -> found [size] bool, vectors [number found, width], all entries together of mean square 1
    """
    total: np.ndarray | None = None
    weight = np.zeros(codec.size)
    whole = np.zeros(codec.size, bool)
    pairs = read_word_vectors(path, most)
    while chunk := list(islice(pairs, _CHUNK)):
        if total is None:
            total = np.zeros((codec.size, len(chunk[0][1])))
        for pieces, (_, vector) in zip(codec.words(word for word, _ in chunk), chunk, strict=True):
            if len(pieces) == 1 and not whole[pieces[0]]:  # of "Dress" and "dress" the more frequent comes first
                whole[pieces[0]], weight[pieces[0]], total[pieces[0]] = True, 1.0, vector
            elif len(pieces) > 1:
                free = np.array([p for p in pieces if not whole[p]], np.int64)
                np.add.at(total, free, vector / len(pieces))
                np.add.at(weight, free, 1.0 / len(pieces))
    found = weight > 0
    if total is None or not found.any():
        raise DataError(f"word vectors {Path(path)}", "have no word that the column could use", expected="words in the column's language")
    vectors = total[found] / weight[found, None]
    vectors -= vectors.mean(0)
    if vectors.shape[1] > width:
        _, directions = np.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ directions[:, ::-1][:, :width]
    vectors = np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    vectors /= max(float(np.sqrt((vectors**2).mean())), 1e-12)
    return torch.from_numpy(found), torch.from_numpy(vectors.astype(np.float32))
