"""Several labels in a cell: a multi-label target, or tags as an input."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import Codec, Draws, Encoded, Encoder, Value, codecs, encoders
from ..core.layers import Mlp
from ..core.names import read_names


@codecs("labels")
class LabelsCodec(Codec):
    """A set of labels: a list, a JSON list, or text with a separator.

    An empty list is an answer (none of the labels); an empty cell is missing. A label not seen in training is ignored.
    Source: ours.

    Args:
        separator: between labels of a text; "" = the most common of | ; , among the training rows.
    Shapes:
        cell -> "hot" float32 [C], C the labels seen in training
    """

    encoder = "labels-mlp"
    untrained = "labels-hot"

    def __init__(self, column: str, *, separator: str = ""):
        super().__init__(column)
        self.given, self.separator = separator, separator or "|"
        self.values: list[str] = []

    @classmethod
    def examples(cls) -> list[Any]:
        return [["red", "round"], '["blue"]', [], ["red", "blue", "größer"]]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        if not sample:
            return 0.0
        if all(isinstance(v, list) and all(isinstance(x, str) for x in v) for v in sample):
            return 0.6
        return 0.0

    def read(self, raw: Any) -> list[str] | str | None:
        """-> labels, or the text that `clean` cuts at the separator `fit` found."""
        return read_names(self, raw, "labels", '["red", "round"] or red|round')

    def fit(self, values: Iterator[list[str] | str]) -> None:
        kept = list(values)
        marks = Counter(m for v in kept if isinstance(v, str) for m in "|;," if m in v)
        self.separator = self.given or (marks.most_common(1)[0][0] if marks else "|")
        self.values = sorted({label for v in kept for label in self._cut(v)})

    def _cut(self, value: list[str] | str) -> list[str]:
        parts = value.split(self.separator) if isinstance(value, str) else value
        return [p.strip() for p in parts if p.strip()]

    def clean(self, value: list[str] | str) -> Value:
        found = set(self._cut(value))
        return {"hot": np.array([v in found for v in self.values], np.float32)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Each label of the set becomes any label with probability `level`: at 1 the set is a random one, about as large."""
        hot = x["hot"]
        if not level or not hot.numel():
            return x
        u = draws.uniform(hot.shape[1], 2).to(hot.device)
        moved = (hot > 0) & (u[..., 0] < level)
        place = (u[..., 1] * hot.shape[1]).long().clamp(max=hot.shape[1] - 1)
        return {"hot": hot.masked_fill(moved, 0.0).scatter_reduce(1, place, moved.to(hot.dtype), "amax")}

    def filler(self) -> Value:
        return {"hot": np.zeros(len(self.values), np.float32)}

    def state(self) -> dict[str, Any]:
        return {"values": self.values, "separator": self.separator}

    def load_state(self, state: dict[str, Any]) -> None:
        self.values, self.separator = list(state["values"]), state["separator"]


@encoders("labels-mlp")
class LabelsMlp(Encoder):
    """The set of labels through a perceptron to one token.

    Source: ours.

    Args:
        dropout: in the hidden layer.
    Shapes:
        hot [P, C] -> tokens [P, 1, D]
    Cost:
        (C + D) * D parameters.
    """

    modality = "labels"

    def __init__(self, codec: LabelsCodec, width: int, *, dropout: float = 0.1):
        super().__init__(codec, width)
        self.out = Mlp(max(1, len(codec.values)), width, width, dropout=dropout)
        self.empty = not codec.values

    def features(self, x: dict[str, Tensor]) -> Encoded:
        hot = x["hot"].new_zeros(len(x["hot"]), 1) if self.empty else x["hot"]
        tokens = self.out(hot).unsqueeze(1)
        return Encoded(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


@encoders("labels-hot")
class LabelsHot(Encoder):
    """One number a label, 1 where it applies, for learners: nothing is trained.

    In a network `labels-mlp` is the better one.
    Source: ours.

    Shapes:
        hot [P, C] -> features [P, 1, C] -> tokens [P, 1, D]
    Cost:
        C * D parameters of the projection.
    """

    modality = "labels"
    frozen = True
    columnar = True

    def __init__(self, codec: LabelsCodec, width: int):
        super().__init__(codec, width)
        self.enter = nn.Linear(max(1, len(codec.values)), width)
        self.empty = not codec.values

    def features(self, x: dict[str, Tensor]) -> Encoded:
        hot = (x["hot"].new_zeros(len(x["hot"]), 1) if self.empty else x["hot"]).float().unsqueeze(1)
        return Encoded(hot, torch.ones(hot.shape[:2], dtype=torch.bool, device=hot.device))

    def project(self, encoded: Encoded) -> Tensor:
        return self.enter(encoded.x)
