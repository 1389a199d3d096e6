"""The view `table`: all numbers, categories, dates and ids of a row as one cell, encoded in one batched operation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codec import Codec, Value
from .draws import Draws
from .errors import DataError


class TabularCodec(Codec):
    """A codec whose cell is a few numbers or one index, and which therefore joins the view `table`.

    Attributes:
        numbers: how many floats a cleaned value holds under "value" (float32 [numbers]); 0 for none.
        cardinality: how many indices exist under "index" (int64 [1], 0 .. cardinality - 1); 0 for none.
    """

    tabular = True
    numbers: int = 0
    cardinality: int = 0

    def read_column(self, array: Any) -> tuple[Any, np.ndarray, dict[int, DataError]]:
        """`read` of every cell of an Arrow column: values [n] (None where absent), present [n], refused {row: error}."""
        values, present, refused = [], np.zeros(len(array), bool), {}
        for row, raw in enumerate(v for chunk in array.chunks for v in chunk.to_pylist()):
            try:
                value = self.read(raw)
            except DataError as error:
                value, refused[row] = None, error
            values.append(value)
            present[row] = value is not None
        return values, present, refused

    def clean_many(self, values: Any) -> Value:
        """`clean` of n read values at once: {name: [n, ...]}."""
        cleaned = [self.clean(v) for v in values]
        return {k: np.stack([v[k] for v in cleaned]) for k in cleaned[0]}

    def filler(self) -> Value:
        return ({"value": np.zeros(self.numbers, np.float32)} if self.numbers else {}) | (
            {"index": np.zeros(1, np.int64)} if self.cardinality else {}
        )


class TableCodec(Codec):
    """Packs the members' cleaned values of P rows into three tensors. Made for a view, never declared by a user.

    A value is {member: its cleaned value}; members that are missing in the row are left out.

    Shapes:
        "value" [P, K] floats, K the sum of the members' numbers; "index" [P, C] int64, C the members with a
        cardinality; "present" [P, M] bool, M the members. What lies under an absent member is zero and must be ignored.
    """

    tabular = True
    encoder = "table-mlp"
    untrained = "table-columns"

    def __init__(self, view: str, members: Sequence[TabularCodec]):
        super().__init__(view)
        self.members = list(members)
        self.value_slices: dict[str, slice] = {}
        self.index_columns: dict[str, int] = {}
        at = 0
        for member in self.members:
            if member.numbers:
                self.value_slices[member.column] = slice(at, at + member.numbers)
                at += member.numbers
            if member.cardinality:
                self.index_columns[member.column] = len(self.index_columns)
        self.numbers = at

    @property
    def cardinalities(self) -> list[int]:
        """Of the members that have one, in the order of the columns of "index"."""
        return [m.cardinality for m in self.members if m.cardinality]

    @property
    def number_owner(self) -> Tensor:
        """[K]: which member each column of "value" belongs to."""
        return torch.tensor([i for i, m in enumerate(self.members) for _ in range(m.numbers)], dtype=torch.long)

    @property
    def index_owner(self) -> Tensor:
        """[C]: which member each column of "index" belongs to."""
        return torch.tensor([i for i, m in enumerate(self.members) if m.cardinality], dtype=torch.long)

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Arrays for `rows` rows in which every member is absent."""
        return {
            "value": np.zeros((rows, self.numbers), np.float32),
            "index": np.zeros((rows, len(self.index_columns)), np.int64),
            "present": np.zeros((rows, len(self.members)), bool),
        }

    def collate(self, values: Sequence[dict[str, Value]]) -> dict[str, Tensor]:  # type: ignore[override]
        out = self.empty(len(values))
        for i, row in enumerate(values):
            for m, member in enumerate(self.members):
                value = row.get(member.column)
                if value is None:
                    continue
                out["present"][i, m] = True
                if member.numbers:
                    out["value"][i, self.value_slices[member.column]] = value["value"]
                if member.cardinality:
                    out["index"][i, self.index_columns[member.column]] = value["index"][0]
        return {k: torch.from_numpy(v) for k, v in out.items()}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Each member with an index sees it through its own `augment` (a category is now and then "never seen")."""
        x = dict(x)
        for member in self.members:
            if member.cardinality:
                at = self.index_columns[member.column]
                index = x["index"].clone()
                index[:, at : at + 1] = member.augment({"index": index[:, at : at + 1]}, draws)["index"]
                x["index"] = index
        return x

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Each present member through its own `noise`: level 1 is what it is for the member."""
        if not level:
            return x
        value, index = x["value"].clone(), x["index"].clone()
        for m, member in enumerate(self.members):
            at, of_index = self.value_slices.get(member.column, slice(0, 0)), self.index_columns.get(member.column)
            own = ({"value": value[:, at]} if member.numbers else {}) | ({} if of_index is None else {"index": index[:, of_index, None]})
            noisy, there = member.noise(own, level, draws), x["present"][:, m, None]
            if member.numbers:
                value[:, at] = torch.where(there, noisy["value"], own["value"])
            if of_index is not None:
                index[:, of_index, None] = torch.where(there, noisy["index"], own["index"])
        return {**x, "value": value, "index": index}

    def filler(self) -> dict[str, Any]:
        return {m.column: m.filler() for m in self.members}
