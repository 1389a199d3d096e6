"""Boosted trees as tensors: saved without their library, and walked by all rows and all trees at once."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.layers import Fitted

_LARGEST = float(np.finfo(np.float32).max)
_CHUNK = 1 << 20  # (row, tree) pairs that walk at a time
_SAMPLE = 20_000  # rows that a column's bins are chosen from


class Forest(Fitted):
    """The sum of trees that split on one feature at a time, by the score each adds to.

    A node's children lie side by side, `left` first; a leaf is its own `left`. A feature that is not there goes left or right
    as the node was taught: `feature` counts D further where it goes left.

    Shapes:
        z [B, D] float32, NaN where not there -> [B, outputs]
    Cost:
        depth of the deepest tree * trees * rows; 24 bytes a node.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    value: Tensor
    root: Tensor
    output: Tensor
    depth: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("feature", "left", "root", "output"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.long))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("depth", torch.zeros((), dtype=torch.long))

    def add(self, trees: list[np.ndarray], outputs: list[int], columns: int) -> None:
        """More trees.

        Args:
            trees: the nodes of each, as scikit-learn's histogram boosting has them.
            outputs: which score each adds to.
            columns: D.
        """
        parts, at = [], len(self.value)
        for nodes in trees:
            parts.append(_packed(nodes, columns, at))
            at += len(nodes)
            self.depth = self.depth.clamp(min=int(nodes["depth"].max()))
        for name, *found in zip(("feature", "threshold", "left", "value", "root"), *parts):
            setattr(self, name, torch.cat([getattr(self, name), *map(torch.from_numpy, found)]))
        self.output = torch.cat([self.output, torch.tensor(outputs, dtype=torch.long)])

    def forward(self, z: Tensor, outputs: int) -> Tensor:
        found = z.new_zeros(len(z), outputs)
        rows = max(_CHUNK // max(len(self.root), 1), 1)
        for part, sums in zip(z.split(rows), found.split(rows)):
            sums.index_add_(1, self.output, self.value[self._leaves(part)])
        return found

    def _leaves(self, z: Tensor) -> Tensor:
        """[B, D] -> [B, trees] the leaf of each."""
        # what is not there is above every threshold in the first copy of the columns, below in the second
        sides = torch.cat([z.nan_to_num(side, _LARGEST, -_LARGEST) for side in (torch.inf, -torch.inf)], 1)
        node = self.root.expand(len(z), -1)
        for _ in range(int(self.depth)):
            node = self.left[node] + (sides.gather(1, self.feature[node]) > self.threshold[node])
        return node


def _packed(nodes: np.ndarray, columns: int, at: int) -> tuple[np.ndarray, ...]:
    """feature, threshold, left and value of each node, and the root, of a tree whose first node is number `at`."""
    leaf = nodes["is_leaf"].astype(bool)
    inner = nodes[~leaf]
    order = np.concatenate([[0], np.stack([inner["left"], inner["right"]], 1).ravel()]).astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    feature = np.where(leaf, 0, nodes["feature_idx"] + columns * nodes["missing_go_to_left"].astype(np.int64))
    threshold = np.where(leaf, np.inf, _rounded_down(nodes["num_threshold"]))
    left = place[np.where(leaf, np.arange(len(nodes)), nodes["left"])]
    arrays = feature[order].astype(np.int64), threshold[order].astype(np.float32), left[order] + at
    return *arrays, nodes["value"][order].astype(np.float32), np.array([at])


class Bins:
    """Columns of numbers as numbers of bins of about equally many rows: trees that see only these grow far faster.

    Done once for all trees, whatever the weights of the rows are.

    Args:
        z: [L, D] float32, NaN where not there.
        most: bins of a column.
    """

    def __init__(self, z: np.ndarray, most: int, seed: int = 0):
        rows = np.random.default_rng((seed, 12)).permutation(len(z))[:_SAMPLE]
        self.edges = [_edges(column, most) for column in z[rows].T]

    def codes(self, z: np.ndarray) -> np.ndarray:
        """The bin [L, D] of each number, as float32; NaN where not there."""
        codes = np.empty_like(z)
        for d, edges in enumerate(self.edges):
            codes[:, d] = np.searchsorted(edges, z[:, d])
        return np.where(np.isnan(z), np.float32(np.nan), codes)

    def trees_of(self, estimator: Any, rounds: int) -> list[np.ndarray]:
        """The nodes of the trees of the first `rounds`, round by round, with thresholds of the numbers themselves."""
        trees = [tree.nodes.copy() for trees in estimator._predictors[:rounds] for tree in trees]
        for nodes in trees:
            nodes["num_threshold"] = [
                self.edges[f][int(t)] if not leaf and t < len(self.edges[f]) else np.inf
                for f, t, leaf in zip(nodes["feature_idx"], nodes["num_threshold"], nodes["is_leaf"])
            ]
        return trees


def _edges(column: np.ndarray, most: int) -> np.ndarray:
    """At most `most` - 1 rising numbers half-way between neighbours; a bin ends with its edge."""
    values, count = np.unique(column[~np.isnan(column)], return_counts=True)
    last = np.arange(len(values) - 1)
    if len(values) > most:
        wanted = np.cumsum(count).searchsorted(np.arange(1, most) * (count.sum() / most))
        last = np.unique(wanted.clip(max=len(values) - 2))
    return _rounded_down((values[last].astype(np.float64) + values[last + 1]) / 2)


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """To float32 such that float32 numbers fall on the side where they fell; none that is there goes right of infinity."""
    single = threshold.astype(np.float32)
    single = np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)
    return single.clip(max=_LARGEST)
