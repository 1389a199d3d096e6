"""What the learners share that are small networks: which rows judge, and the training loop."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..core import Inputs, Task
from .scores import Scored, held_out

_FEWEST = 20  # rows below which none can be spared to choose the epoch
_HELD = 0.15  # share of the rows that choose it
_SEEN = 200_000  # rows that a network sees in all, within the bounds of
_EPOCHS = 12, 40
_SPEED = 4e10  # products and sums a second
_WARMUP = 0.1  # share of the steps over which the rate rises
_CLIP = 1.0  # largest norm of the gradient


class Network(Scored):
    """A learner that is a small network, `net`, which gives scores to be added to `start`; None where there is nothing to learn.

    A subclass builds `net` from sizes that are saved beside it, so that a fresh one can load it.
    """

    varies: Tensor
    net: nn.Module | None

    def __init__(self, task: Task, inputs: Inputs):
        super().__init__(task, inputs)
        self.net = None
        self.register_buffer("varies", torch.zeros(0))  # [K] 1 of the outputs that rows differ in: the others keep their start

    def begin(
        self, y: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        rows, y, weight, groups = super().begin(y, weight, groups)
        if self.kind == "classes":
            varies = np.full(len(self.known), len(rows) > 1 and len(self.known) > 1)
        else:
            varies = np.array([len(np.unique(t[np.isfinite(t)])) > 1 for t in y.T], bool)
        self.varies = torch.from_numpy(varies).float()
        return rows, y, weight, groups

    def split(self, y: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[Tensor, Tensor]:
        """The rows to learn from and those to judge by, of which a table of few has none."""
        held = held_out(y, _HELD, seed, groups) if len(y) >= _FEWEST else np.zeros(len(y), bool)
        return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights and dropout are drawn from this seed, gradients are on, and the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def batch_for(rows: int) -> int:
    """A power of two from 32 to 256: some forty steps an epoch."""
    return int(min(256, max(32, 2 ** round(math.log2(max(rows / 40, 1))))))


def epochs_for(rows: int) -> int:
    """Fewer passes over a longer table."""
    return int(np.clip(_SEEN // max(rows, 1), *_EPOCHS))


def duration(rows: int, weights: int, step_s: float) -> float:
    """About how many seconds `descend` takes with so many weights.

    Args:
        step_s: of a step, whatever the size of the network.
    """
    seen = rows * epochs_for(rows)
    return 0.3 + seen / batch_for(rows) * step_s + seen * 6 * weights / _SPEED


def descend(
    net: nn.Module,
    rows: int,
    loss: Callable[[Tensor], Tensor],
    judge: Callable[[], float] | None,
    *,
    epochs: int,
    rate: float,
    decay: float,
    patience: int,
) -> None:
    """Train `net` in place by AdamW; it ends in eval mode with the weights of the epoch that `judge` found cheapest.

    Args:
        rows: of the training; `loss` gets numbers below it.
        loss: of these rows, a scalar.
        judge: what the net costs on held-out rows; without it the last weights are kept.
        epochs: most passes over the rows, 0 = as `epochs_for` says; the rate falls along a cosine over them.
        patience: epochs without a better cost before it stops.
    """
    batch, epochs = batch_for(rows), epochs or epochs_for(rows)
    steps = epochs * -(-rows // batch)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=decay)
    best, best_at, kept, step = math.inf, 0, {}, 0
    for epoch in range(epochs):
        net.train()
        for part in torch.randperm(rows).split(batch):
            warm = min((step + 1) / (_WARMUP * steps + 1), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            loss(part).backward()
            nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
            optimizer.step()
            step += 1
        net.eval()
        if judge is None:
            continue
        with torch.no_grad():
            cost = judge()
        if cost < best:
            best, best_at, kept = cost, epoch, {k: v.clone() for k, v in net.state_dict().items()}
        elif epoch - best_at >= patience:
            break
    if kept:
        net.load_state_dict(kept)
