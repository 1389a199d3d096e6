"""Random numbers that belong to a row: a function of (seed, epoch, column, row), whatever batch the row is in.

A counter-based generator: every number is the mix of a key and a counter, so that nothing depends on the
order of the rows, on the batch size or on where a killed run was resumed.
Source: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64's finalizer).
"""

import zlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """Uniform and normal numbers for P rows; every call gives new ones.

    Args:
        seed, epoch: of the run.
        column: what the numbers are for; two columns never share them.
        rows: [P] the rows' numbers in their table.

    Example:
        >>> alone = Draws(0, 1, "photo", np.array([7])).uniform(2)
        >>> batch = Draws(0, 1, "photo", np.array([3, 7])).uniform(2)
        >>> bool((alone[0] == batch[1]).all())
        True
    """

    def __init__(self, seed: int, epoch: int, column: str, rows: np.ndarray):
        key = _mix(np.uint64((seed * int(_GOLDEN) + (epoch << 32) + zlib.crc32(column.encode())) % 2**64))
        self._rows = _mix(np.asarray(rows, dtype=np.int64).astype(np.uint64) * _GOLDEN ^ key)
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._rows)

    def uniform(self, *shape: int) -> Tensor:
        """[P, *shape] in [0, 1)."""
        count = int(np.prod(shape, dtype=np.int64))
        counters = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * _GOLDEN
        self._drawn += count
        bits = _mix(self._rows[:, None] + counters[None, :]) >> np.uint64(40)
        return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24)).view(len(self._rows), *shape)

    def normal(self, *shape: int) -> Tensor:
        """[P, *shape], mean 0, variance 1 (Box and Muller 1958)."""
        u = self.uniform(*shape, 2)
        return (-2.0 * torch.log1p(-u[..., 0])).sqrt() * torch.cos(2.0 * torch.pi * u[..., 1])

    def integers(self, high: int, *shape: int) -> Tensor:
        """[P, *shape] int64 in [0, high)."""
        return (self.uniform(*shape) * high).long().clamp(max=max(high - 1, 0))


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
