"""The learner that remembers rows."""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, RecipeError, Task, learners
from .dense import Dense, factors, fit_link, sampled
from .scores import tensors

METRICS = ("auto", "euclidean", "cosine")
_COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of neighbours, that are tried
_ASKED = 1000  # rows whose neighbours are looked at to choose among them
_DOUBT = 0.5  # rows' worth of the overall shares among a row's neighbours: no class is ever ruled out
_LITTLE = 1e-3  # the same for numbers, whose mean is only for where no neighbour's is known
_BLOCK = 256  # rows whose distances are held at once
_GRAIN = 1e-9  # squared distances that differ by less, against the largest, are the same


@learners("neighbours")
class Neighbours(Dense):
    """The answers of the most similar training rows, the nearer the weightier.

    Where similar rows have similar answers and no rule is simpler than the rows themselves: many classes of few examples
    each, near copies, good descriptors. With many features that say nothing `linear` and `boost` are better. The number of
    neighbours and the metric are those that answer best for training rows which are left out.

    Source: Fix and Hodges 1951; weights 1 - (d / d_k+1)^2, as Epanechnikov's kernel with the width of Loftsgaarden and
    Quesenberry 1965, so that a neighbour loses its say gradually as it moves away. Ours: every view has the same part in the
    distance, and a link on the logarithm of the votes makes the probabilities honest.

    Args:
        metric: "euclidean" between standardised features, "cosine" of the angle between them, or "auto", the better one.
        most: rows that are remembered; of a larger table every class has its share.
    Shapes:
        x [B, F], there [B, G] -> out [B, C]
    Raises:
        RecipeError: no metric of that name.
    Cost:
        most * D numbers to keep; most * D products a row in prediction.
    """

    rows: Tensor
    answers: Tensor
    worth: Tensor
    factor: Tensor
    shape: Tensor

    def __init__(self, task: Task, inputs: Inputs, *, metric: str = "auto", most: int = 20000):
        super().__init__(task, inputs)
        if metric not in METRICS:
            raise RecipeError("learner 'neighbours'", f"has the unknown metric '{metric}'", expected=f"one of {', '.join(METRICS)}")
        self.metric, self.most = metric, most
        self.register_buffer("rows", torch.zeros(0, 0))  # [R, D] as `_placed`
        self.register_buffer("answers", torch.zeros(0, 0))  # [R] classes, or [R, S] labels or numbers, NaN where not known
        self.register_buffer("worth", torch.zeros(0))  # [R] weights
        self.register_buffer("factor", torch.zeros(0))  # [D]
        self.register_buffer("shape", torch.zeros(2, dtype=torch.long))  # how many neighbours; 1 where by angle

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        return 0.1 + 6e-10 * min(rows, _ASKED) * rows * features

    def learn_active(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None, seed: int) -> None:
        kept = sampled(y, self.most, seed)
        z, y, weight = z[kept], y[kept], weight[kept]
        group = torch.arange(len(z)) if groups is None else torch.from_numpy(groups[kept])
        self.answers, self.worth = tensors(y if y.ndim == 1 else y.astype(np.float64), weight)
        asked = sampled(y, _ASKED, seed + 1)
        metrics = METRICS[1:] if self.metric == "auto" else (self.metric,)
        best = np.inf
        for factor, metric in product((torch.from_numpy(f) for f in factors(self.design, z)), metrics):
            rows = _placed(torch.from_numpy(z) * factor, metric == "cosine")
            near, at = _nearest(rows[asked], rows, min(max(_COUNTS) + 1, len(z) - 1), (group[torch.from_numpy(asked)], group))
            for count in (c for c in _COUNTS if c < len(z)):
                scores = self._votes(near, at, count).numpy()
                link, costs = fit_link(self.kind, scores, y[asked], weight[asked], self.start[self.active].numpy())
                if costs.mean() < best:
                    best, self.link, self.rows, self.factor = costs.mean(), link, rows, factor
                    self.shape = torch.tensor([count, int(metric == "cosine")])

    def score(self, z: Tensor) -> Tensor:
        count, angle = self.shape.tolist()
        blocks = z.split(_BLOCK) if len(z) else (z,)
        return torch.cat([self._votes(*_nearest(_placed(b * self.factor, bool(angle)), self.rows, count + 1), count) for b in blocks])

    def _votes(self, near: Tensor, at: Tensor, count: int) -> Tensor:
        """Log shares, log odds or means [B, S] of `count` neighbours; near, at [B, more] squared distances and rows, nearest first."""
        width = near[:, count : count + 1] if near.shape[1] > count else near[:, -1:] * 1.5
        near, at = near[:, :count], at[:, :count]
        # a neighbour as far as the next one has almost no say; where all are as far (copies) they have the same
        say = (1.0 - near / width.clamp(min=1e-12)).clamp(min=1e-3).nan_to_num(0.0) * self.worth[at]  # endlessly far: none
        start, answers, total = self.start[self.active], self.answers[at], say.sum(1, keepdim=True)
        if self.kind == "classes":
            votes = say.new_zeros(len(say), len(start)).scatter_add_(1, answers, say)
            return ((votes + _DOUBT * start.softmax(0)) / (total + _DOUBT)).log()
        said = (say.unsqueeze(-1) * answers.nan_to_num()).sum(1)
        if self.kind == "labels":
            return ((said + _DOUBT * start.sigmoid()) / (total + _DOUBT)).logit(eps=1e-6)
        known = (say.unsqueeze(-1) * answers.isfinite()).sum(1)
        return (said + _LITTLE * start) / (known + _LITTLE)


def _placed(z: Tensor, angle: bool) -> Tensor:
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-6) if angle else z


def _nearest(z: Tensor, rows: Tensor, count: int, groups: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Squared distances [B, count] to the nearest rows and which these are; of equally near ones the first.

    Args:
        groups: of the asked [B] and of the rows [R]: who is of the same group, and each row itself, is left out.
    """
    count = min(count, len(rows))
    distances = [rows.new_zeros(0, count)]
    places = [torch.zeros(0, count, dtype=torch.long, device=rows.device)]
    wide = rows.double()
    size = wide.square().sum(1)
    order = torch.arange(len(rows), device=rows.device).double() / (16 * len(rows))
    for start in range(0, len(z), _BLOCK):
        block = z[start : start + _BLOCK].double()
        own_size = block.square().sum(1, keepdim=True)
        d = (own_size + size - 2.0 * block @ wide.T).clamp(min=0.0)
        grain = _GRAIN * (own_size + size.max() + 1e-6)  # rounding must not decide between equal ones
        d = (d / grain).round() + order
        if groups is not None:
            d.masked_fill_(groups[0][start : start + _BLOCK, None] == groups[1], torch.inf)
        d, at = d.topk(count, 1, largest=False)
        distances.append((d.floor() * grain).float())
        places.append(at)
    return torch.cat(distances), torch.cat(places)
