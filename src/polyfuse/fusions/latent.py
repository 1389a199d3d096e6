"""A latent space that all views share: as distributions that multiply, or split into what is shared and what is not."""

import itertools
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pooled
from ..core.layers import Mlp, Transformer


class _Experts(Fusion):
    """Each view believes in a normal distribution of a latent vector; a standard normal is the belief before any view."""

    losses = ("kl",)

    def __init__(self, views: list[str], width: int, kl: float, dropout: float):
        super().__init__(views, width)
        self.kl = kl
        self.beliefs = nn.ModuleList(nn.Linear(width, 2 * width) for _ in views)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def believed(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Means [B, V, D], precisions [B, V, D] (zero where absent), and present [B, V]."""
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        mean, log_variance = torch.stack([m(x[:, v]) for v, m in enumerate(self.beliefs)], 1).float().chunk(2, -1)
        precision = (-log_variance.clamp(-8.0, 8.0)).exp()
        return mean, precision.masked_fill(~present.unsqueeze(-1), 0.0), present

    def answered(self, tokens: Tokens, mean: Tensor, precision: Tensor, **notes: Tensor) -> Tokens:
        """The row from a latent distribution [B, D]: drawn in training, its mean afterwards."""
        fused = tokens.with_row(self.out(mean + torch.randn_like(mean) * precision.rsqrt() if self.training else mean), **notes)
        if self.training:
            divergence = 0.5 * (mean.square() + 1 / precision + precision.log() - 1).sum(1)
            fused = replace(fused, losses={**fused.losses, "kl": self.kl * divergence.mean()})
        return fused


@fusions("poe")
class ProductOfExperts(_Experts):
    """Product of experts: the surer a view is, the more it counts, and each view that is there makes the row surer.

    Made for absent views: any set of them has a proper answer, and with none the prior answers. One view that is sure
    and wrong pulls all; `mopoe` is milder.

    Source: Wu and Goodman 2018, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", eq. of section 2.2:
    precision T = 1 + sum over present v of T_v, mean = sum T_v m_v / T, row = MLP(z). Differs: no decoder. `losses["kl"]`,
    in training, holds the divergence from the prior; `notes["weights"]` [B, V] each view's share of the precision.

    Args:
        kl: weight of the divergence.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (2 V + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, kl: float = 1e-4, dropout: float = 0.1):
        super().__init__(views, width, kl, dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        mean, precision, _ = self.believed(tokens)
        total = 1 + precision.sum(1)
        weights = precision.mean(2)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
        return self.answered(tokens, (precision * mean).sum(1) / total, total, weights=weights)


@fusions("mopoe")
class MixtureOfProducts(_Experts):
    """A mixture over subsets of the views, each a product of experts: good together and each good alone.

    In training one subset of a row's views is drawn and must answer by itself, which is what absent views will ask; with
    one view per subset it is the mixture of experts of MMVAE. The price is in complete rows, where `poe` is sharper.

    Source: Sutter et al. 2021, "Generalized Multimodal ELBO", eq. 4-6; Shi et al. 2019, "Variational Mixture-of-Experts
    Autoencoders" (MMVAE). The answer is the mean over all subsets. Differs: no decoder; with more than six views only the
    subsets of one, of two and of all.

    Args:
        kl: weight of the divergence from the prior.
        largest: views per subset at most; 0 = all of them, 1 = MMVAE.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (2 V + 4) * D^2 parameters; 2^V products of D numbers, linear in tokens.
    """

    subsets: Tensor

    def __init__(self, views: list[str], width: int, *, kl: float = 1e-4, largest: int = 0, dropout: float = 0.1):
        super().__init__(views, width, kl, dropout)
        count = len(views)
        sizes = [s for s in range(1, count + 1) if s <= (largest or count) and (count <= 6 or s in (1, 2, count))]
        chosen = [[v in subset for v in range(count)] for s in sizes for subset in itertools.combinations(range(count), s)]
        self.register_buffer("subsets", torch.tensor(chosen), persistent=False)  # [S, V]

    def forward(self, tokens: Tokens) -> Tokens:
        mean, precision, present = self.believed(tokens)
        subsets = self.subsets.float()
        total = 1 + torch.einsum("sv,bvd->bsd", subsets, precision)
        middle = torch.einsum("sv,bvd->bsd", subsets, precision * mean) / total
        whole = (self.subsets.unsqueeze(0) <= present.unsqueeze(1)).all(2)  # [B, S]: has the row all of it?
        share = torch.where(whole.any(1, keepdim=True), whole.float(), 1.0)  # with nothing, every subset is the prior
        if self.training:
            drawn = torch.multinomial(share, 1).view(-1, 1, 1).expand(-1, 1, middle.shape[2])
            return self.answered(tokens, middle.gather(1, drawn)[:, 0], total.gather(1, drawn)[:, 0])
        share = share / share.sum(1, keepdim=True)
        return self.answered(tokens, torch.einsum("bs,bsd->bd", share, middle), torch.einsum("bs,bsd->bd", share, total))


@fusions("shared-private")
class SharedPrivate(Fusion):
    """Each view twice: what it shares with the others, and what is its own; kept apart by losses, then read together.

    Where views overlap and each also knows something of its own: alignment without losing the rest. With few rows its
    three losses are more to fit than they help (`concat`).

    Source: Hazarika et al. 2020, "MISA: Modality-Invariant and -Specific Representations", eq. 3-10, and Zellinger et al.
    2017 (central moment discrepancy, five moments). In training `losses` holds "similar" (moments of the shared parts),
    "different" (|S' P|^2 of shared and private) and "reconstruct" (x_v from both). row = MLP([transformer over the 2 V
    parts; present]).

    Args:
        similar, different, reconstruct: weights of the losses.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention and the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (5 V + 16) * D^2 parameters; quadratic in views.
    """

    losses = ("similar", "different", "reconstruct")

    def __init__(
        self,
        views: list[str],
        width: int,
        *,
        similar: float = 0.1,
        different: float = 0.1,
        reconstruct: float = 0.1,
        heads: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__(views, width)
        self.weights = {"similar": similar, "different": different, "reconstruct": reconstruct}
        self.shared = nn.Linear(width, width)
        self.private = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.decoder = nn.Linear(width, width)
        self.read = Transformer(width, 1, heads, dropout)
        self.out = Mlp(len(views) * (2 * width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        shared = self.shared(x).sigmoid()  # bounded, as the moments ask
        private = torch.stack([m(x[:, v]) for v, m in enumerate(self.private)], 1).sigmoid()
        parts = self.read(torch.cat([shared, private], 1), present.repeat(1, 2))
        fused = tokens.with_row(self.out(torch.cat([parts.flatten(1), present.to(parts.dtype)], 1)))
        if self.training:
            losses = self._losses(x.detach().float(), shared.float(), private.float(), present)
            fused = replace(fused, losses={**fused.losses, **{name: self.weights[name] * loss for name, loss in losses.items()}})
        return fused

    def _losses(self, x: Tensor, shared: Tensor, private: Tensor, present: Tensor) -> dict[str, Tensor]:
        real = present.unsqueeze(-1)
        count = real.sum(0).clamp(min=1)  # [V, 1]
        made = self.decoder(shared + private).float()
        found = {"reconstruct": ((made - x).square().mean(-1) * present).sum() / present.sum().clamp(min=1)}
        centre_s, centre_p = ((h * real).sum(0) / count for h in (shared, private))
        s, p = (shared - centre_s) * real, (private - centre_p) * real
        unit_s, unit_p = (h / (h.square().sum(-1, keepdim=True) + 1e-6).sqrt() for h in (s, p))
        found["different"] = (torch.einsum("bvi,bvj->vij", unit_s, unit_p) / count.unsqueeze(-1)).square().mean()
        moments = [centre_s] + [(s**k).sum(0) / count for k in range(2, 6)]
        both = [(u, v) for u, v in itertools.combinations(range(len(self.views)), 2)]
        if both:
            u, v = torch.tensor(both, device=x.device).T
            seen = present.any(0)[u] & present.any(0)[v]
            gaps = sum((((m[u] - m[v]).square().sum(-1) + 1e-12).sqrt() for m in moments), torch.zeros(len(both), device=x.device))
            found["similar"] = (gaps * seen).sum() / seen.sum().clamp(min=1)
        return found
