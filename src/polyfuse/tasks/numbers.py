"""Targets that are numbers: one, several, or the quantiles of one."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Cells, Codec, RecipeError, Task, Tokens, mean_loss, tasks
from ..core import intervals as of

LOSSES = ("mse", "huber", "mae")


@tasks("regression")
class Regression(Task):
    """One number, or a vector of them, in the target's own unit.

    Trained on the standardised target. The squared error answers with the mean, which is what RMSE asks for; with
    outliers in the target "huber" or "mae" (which answers with the median) is steadier. For a range instead of a point
    take `quantile`. Checkpoints are chosen by RMSE.

    Source: least squares; Huber 1964, "Robust Estimation of a Location Parameter", eq. 2.1 with k = `delta`.

    Args:
        loss: "mse", "huber" or "mae".
        delta: where "huber" turns from square to straight, in standard deviations of the target.
        dropout: before the linear head.
    Shapes:
        row [B, D] -> out [B, K] standardised; truth "value" [L, k], of which a number column uses the first
    Cost:
        D * K parameters.
    """

    modalities = ("number", "vector")
    metric = "rmse"
    higher = False
    learned_as = "numbers"

    def __init__(self, codec: Codec, width: int, *, loss: str = "mse", delta: float = 1.0, dropout: float = 0.0):
        super().__init__(codec, width)
        if loss not in LOSSES:
            raise RecipeError("task 'regression'", f"has the unknown loss '{loss}'", expected=f"one of {', '.join(LOSSES)}")
        if not delta > 0:
            raise RecipeError("task 'regression'", f"has delta {delta}", expected="a number above 0")
        # a number's cleaned value may hold further encodings after the plain one
        self.outputs = 1 if codec.tabular else len(codec.filler()["value"])
        self.kind, self.delta = loss, delta
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, self.outputs))

    @classmethod
    def claims(cls, codec: Codec) -> float:
        return 1.0 if codec.name in cls.modalities else 0.0

    def forward(self, tokens: Tokens) -> Tensor:
        """-> standardised values [B, K]."""
        return self.head(tokens.row)

    def answers(self, truth: dict[str, Tensor]) -> np.ndarray:
        y = truth["value"][:, : self.outputs].double().numpy()
        return y if "real" not in truth else np.where(truth["real"].numpy(), y, np.nan)

    def row_losses(self, out: Tensor, truth: Cells) -> tuple[Tensor, Tensor]:
        answer, target = out[truth.rows].float(), truth.x["value"][:, : self.outputs].float()
        if self.kind == "mse":
            losses = (answer - target) ** 2
        elif self.kind == "mae":
            losses = (answer - target).abs()
        else:
            losses = F.huber_loss(answer, target, reduction="none", delta=self.delta)
        real = self._real(truth)
        return losses.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1), truth.rows

    def _real(self, truth: Cells) -> Tensor:
        """[L, K] bool: a vector's cell may lack components, which then cost nothing and are not scored."""
        real = truth.x.get("real")
        return torch.ones_like(truth.x["value"][:, : self.outputs], dtype=torch.bool) if real is None else real

    def loss(self, out: Tensor, truth: Cells, weight: Tensor | None = None) -> Tensor:
        return _mean(self, out, truth, weight)

    def constant(self, rows: int) -> Tensor:
        """The best answer that looks at no input: the training rows' mean, as out [rows, K]."""
        return torch.zeros(rows, self.outputs)

    def decode(self, out: Tensor) -> list[dict[str, Any]]:
        restored = _restored(self.codec, out)
        return [{"value": row[0] if self.codec.tabular else row} for row in restored.tolist()]

    def _outputs(self, out: Tensor, truth: Cells) -> list[dict[str, of.Figure]]:
        """The figures of each output, in the target's unit."""
        answer = _restored(self.codec, out[truth.rows])
        y = _restored(self.codec, truth.x["value"][:, : self.outputs])
        return [_figures_of(a, t, r) for a, t, r in zip(answer.T, y.T, self._real(truth).cpu().numpy().T)]

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        """Each metric as a function of how often a labelled row counts; of several outputs the mean over them."""
        each = self._outputs(out, truth)

        def averaged(name: str) -> of.Figure:
            return lambda counts: np.mean([figures[name](counts) for figures in each], 0)

        return {name: averaged(name) for name in each[0]}

    def scores(self, out: Tensor, truth: Cells) -> dict[str, float]:
        return _finite(self.figures(out, truth), len(truth.rows)) if len(truth.rows) else {}

    def report(self, out: Tensor, truth: Cells) -> dict[str, Any]:
        """{"outputs": [{"rmse", "mae", "r2"} of each output]} where there are several."""
        if self.outputs == 1 or not len(truth.rows):
            return {}
        return {"outputs": [_finite(figures, len(truth.rows)) for figures in self._outputs(out, truth)]}


@tasks("quantile")
class Quantile(Task):
    """Quantiles of one number: a range that should hold the truth as often as it says.

    Each quantile is the one below plus a softplus step, so they never cross. The answer's value is the quantile nearest
    to the median. For the mean alone `regression` is the better trained. Checkpoints are chosen by the pinball loss.

    Source: Koenker and Bassett 1978, "Regression Quantiles", eq. 1.3 (pinball loss); the steps as in Park et al. 2022,
    "Learning Quantile Functions without Quantile Crossing", section 3.

    Args:
        levels: of the quantiles, rising, each between 0 and 1.
        dropout: before the linear head.
    Shapes:
        row [B, D] -> out [B, Q] standardised, rising along Q; truth "value" [L, k], of which the first is used
    Raises:
        RecipeError: levels that do not rise or lie outside (0, 1).
    Cost:
        D * Q parameters.
    """

    modalities = ("number",)
    metric = "pinball"
    higher = False
    share: Tensor

    def __init__(self, codec: Codec, width: int, *, levels: tuple[float, ...] = (0.1, 0.5, 0.9), dropout: float = 0.0):
        super().__init__(codec, width)
        levels = tuple(float(q) for q in levels)
        if not levels or any(not 0 < q < 1 for q in levels) or any(a >= b for a, b in zip(levels, levels[1:])):
            raise RecipeError("task 'quantile'", f"has levels {list(levels)}", expected="rising numbers between 0 and 1, as 0.1, 0.5, 0.9")
        self.levels = levels
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, len(levels)))
        self.register_buffer("share", torch.zeros(len(levels)))  # the training rows' own quantiles, standardised

    def fit(self, truth: dict[str, Tensor]) -> None:
        if not truth or not len(truth["value"]):
            return
        y = truth["value"][:, 0].double()
        self.share.copy_(torch.from_numpy(np.quantile(y.cpu().numpy(), self.levels)))
        steps = (self.share[1:] - self.share[:-1]).clamp(min=1e-3)
        with torch.no_grad():  # start at these: softplus(log(e^s - 1)) = s
            self.head[-1].bias.copy_(torch.cat([self.share[:1], steps.expm1().log()]))  # type: ignore[operator]

    def forward(self, tokens: Tokens) -> Tensor:
        """-> standardised quantiles [B, Q]."""
        raw = self.head(tokens.row).float()
        return torch.cat([raw[:, :1], F.softplus(raw[:, 1:])], 1).cumsum(1)

    def row_losses(self, out: Tensor, truth: Cells) -> tuple[Tensor, Tensor]:
        error = truth.x["value"][:, :1].float() - out[truth.rows].float()  # [L, Q]
        levels = error.new_tensor(self.levels)
        return torch.maximum(levels * error, (levels - 1) * error).mean(1), truth.rows

    def loss(self, out: Tensor, truth: Cells, weight: Tensor | None = None) -> Tensor:
        return _mean(self, out, truth, weight)

    def constant(self, rows: int) -> Tensor:
        """The best answer that looks at no input: the training rows' quantiles, as out [rows, Q]."""
        return self.share.expand(rows, -1)

    def decode(self, out: Tensor) -> list[dict[str, Any]]:
        middle = int(np.argmin([abs(q - 0.5) for q in self.levels]))
        names = [f"{q:g}" for q in self.levels]
        return [{"value": row[middle], "quantiles": dict(zip(names, row))} for row in _restored(self.codec, out).tolist()]

    def figures(self, out: Tensor, truth: Cells) -> dict[str, of.Figure]:
        """Each metric as a function of how often a labelled row counts; all but coverage in the target's unit."""
        answer = _restored(self.codec, out[truth.rows])
        y = _restored(self.codec, truth.x["value"][:, :1])
        levels = np.array(self.levels)
        found = {"pinball": of.mean(np.maximum(levels * (y - answer), (levels - 1) * (y - answer)).mean(1))}
        if len(levels) > 1:
            low, high = answer[:, 0], answer[:, -1]
            found |= {"coverage": of.mean((low <= y[:, 0]) & (y[:, 0] <= high)), "range": of.mean(high - low)}
        return found

    def scores(self, out: Tensor, truth: Cells) -> dict[str, float]:
        return _finite(self.figures(out, truth), len(truth.rows)) if len(truth.rows) else {}

    def report(self, out: Tensor, truth: Cells) -> dict[str, Any]:
        """{"levels": {level: share of the truths at or below its quantile}}: honest where the two agree."""
        if not len(truth.rows):
            return {}
        below = _restored(self.codec, truth.x["value"][:, :1]) <= _restored(self.codec, out[truth.rows])
        return {"levels": {f"{q:g}": share for q, share in zip(self.levels, below.mean(0).tolist())}}


def _mean(task: Task, out: Tensor, truth: Cells, weight: Tensor | None) -> Tensor:
    """The mean of a task's row losses; a batch without labels may hold no tensors at all."""
    if not len(truth.rows):
        return out.float().sum() * 0.0
    losses, rows = task.row_losses(out, truth)
    return mean_loss(losses, rows, out.float(), weight)


def _restored(codec: Codec, z: Tensor) -> np.ndarray:
    return np.asarray(codec.restore(z.detach().cpu().double()), np.float64)  # type: ignore[attr-defined]


def _figures_of(answer: np.ndarray, truth: np.ndarray, real: np.ndarray) -> dict[str, of.Figure]:
    """Of one output [L], over the rows where the truth is known."""
    answer, truth = answer[real], truth[real]
    square, absolute, explained = of.mean((answer - truth) ** 2), of.mean(np.abs(answer - truth)), of.r2(truth, answer)
    return {"rmse": lambda c: np.sqrt(square(c[:, real])), "mae": lambda c: absolute(c[:, real]), "r2": lambda c: explained(c[:, real])}


def _finite(figures: dict[str, of.Figure], rows: int) -> dict[str, float]:
    found = {name: of.once(figure, rows) for name, figure in figures.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}
