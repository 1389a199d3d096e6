"""Categories: a closed list of values learned from the training rows; what was never seen is a case of its own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Draws, TabularCodec, codecs
from ..core.names import another


@codecs("category")
class CategoryCodec(TabularCodec):
    """One of the values seen in training, or the case "never seen, or too rare".

    While training, a category is now and then taken as never seen, so that the case has a meaning.
    Source: ours.

    Args:
        min_count: a value with fewer training rows is too rare.
        most: only the most frequent values are kept (of a high-cardinality id).
    Shapes:
        cell -> "index" int64 [1]; 0 = never seen, 1 .. = `values` in order
    """

    def __init__(self, column: str, *, min_count: int = 1, most: int = 10000):
        super().__init__(column)
        self.min_count, self.most = min_count, most
        self.values: list[str] = []
        self._index: dict[str, int] = {}

    @property
    def cardinality(self) -> int:  # type: ignore[override]
        return len(self.values) + 1

    @classmethod
    def examples(cls) -> list[Any]:
        return ["red", "blue", "green", "rot", "红"]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        if not sample or any(isinstance(v, list | dict | bytes | np.ndarray | float) for v in sample):
            return 0.0
        if all(isinstance(v, bool) for v in sample):
            return 0.99
        distinct = len({str(v) for v in sample})
        if distinct > max(20, 0.2 * len(sample)) or max(len(str(v)) for v in sample) > 100:
            return 0.2 if distinct < 0.8 * len(sample) else 0.05
        return 0.85 if distinct <= 0.5 * len(sample) or distinct <= 5 else 0.5

    def read(self, raw: Any) -> str | None:
        if raw is None or (isinstance(raw, float | np.floating | np.datetime64) and raw != raw):
            return None
        if isinstance(raw, bool | np.bool_):
            return str(bool(raw)).lower()
        if isinstance(raw, float | np.floating) and float(raw).is_integer():
            raw = int(raw)
        if isinstance(raw, list | dict | set | bytes | np.ndarray | tuple):
            raise self.error(f"holds a {type(raw).__name__}", expected="one value such as a word", fix="declare modality='labels' or 'ids'")
        try:
            return str(raw).encode("utf-8", "replace").decode().strip() or None
        except ValueError:
            raise self.error("holds a number of too many digits", expected="one value such as a word") from None

    def fit(self, values: Iterator[str]) -> None:
        counts = Counter(values)
        kept = [v for v, c in sorted(counts.items(), key=lambda p: (-p[1], p[0])) if c >= self.min_count][: self.most]
        self.values = sorted(kept, key=_natural)
        self._index = {v: i + 1 for i, v in enumerate(self.values)}

    def clean(self, value: str) -> dict[str, np.ndarray]:
        return {"index": np.array([self._index.get(value, 0)], np.int64)}

    def clean_many(self, values: Sequence[str]) -> dict[str, np.ndarray]:
        """{"index": [n, 1]} of n read values."""
        return {"index": np.array([[self._index.get(v, 0)] for v in values], np.int64).reshape(-1, 1)}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        unseen = draws.uniform(1) < 0.02
        return {"index": x["index"].masked_fill(unseen.to(x["index"].device), 0)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Each value becomes another of the known ones with probability `level`: at 1 every one is wrong."""
        if not level:
            return x
        u = draws.uniform(2).to(x["index"].device)
        return {"index": torch.where(u[:, :1] < level, another(x["index"], u[:, 1:], len(self.values)), x["index"])}

    def state(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])
        self._index = {v: i + 1 for i, v in enumerate(self.values)}


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers in their order, then words in theirs."""
    try:
        return (0, float(value), value) if float(value) == float(value) else (1, 0.0, value)
    except ValueError:
        return (1, 0.0, value)
