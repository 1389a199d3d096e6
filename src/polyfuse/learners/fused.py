"""A small fusion network on stored features."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import Fusion, Inputs, RecipeError, Task, Tokens, fusions, learners
from ..core.layers import Mlp
from .descent import Network, descend, duration, seeded
from .scores import tensors

_PATIENCE = 6
_DECAY = 0.05
_DROPOUT = 0.3


@learners("fused")
class Fused(Network):
    """A perceptron for each view's features, then any fusion of the registry: what `train` does, on features that stand still.

    The one learner that knows what a view is: it learns products between views where `linear` and `boost` add them up, and
    training hides views, so that a missing one is no surprise. With one view it is a plain perceptron; with few rows
    `linear` is the steadier.

    Source: ours; views are hidden after Neverova et al. 2016, "ModDrop: Adaptive Multi-modal Gesture Recognition", section 4.2;
    temperature after Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.

    Args:
        fusion: name of a fusion of representations.
        options: of that fusion.
        width: D, of a view's token.
        hidden: width of each view's hidden layer.
        drop: chance that a view is hidden from a row while training; never all of them.
        epochs: most passes over the rows; 0 = chosen from their number.
        rate: highest learning rate of AdamW.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Raises:
        RecipeError: no such fusion, or one that is of features or of decisions.
    Cost:
        F * hidden parameters and those of the fusion; epochs * rows * parameters.
    """

    sizes: Tensor
    temperature: Tensor

    def __init__(
        self,
        task: Task,
        inputs: Inputs,
        *,
        fusion: str = "concat",
        options: dict | None = None,
        width: int = 64,
        hidden: int = 96,
        drop: float = 0.1,
        epochs: int = 0,
        rate: float = 2e-3,
    ):
        super().__init__(task, inputs)
        if (level := fusions.get(fusion).level) != "representation":
            raise RecipeError("learner 'fused'", f"cannot use '{fusion}', which fuses at {level} level", expected="one of representations")
        self.fusion, self.options = fusion, options or {}
        self.width, self.hidden, self.drop, self.epochs, self.rate = width, hidden, drop, epochs, rate
        self.register_buffer("sizes", torch.zeros(len(inputs.views), dtype=torch.long))  # columns of each view
        self.register_buffer("temperature", torch.ones(()))

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        return duration(rows, 96 * features + 30_000, 3e-3)

    def _build(self, sizes: Tensor, outputs: int) -> None:
        """The network, where some view has a column."""
        names = [str(v) for v in range(len(sizes))]  # a view may have the name of a fusion's own span
        fusion = fusions.build(self.fusion, names, self.width, **self.options)
        self.net = _Net(sizes.tolist(), self.hidden, self.width, fusion, outputs) if sizes.any() else None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "sizes" in state_dict:
            self._build(state_dict[prefix + "sizes"], len(state_dict[prefix + "start"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def learn(self, z: np.ndarray, there: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        self.net = None
        self.temperature = torch.ones(())
        self.sizes = torch.bincount(self.design.view, minlength=len(self.inputs.views))
        if not self.varies.any():
            self.sizes = torch.zeros_like(self.sizes)
        with seeded(seed):
            self._build(self.sizes, len(self.start))
            if self.net is not None:
                self._train(self.net, torch.from_numpy(z), self._present(torch.from_numpy(there)), y, weight, groups, seed)

    def _train(
        self, net: nn.Module, z: Tensor, present: Tensor, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int
    ) -> None:
        learn, judged = self.split(y, groups, seed)
        t, w = tensors(y, weight)

        def loss(part: Tensor) -> Tensor:
            part = learn[part]
            hidden = torch.rand(present[part].shape) < self.drop
            shown = present[part] & ~hidden
            shown = torch.where(shown.any(1, keepdim=True), shown, present[part])
            scores, extra = net(z[part], shown, self.design.view)
            return (self.losses(self.start + self.varies * scores, t[part]) * w[part]).mean() + extra

        def cost(temperature: float = 1.0) -> float:
            scores, _ = net(z[judged], present[judged], self.design.view)
            scores = (self.start + self.varies * scores) / temperature
            return float((self.losses(scores, t[judged]) * w[judged]).sum() / w[judged].sum())

        judge = cost if len(judged) else None
        descend(net, len(learn), loss, judge, epochs=self.epochs, rate=self.rate, decay=_DECAY, patience=_PATIENCE)
        if judge and self.kind != "numbers":
            with torch.no_grad():  # a weak prior keeps a few rows from choosing an extreme one
                tried = torch.logspace(-0.6, 0.6, 25).tolist()
                self.temperature = torch.tensor(min(tried, key=lambda c: cost(c) + 0.5 * math.log(c) ** 2 / len(judged)))

    def _present(self, there: Tensor) -> Tensor:
        """[B, G] -> [B, V]: has the row anything of the view?"""
        flags = torch.from_numpy(self.inputs.flag_view)
        return torch.stack([there[:, flags == v].any(1) & (n > 0) for v, n in enumerate(self.sizes)], 1)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        scores = self.start.expand(len(x), -1)
        if self.net is not None:
            found, _ = self.net(self.design(x, there), self._present(there), self.design.view)
            scores = (scores + self.varies * found) / self.temperature
        return self.out(self.chances(scores))


class _Net(nn.Module):
    """Columns of views [B, D] to scores [B, K]: a token per view, the fusion, a linear head; and the fusion's own losses."""

    def __init__(self, sizes: list[int], hidden: int, width: int, fusion: Fusion, outputs: int):
        super().__init__()
        self.maps = nn.ModuleList(Mlp(max(n, 1), hidden, width, dropout=_DROPOUT) for n in sizes)
        self.sizes, self.fusion = sizes, fusion
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(_DROPOUT), nn.Linear(width, outputs))

    def forward(self, z: Tensor, present: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        columns = [z[:, view == v] if n else z.new_zeros(len(z), 1) for v, n in enumerate(self.sizes)]
        x = torch.stack([m(c) for m, c in zip(self.maps, columns)], 1).masked_fill(~present.unsqueeze(-1), 0.0)
        spans = {name: slice(v, v + 1) for v, name in enumerate(self.fusion.views)}
        fused = self.fusion(Tokens(x, present, spans))
        return self.head(fused.row), sum(fused.losses.values(), x.new_zeros(()))
