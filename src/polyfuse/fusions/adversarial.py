"""An adversary inside the loss. Gradient reversal makes it one optimiser's work (Ganin and Lempitsky 2015, eq. 5-6)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pooled
from ..core.layers import Mlp


class _Reversed(torch.autograd.Function):
    """The identity, with the gradient's sign turned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


@fusions("invariant")
class Invariant(Fusion):
    """Features of all views pushed into one space until an adversary cannot tell which view they came from.

    Where views are to stand in for one another (any two of four cameras). It takes away what only one view knows of
    itself, so it costs where views differ in kind: there take `shared-private`.

    Source: Ganin and Lempitsky 2015, "Unsupervised Domain Adaptation by Backpropagation", eq. 1-6, with views as the
    domains. s_v = S(M_v x_v), row = MLP([s_1; ...; s_V; present]); `losses["adversary"]`, in training, is the
    cross-entropy of a perceptron that names the view of each s_v, its gradient reversed on the way to S.

    Args:
        adversary: weight of its loss.
        dropout: in the hidden layers.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (3 V + 5) * D^2 parameters; linear in tokens.
    """

    losses = ("adversary",)

    def __init__(self, views: list[str], width: int, *, adversary: float = 0.1, dropout: float = 0.1):
        super().__init__(views, width)
        self.weight = adversary
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.shared = Mlp(width, width, width, dropout=dropout)
        self.tell = Mlp(width, width, len(views)).requires_grad_(len(views) > 1)  # there is nothing to tell apart in one
        self.out = Mlp(len(views) * (width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        s = self.shared(torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1))
        s = F.layer_norm(s, (self.width,)).masked_fill(~present.unsqueeze(-1), 0.0)
        fused = tokens.with_row(self.out(torch.cat([s.flatten(1), present.to(s.dtype)], 1)))
        if self.training and len(self.views) > 1:
            guess = self.tell(_Reversed.apply(s)).float()  # [B, V, V]
            truth = torch.arange(len(self.views), device=s.device).expand(present.shape)
            losses = F.cross_entropy(guess.transpose(1, 2), truth, reduction="none")
            return replace(fused, losses={**fused.losses, "adversary": self.weight * _mean(losses, present)})
        return fused


@fusions("generate")
class Generate(Fusion):
    """An absent view's features are made from the present ones, then all views are joined as if none were missing.

    Where a view is often absent but can be guessed from the others. In complete tables it is `concat` with work that
    is thrown away, and what it makes up is no new evidence.

    Source: the adversarial term after Goodfellow et al. 2014, "Generative Adversarial Nets", eq. 1; the cycle after Zhu et
    al. 2017, "Unpaired Image-to-Image Translation", eq. 2; for missing modalities compare Cai et al. 2018, "Deep Adversarial
    Learning for Multi-Modality Missing Data Completion". For view v, c_v the mean over the other present u of E_u x_u,
    G_v(c_v) is compared with x_v ("reconstruct"), judged by a discriminator against it, gradient reversed ("adversary"),
    and sent back to the views it came from ("cycle"). row = MLP([x_v or G_v(c_v); present]). Losses in training only;
    targets carry no gradient, so encoders are not drawn to what is easy to guess.

    Args:
        reconstruct: weight of the squared error of what is made.
        adversary: weight of the discriminators' loss.
        cycle: weight of the squared error of the way back.
        dropout: in the hidden layers.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not lookup
    Cost:
        (6 V + 2) * D^2 parameters; linear in tokens, quadratic in views while training.
    """

    losses = ("reconstruct", "adversary", "cycle")

    def __init__(
        self, views: list[str], width: int, *, reconstruct: float = 0.1, adversary: float = 0.02, cycle: float = 0.05, dropout: float = 0.1
    ):
        super().__init__(views, width)
        self.weights = {"reconstruct": reconstruct, "adversary": adversary, "cycle": cycle}
        several = len(views) > 1  # one view has none to be made from: the missing indicator stands for it
        self.codes = nn.ModuleList(nn.Linear(width, width) for _ in views).requires_grad_(several)
        self.makers = nn.ModuleList(Mlp(width, width, width) for _ in views).requires_grad_(several)
        self.judges = nn.ModuleList(Mlp(width, width, 1) for _ in views).requires_grad_(several)
        self.out = Mlp(len(views) * (width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        real = present.unsqueeze(-1)
        losses = {}
        full = x.masked_fill(~real, 0.0)
        if len(self.views) > 1:
            code = torch.stack([e(x[:, v]) for v, e in enumerate(self.codes)], 1).masked_fill(~real, 0.0)
            others = present.sum(1, keepdim=True) - present.long()  # [B, V]
            context = (code.sum(1, keepdim=True) - code) / others.clamp(min=1).unsqueeze(-1)
            made = torch.stack([make(context[:, v]) for v, make in enumerate(self.makers)], 1)  # [B, V, D]
            full = torch.where(real, x, made.to(x.dtype))
            if self.training:
                losses = self._losses(x.detach(), made, present, others > 0)
        fused = tokens.with_row(self.out(torch.cat([full.flatten(1), present.to(x.dtype)], 1)))
        return replace(fused, losses={**fused.losses, **{name: self.weights[name] * loss for name, loss in losses.items()}})

    def _losses(self, x: Tensor, made: Tensor, present: Tensor, possible: Tensor) -> dict[str, Tensor]:
        """x and made [B, V, D]; present and possible (some other view is present) [B, V]."""
        judged = torch.stack(
            [judge(torch.stack([x[:, v], _Reversed.apply(made[:, v])], 1)).squeeze(-1) for v, judge in enumerate(self.judges)], 1
        ).float()  # [B, V, 2]
        verdict = F.softplus(-judged[..., 0]) * present + F.softplus(judged[..., 1]) * possible
        back = []
        for v, code in enumerate(self.codes):
            there = code(made[:, v])
            back += [(_squared(self.makers[u](there), x[:, u]), possible[:, v] & present[:, u]) for u in range(len(self.codes)) if u != v]
        return {
            "reconstruct": _mean(_squared(made, x), present & possible),
            "adversary": _mean(verdict, present | possible),
            "cycle": _mean(torch.stack([e for e, _ in back]), torch.stack([m for _, m in back])),
        }


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().mean(-1)


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Over the true entries; a zero that can be differentiated where there are none."""
    return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
