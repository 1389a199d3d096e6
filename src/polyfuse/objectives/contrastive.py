"""The views of a row agree with one another more than with those of other rows."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Batch, Codec, Objective, RecipeError, Task, Tokens, did_you_mean, objectives

NEGATIVES = ("batch", "labelled")
SHARPEST = 100.0  # largest 1 / temperature, as in CLIP: beyond it the loss of one hard pair swamps the batch


@objectives("contrastive")
class Contrastive(Objective):
    """Contrastive alignment: a row's two views are near each other in a shared space, those of different rows apart.

    It teaches the encoders what the views have in common, so it helps where the answer lies in that (matching,
    retrieval), and hurts where it lies in what only one of them has. With `pairs`, a target that says whether a row's
    views belong together, only rows that say yes take part: from those it learns far sooner what belongs together than
    from the labels alone. Two rows of a batch may belong together without saying so (the same digit twice): where most
    do, `negatives="labelled"` compares nothing but a row's own pair with its own label.

    Source: "batch": van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4, made
    symmetric as in Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3:
    half of -log softmax_j(u_i . v_j / T) at j = i and half of the same with u and v exchanged. "labelled": Zhai et al. 2023,
    "Sigmoid Loss for Language Image Pre-Training", eq. 1 on the diagonal only: -log sigmoid(y (u_i . v_i / T + b)), y = 1 or
    -1. u and v have length 1; the mean is over rows, then over pairs of views that occur.

    Args:
        temperature: T at the start; it is learned.
        pairs: name of a target of two classes, of which the second (in the codec's order: no < yes, 0 < 1, false < true)
            says that the row's views belong together; rows without a label take no part. Empty: all rows do.
        negatives: "batch" or "labelled", which needs `pairs`.
    Shapes:
        encoded [B, N, D] -> scalar
    Raises:
        RecipeError: no target of that name, or one that has not two classes; "labelled" without `pairs`.
    Cost:
        V * D^2 parameters; V^2 * B^2 * D multiplications.
    """

    def __init__(
        self,
        views: list[str],
        width: int,
        targets: dict[str, Codec],
        make_task: Callable[[str], Task],
        *,
        temperature: float = 0.07,
        pairs: str = "",
        negatives: str = "batch",
    ):
        super().__init__(views, width, targets, make_task)
        _check(targets, temperature, pairs, negatives)
        self.pairs, self.negatives = pairs, negatives
        several = len(views) > 1
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in views if several)
        self.sharpness = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=several)
        self.bias = nn.Parameter(torch.zeros(()), requires_grad=several and negatives == "labelled")

    def embed(self, encoded: Tokens) -> tuple[Tensor, Tensor]:
        """Each view in the shared space, with length 1: z [B, V, D] (zero where absent) and present [B, V]."""
        x, present = self.vectors(encoded)
        if self.maps:
            x = torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1)
        return F.normalize(x.float(), dim=-1), present

    def forward(self, encoded: Tokens, fused: Tokens, batch: Batch) -> Tensor:
        z, present = self.embed(encoded)
        yes, no = self._said(batch, present)
        scale = self.sharpness.exp().clamp(max=SHARPEST)
        found = []
        for u, v, both in _both(present):
            if self.negatives == "labelled" and ((yes | no) & both).any():
                found.append(self._own(z[:, u], z[:, v], yes & both, no & both, scale))
            elif self.negatives == "batch" and (yes & both).any():
                found.append(_in_batch(z[yes & both, u], z[yes & both, v], scale))
        return torch.stack(found).mean() if found else z.sum() * 0.0

    def _said(self, batch: Batch, present: Tensor) -> tuple[Tensor, Tensor]:
        """[B] bool each: the rows whose views belong together, and those whose views surely do not."""
        if not self.pairs:
            everyone = torch.ones_like(present[:, 0])
            return everyone, ~everyone
        truth, yes, no = batch.cells[self.pairs], torch.zeros_like(present[:, 0]), torch.zeros_like(present[:, 0])
        if len(truth.rows):  # such a batch may hold no tensors at all
            index = truth.x["index"][:, 0]  # 0 is a value that no training row had
            yes[truth.rows], no[truth.rows] = index == 2, index == 1
        return yes, no

    def _own(self, u: Tensor, v: Tensor, yes: Tensor, no: Tensor, scale: Tensor) -> Tensor:
        told = yes | no
        sign = torch.where(yes, 1.0, -1.0)[told]
        return -F.logsigmoid(sign * (scale * (u[told] * v[told]).sum(-1) + self.bias)).mean()


def _in_batch(u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    logits = scale * u @ v.T  # [n, n]
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def _both(present: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Every pair of views, with the rows [B] that have both."""
    return ((u, v, present[:, u] & present[:, v]) for u, v in combinations(range(present.shape[1]), 2))


def _check(targets: dict[str, Codec], temperature: float, pairs: str, negatives: str) -> None:
    where = "objective 'contrastive'"
    if not temperature > 0:
        raise RecipeError(where, f"has temperature {temperature}", expected="a number above 0")
    if negatives not in NEGATIVES:
        known = f"one of {', '.join(NEGATIVES)}"
        raise RecipeError(where, f"has negatives {negatives!r}", expected=known, fix=did_you_mean(negatives, NEGATIVES))
    if not pairs:
        if negatives == "labelled":
            raise RecipeError(where, "has negatives 'labelled' but no labels", fix="name the target: --set contrastive.pairs=TARGET")
        return
    if pairs not in targets:
        known = f"one of {', '.join(targets)}"
        raise RecipeError(where, f"has pairs '{pairs}', which is no target", expected=known, fix=did_you_mean(pairs, targets))
    classes = getattr(targets[pairs], "values", ()) if targets[pairs].name == "category" else ()
    if len(classes) != 2:
        raise RecipeError(where, f"has pairs '{pairs}', which has {len(classes)} classes", expected="a target of two: no and yes")
