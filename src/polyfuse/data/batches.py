"""A prepared table as batches: any rows, in an order that is a function of the seed and the epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import Batch, Cells, Codec, Draws
from .store import Prepared, PreparedTable

_MOST_HIDDEN = 0.9  # a view that no validation row has must still be learned: other tables may have it


@dataclass
class Dataset:
    """What a learner trains on: views and targets of one table, all rows prepared.

    Args:
        views: {view: its prepared cells}.
        targets: {target: its prepared cells}.
        codecs: {view: its codec}, for augmentation.
        size: rows of the table.
        weight: [size] float32 weight of each row in the loss, or None.
    """

    views: dict[str, Prepared | PreparedTable]
    targets: dict[str, Prepared]
    codecs: dict[str, Codec]
    size: int
    weight: np.ndarray | None = None

    def present(self, rows: np.ndarray | None = None) -> np.ndarray:
        """[rows, views] bool: which views each row has."""
        full = np.stack([v.present for v in self.views.values()], 1)
        return full if rows is None else full[rows]

    def drop_rates(self, rows: np.ndarray, held: np.ndarray, drop: float) -> dict[str, float]:
        """{view: chance to hide it from a training row that has it}: `drop`, or more where the rows it is judged on lack it more often.

        With a share m of the training rows and h of the held-out rows `held` lacking a view, it is hidden with chance
        max(drop, (h - m) / (1 - m)), so that training sees it absent at least as often as those do (h counts as at most 0.9).
        What a table lacks by itself takes nothing off: hiding also keeps views from leaning on one another.

        Source: ours; hiding whole modalities is after Neverova et al. 2016, "ModDrop".
        """
        if not drop or len(self.views) < 2:
            return dict.fromkeys(self.views, 0.0)
        lacking = 1.0 - self.present(rows).mean(0)
        judged = np.minimum(1.0 - self.present(held).mean(0), _MOST_HIDDEN) if len(held) else np.zeros(len(self.views))
        return {v: float(max(drop, (h - m) / (1.0 - m))) if m < 1.0 else 0.0 for v, h, m in zip(self.views, judged, lacking)}

    def batch(
        self,
        rows: np.ndarray,
        draws: tuple[int, int] | None = None,
        drop: float | dict[str, float] = 0.0,
        absent: Sequence[Sequence[str]] = (),
        absent_share: float = 0.5,
    ) -> Batch:
        """The collated batch of these rows.

        Args:
            rows: [B] row numbers.
            draws: (seed, epoch) while training: cells are augmented and views hidden; None = as they are.
            drop: chance that a present view is hidden from a row (modality dropout), one figure or one a view.
                A row always keeps one of the views it has.
            absent: patterns of absence, each the names of the views that are hidden together.
            absent_share: chance that a row is shown under one of these patterns, each as likely as the others: it lacks
                exactly its views and is spared by `drop`. A row that would have nothing left is shown as it is.
        """
        cells = {name: view.cells(rows) for name, view in self.views.items()}
        if draws is not None:
            cells = self._hide(cells, rows, draws, drop, absent, absent_share)
            for name, c in cells.items():
                if len(c.rows):
                    chance = Draws(*draws, name, rows[c.rows.numpy()])
                    cells[name] = Cells(self.codecs[name].augment(c.x, chance), c.rows, c.size)
        cells |= {name: target.cells(rows) for name, target in self.targets.items()}
        weight = None if self.weight is None else torch.from_numpy(self.weight[rows])
        return Batch(cells, len(rows), weight)

    def _hide(
        self,
        cells: dict[str, Cells],
        rows: np.ndarray,
        draws: tuple[int, int],
        drop: float | dict[str, float],
        absent: Sequence[Sequence[str]],
        absent_share: float,
    ) -> dict[str, Cells]:
        rates = [drop.get(v, 0.0) if isinstance(drop, dict) else drop for v in cells]
        if len(cells) < 2 or not (any(rates) or absent):
            return cells
        u = Draws(*draws, "modality dropout", rows).uniform(len(cells))  # [B, V]
        present = torch.stack([c.present() for c in cells.values()], 1)
        kept = present & (u >= torch.tensor(rates))
        lost = ~kept.any(1) & present.any(1)  # the row would have nothing: it keeps the view with the largest draw
        best = u.masked_fill(~present, -1.0).argmax(1)
        kept[lost, best[lost]] = True
        if absent:
            hidden = _patterns(rows, draws, list(cells), absent, absent_share)
            shown = hidden.any(1) & (present & ~hidden).any(1)
            kept[shown] = (present & ~hidden)[shown]
        return {name: c.keep(kept[c.rows, v]) for v, (name, c) in enumerate(cells.items())}


def _patterns(rows: np.ndarray, draws: tuple[int, int], views: list[str], absent: Sequence[Sequence[str]], share: float) -> torch.Tensor:
    """[B, V] bool: what the pattern drawn for each row hides; nothing where none was drawn."""
    u = Draws(*draws, "patterns of absence", rows).uniform(2)
    hidden = torch.tensor([[view in pattern for view in views] for pattern in absent])  # [patterns, V]
    which = (u[:, 1] * len(absent)).long().clamp(max=len(absent) - 1)
    return hidden[which] & (u[:, :1] < share)


def orders(rows: np.ndarray, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The batches of one epoch: `rows` shuffled by (seed, epoch), cut into pieces of `size`."""
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    return (order[at : at + size] for at in range(0, len(order), size))


@dataclass
class Joined:
    """Two prepared tables behind one row number: the second's rows follow the `size` of the first."""

    first: Prepared | PreparedTable
    second: Prepared | PreparedTable
    size: int

    @property
    def key(self) -> str:
        return f"{self.first.key}+{self.second.key}"

    @property
    def present(self) -> np.ndarray:
        return np.concatenate([self.first.present, self.second.present])

    def cells(self, rows: np.ndarray) -> Cells:
        """Rows of one of the two, or of the first and then of the second, as targets are asked for; a batch of views is never mixed."""
        first = rows < self.size
        if first.all():
            return self.first.cells(rows)
        if not first.any():
            return self.second.cells(rows - self.size)
        one, two = self.first.cells(rows[first]), self.second.cells(rows[~first] - self.size)
        x = {k: torch.cat([one.x[k], two.x[k]]) for k in one.x}
        return Cells(x, torch.cat([one.rows, two.rows + one.size]), len(rows))
