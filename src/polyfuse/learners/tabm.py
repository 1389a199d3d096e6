"""An ensemble of perceptrons in one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import Inputs, Task, learners
from .descent import Network, descend, duration, seeded
from .needs import missing, need
from .scores import tensors

_PACKAGES = ("tabm", "rtdl_num_embeddings")
_BINS = 32  # of a number
_EMBEDDING = 8  # width of a number's embedding
_MOST_EMBEDDED = 100  # numbers; beyond these they are taken as they are
_PATIENCE = 8


@learners("tabm")
class TabM(Network):
    """Perceptrons that share nearly all their weights, trained side by side, whose probabilities are averaged.

    The strongest network on tables in its authors' comparison, and near boosting; it mixes features where a tree takes them
    one at a time, so that the two err differently and do well together. Slower than `linear` and `boost` on many rows. Numbers
    of a table that has few are embedded piece by piece, so that thresholds are easy to learn.

    Source: Gorishniy, Kotelnikov, Babenko 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling",
    section 3; the embedding after Gorishniy, Rubachev, Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep
    Learning", section 3.2; both in their authors' code.

    Args:
        members: perceptrons.
        width: of their layers.
        depth: hidden layers.
        dropout: in them.
        epochs: most passes over the rows; 0 = chosen from their number.
        rate: highest learning rate of AdamW.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Raises:
        RecipeError: its authors' packages are not installed.
    Cost:
        epochs * rows * members * (F + depth * width) * width.
    """

    exempt = missing(*_PACKAGES)
    edges: Tensor

    def __init__(
        self,
        task: Task,
        inputs: Inputs,
        *,
        members: int = 8,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.1,
        epochs: int = 0,
        rate: float = 3e-3,
    ):
        super().__init__(task, inputs)
        need("tabm", "tabular", *_PACKAGES)
        self.shape: dict[str, Any] = {"k": members, "d_block": width, "n_blocks": depth, "dropout": dropout}
        self.epochs, self.rate = epochs, rate
        self.register_buffer("columns", torch.zeros((), dtype=torch.long))  # D; 0 where there is nothing to learn
        self.register_buffer("edges", torch.zeros(0, 0))  # [columns embedded, bins + 1], infinite beyond a column's own
        self.register_buffer("embedded", torch.zeros(0, dtype=torch.long))  # which columns

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        columns = features * _EMBEDDING if features <= _MOST_EMBEDDED else features
        return duration(rows, 8 * 128 * (columns + 128 + outputs), 6e-3)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "columns" in state_dict:
            columns, edges, embedded, start = (state_dict[prefix + name] for name in ("columns", "edges", "embedded", "start"))
            self.net = _Net(int(columns), edges, embedded, len(start), self.shape) if columns else None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def learn(self, z: np.ndarray, there: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        self.net, self.columns = None, torch.tensor(z.shape[1] if self.varies.any() else 0)
        if not self.columns:
            return
        self.edges, self.embedded = _edges(z, len(self.design.number))
        with seeded(seed):
            self.net = _Net(z.shape[1], self.edges, self.embedded, len(self.start), self.shape)
            self._train(self.net, torch.from_numpy(z), y, weight, groups, seed)

    def _train(self, net: nn.Module, z: Tensor, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        learn, judged = self.split(y, groups, seed)
        t, w = tensors(y, weight)
        k = self.shape["k"]

        def loss(part: Tensor) -> Tensor:
            part = learn[part]
            scores = self.start + self.varies * net(z[part])  # of each member, which learns by its own loss
            return (self.losses(scores.flatten(0, 1), t[part].repeat_interleave(k, 0)).view(-1, k).mean(1) * w[part]).mean()

        def judge() -> float:
            losses = self.losses_of(self._mean(net, z[judged]), t[judged])
            return float((losses * w[judged]).sum() / w[judged].sum())

        descend(net, len(learn), loss, judge if len(judged) else None, epochs=self.epochs, rate=self.rate, decay=3e-4, patience=_PATIENCE)

    def losses_of(self, chances: Tensor, y: Tensor) -> Tensor:
        """`losses`, of what the members answer together."""
        if self.kind == "numbers":
            return self.losses(chances, y)
        chances = chances.clamp(1e-7, 1 - 1e-7)
        return self.losses(chances.log() if self.kind == "classes" else chances.logit(), y)

    def _mean(self, net: nn.Module, z: Tensor) -> Tensor:
        """The mean of the members' probabilities or numbers [B, K]."""
        return torch.cat([self.chances(self.start + self.varies * net(part)).mean(1) for part in z.split(1024)])

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        if self.net is None:
            return self.out(self.chances(self.start.expand(len(x), -1)))
        return self.out(self._mean(self.net, self.design(x, there)))


class _Net(nn.Module):
    """[B, D] -> the members' scores [B, members, K]."""

    def __init__(self, columns: int, edges: Tensor, embedded: Tensor, outputs: int, shape: dict[str, Any]):
        super().__init__()
        from rtdl_num_embeddings import PiecewiseLinearEmbeddings
        from tabm import EnsembleView, LinearEnsemble, make_tabm_backbone

        chunks = [1] * (columns - len(edges))
        self.embedding: nn.Module | None = None
        if len(edges):
            bins = [row[row.isfinite()] for row in edges]
            self.embedding = PiecewiseLinearEmbeddings(bins, _EMBEDDING, activation=False, version="B")
            chunks = [_EMBEDDING] * len(edges) + chunks
        plain = torch.ones(columns, dtype=torch.bool)
        plain[embedded] = False
        self.where = embedded, plain.nonzero()[:, 0]
        scaling: Any = "normal" if len(edges) else "random-signs"
        self.view = EnsembleView(k=shape["k"])
        self.backbone = make_tabm_backbone(d_in=sum(chunks), start_scaling_init=scaling, start_scaling_init_chunks=chunks, **shape)
        self.head = LinearEnsemble(shape["d_block"], outputs, k=shape["k"])

    def forward(self, z: Tensor) -> Tensor:
        embedded, plain = self.where
        parts = [z[:, plain]] if self.embedding is None else [self.embedding(z[:, embedded]).flatten(1), z[:, plain]]
        return self.head(self.backbone(self.view(torch.cat(parts, 1))))


def _edges(z: np.ndarray, numbers: int) -> tuple[Tensor, Tensor]:
    """Quantiles of the columns of numbers, which come first in z, where these are few and have three quantiles at least."""
    found = [np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)).round(3)) for column in z[:, :numbers].T]
    some = [d for d, edges in enumerate(found) if len(edges) > 2 and numbers <= _MOST_EMBEDDED]
    table = np.full((len(some), _BINS + 1), np.inf, np.float32)
    for row, d in zip(table, some):
        row[: len(found[d])] = found[d]
    return torch.from_numpy(table), torch.tensor(some, dtype=torch.long)
