"""A precomputed embedding per cell: a list of numbers of one fixed length."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import MISSING, Codec, Encoded, Encoder, Layout, RecipeError, Value, codecs, encoders
from ..core.layers import Mlp

_MOST_CHARACTERS = 4_000_000  # of a cell that is a string
_SEPARATORS = re.compile(r"[\s,;]+")
_FARTHEST = 1e4  # standard deviations; beyond, float32 arithmetic in a network overflows
_LENGTHS = 64  # different lengths that `fit` keeps apart

Components = tuple[np.ndarray, np.ndarray]


@codecs("vector")
class Vector(Codec):
    """A list of numbers of one fixed length, standardised component by component.

    For embeddings computed elsewhere and for numbers that belong together, joined from several columns. Where
    the order of the numbers is time, take `series`; for single numbers of different meaning, `number`.
    A cell is a list, an array, or a string such as "[0.5, 1e-3]" or "0.5 0.001". Components that are None, ""
    or a word such as "NA" (a joined column has no number there) are marked as absent; a cell that has no other is missing.
    Source: ours.

    Args:
        length: K; 0 = the most frequent length of the training cells.

    Shapes:
        cleaned {"value": float32 [K], "real": bool [K]} -> collated the same with [P, K]

    Raises:
        DataError: another length, a component that is no finite number, or nested lists.

    Example:
        >>> vector = Vector("embedding")
        >>> vector.fit(vector.read(cell) for cell in ("[1, 2]", "[3, 2]"))
        >>> vector.clean(vector.read([2.0, None]))
        {'value': array([0., 0.], dtype=float32), 'real': array([ True, False])}
    """

    plain = True
    encoder = "vector-mlp"
    untrained = "vector-components"

    def __init__(self, column: str, *, length: int = 0):
        super().__init__(column)
        if not isinstance(length, int) or length < 0:
            raise RecipeError(f"column '{column}', option 'length'", f"is {length!r}", expected="a whole number, 0 = learned")
        self.length = length
        self._use(np.zeros(length or 1), np.ones(length or 1))

    def _use(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]
        self._mean, self._std = mean, std

    @classmethod
    def examples(cls) -> list[Any]:
        return [[0.5, -1.2, 3.0], "[1, 2, 3]", np.array([0.1, 0.2, 0.3]), ["4", None, "-6.5"]]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        lengths: dict[int, int] = {}
        cells = [c for c in sample if not (isinstance(c, str) and not c.strip())]
        for cell in cells:
            if isinstance(cell, str) and not (cell.strip()[0] == "[" and cell.strip()[-1] == "]"):
                continue  # "2 3" may be anything: such a column has to be declared
            found = _parsed(cell)
            if found is not None and len(found) > 1 and np.isfinite(found).all():
                lengths[len(found)] = lengths.get(len(found), 0) + 1
        if not lengths:
            return 0.0
        length, count = max(lengths.items(), key=lambda item: item[1])
        return (0.85 if length >= 8 else 0.6) * (count >= 0.9 * len(cells))

    def read(self, raw: Any) -> Components | None:
        """-> numbers float64 [length of the cell] and which of them are there, bool."""
        if raw is None or isinstance(raw, str) and not raw.strip():
            return None
        real = None
        if isinstance(raw, list | tuple) and len(raw):
            real = np.array([not (c is None or isinstance(c, str) and c.strip().lower() in MISSING) for c in raw], bool)
            if not real.any():
                return None
            raw = [c if there else 0.0 for c, there in zip(raw, real, strict=True)]
        numbers = _parsed(raw)
        if numbers is None:
            raise self.error(
                f"cannot read {_shown(raw)} as a list of numbers",
                expected="one flat list such as [0.5, -1.2]",
                fix="declare another modality where the cells are not vectors",
            )
        if not len(numbers):
            raise self.error("is an empty list", expected="numbers, or an empty cell where the vector is missing")
        finite = np.abs(numbers) <= np.finfo(np.float32).max
        if not finite.all():
            at = int(np.argmin(finite))
            raise self.error(f"has {numbers[at]} as component {at + 1}", expected="finite numbers", fix="empty the component or correct it")
        return numbers, np.ones(len(numbers), bool) if real is None else real

    def fit(self, values: Iterator[Components]) -> None:
        """Learn length, mean and standard deviation."""
        sums: dict[int, _Sums] = {}
        for numbers, real in values:
            if len(sums) < _LENGTHS or len(numbers) in sums:
                sums.setdefault(len(numbers), _Sums(len(numbers))).add(numbers, real)
        if not self.length and sums:
            self.length = max(sums, key=lambda k: sums[k].cells)  # the first one where counts are equal
        self.length = self.length or 1
        self._use(*sums[self.length].mean_std() if self.length in sums else (np.zeros(self.length), np.ones(self.length)))

    def clean(self, value: Components) -> Value:
        numbers, real = value
        if len(numbers) != len(self._mean):
            raise self.error(f"has {len(numbers)} numbers", expected=f"{len(self._mean)} as in the training rows")
        scaled = np.where(real, (numbers - self._mean) / self._std, 0.0)
        return {"value": np.clip(scaled, -_FARTHEST, _FARTHEST).astype(np.float32), "real": real}

    def restore(self, x: Tensor) -> Tensor:
        """Standardised values back in the column's own unit: [..., K] -> [..., K]."""
        return x * x.new_tensor(self.std) + x.new_tensor(self.mean)

    def filler(self) -> Value:
        return {"value": np.zeros(len(self._mean), np.float32), "real": np.ones(len(self._mean), bool)}

    def state(self) -> dict[str, Any]:
        return {"length": self.length, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        self.length = int(state["length"])
        self._use(np.array(state["mean"], np.float64), np.array(state["std"], np.float64))


class _Sums:
    """Mean and deviation of each component in one pass, counted from the first value so that nothing cancels."""

    def __init__(self, length: int):
        self.cells, self.count = 0, np.zeros(length)
        self.shift, self.first, self.second = np.zeros(length), np.zeros(length), np.zeros(length)

    def add(self, numbers: np.ndarray, real: np.ndarray) -> None:
        self.shift = np.where(real & (self.count == 0), numbers, self.shift)
        away = np.where(real, numbers - self.shift, 0.0)
        self.cells += 1
        self.count += real
        self.first += away
        self.second += away * away

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        count = np.maximum(self.count, 1)
        away = self.first / count
        std = np.sqrt(np.maximum(self.second / count - away * away, 0.0))
        mean = self.shift + away
        return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # a constant component stays as it is


def _parsed(raw: Any) -> np.ndarray | None:
    """float64 [K], or None where the cell is no flat list of numbers."""
    try:
        if isinstance(raw, str):
            raw = raw.strip()
            if len(raw) > _MOST_CHARACTERS or "_" in raw:
                return None
            inner = raw[1:-1] if raw[:1] + raw[-1:] in ("[]", "()") else raw
            return np.array([float(part) for part in _SEPARATORS.split(inner.strip(" \t\r\n,;")) if part], np.float64)
        if isinstance(raw, bool | int | float):
            raw = [raw]
        if isinstance(raw, list | tuple):
            if not all(isinstance(c, str | bool | int | float | np.number | np.bool_) for c in raw):
                return None
            return np.array([float(c) for c in raw], np.float64)
        if isinstance(raw, np.ndarray | np.generic) and raw.dtype.kind in "biuf" and raw.ndim <= 1:
            return np.array(raw, np.float64).reshape(-1)
    except (ValueError, OverflowError):  # "1,5x"; an int beyond float64
        return None
    return None


def _shown(raw: Any) -> str:
    return repr(raw if not isinstance(raw, np.ndarray) else f"array {raw.shape} of {raw.dtype}")[:80]


def _inputs(x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Values with zeros where absent, and the flags as numbers: each [P, K]."""
    real = x["real"].bool()
    return x["value"].masked_fill(~real, 0.0), real.to(x["value"].dtype)


@encoders("vector-mlp")
class VectorMlp(Encoder):
    """The whole vector through two layers: one token.

    The default; `vector-tokens` gives attention something to choose from.
    Source: ours; the flags of absent components after Lipton et al. 2016, "Directly Modeling Missing Data".

    Args:
        hidden: width of the hidden layer; 0 = twice D.
        dropout: share of the hidden layer that is zeroed while training.

    Shapes:
        {"value" [P, K], "real" [P, K]} -> tokens [P, 1, D]

    Cost:
        (2 K + D) hidden parameters.
    """

    modality = "vector"

    def __init__(self, codec: Vector, width: int, *, hidden: int = 0, dropout: float = 0.1):
        super().__init__(codec, width)
        self.mlp = Mlp(2 * len(codec.mean), hidden or 2 * width, width, dropout=dropout)
        self.norm = nn.LayerNorm(width)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        value, real = _inputs(x)
        token = self.norm(self.mlp(torch.cat([value, real], 1))).unsqueeze(1)
        return Encoded(token, torch.ones(token.shape[:2], dtype=torch.bool, device=token.device))


@encoders("vector-tokens")
class VectorTokens(Encoder):
    """The vector cut into pieces, each with its own linear layer: several tokens that attention may weigh.

    For long vectors made of parts (several measurements joined) under a fusion by attention.
    Source: ours.

    Args:
        tokens: pieces; fewer where the vector has fewer components.

    Shapes:
        {"value" [P, K], "real" [P, K]} -> tokens [P, min(tokens, K), D]; a piece without any real component is masked

    Cost:
        2 K D + D^2 parameters.
    """

    modality = "vector"

    def __init__(self, codec: Vector, width: int, *, tokens: int = 8):
        super().__init__(codec, width)
        length = len(codec.mean)
        self.piece = -(-length // min(tokens, length))  # components of a piece, the last one filled up with absent ones
        self.most_tokens = -(-length // self.piece)
        self.missing = self.most_tokens * self.piece - length
        self.weight = nn.Parameter(torch.randn(self.most_tokens, 2 * self.piece, width) * (2 * self.piece) ** -0.5)
        self.bias = nn.Parameter(torch.randn(self.most_tokens, width) * 0.1)
        self.out = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        value, real = (nn.functional.pad(t, (0, self.missing)).unflatten(1, (self.most_tokens, self.piece)) for t in _inputs(x))
        tokens = self.out(torch.einsum("pnk,nkd->pnd", torch.cat([value, real], 2), self.weight) + self.bias)
        mask = real.any(2)
        return Encoded(tokens.masked_fill(~mask.unsqueeze(-1), 0.0), mask)


@encoders("vector-components")
class VectorComponents(Encoder):
    """The components as they are, for learners that take numbers themselves: nothing is trained.

    One feature and one flag, whether it is there, a component. In a network `vector-mlp` is the better one.
    Source: ours.

    Shapes:
        {"value" [P, K], "real" [P, K]} -> features [P, 1, 2 K] -> tokens [P, 1, D]

    Cost:
        2 K D parameters of the projection.
    """

    modality = "vector"
    frozen = True
    columnar = True

    def __init__(self, codec: Vector, width: int):
        super().__init__(codec, width)
        length = len(codec.mean)
        self.layout = Layout((0,) * length, tuple(range(length)), length)
        self.enter = nn.Linear(2 * length, width)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        pieces = torch.cat(_inputs(x), 1).unsqueeze(1)
        return Encoded(pieces, torch.ones(pieces.shape[:2], dtype=torch.bool, device=pieces.device))

    def project(self, encoded: Encoded) -> Tensor:
        return self.enter(encoded.x)
