"""Which token of one view belongs to which of another: words and patches, sounds and frames."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pool, pooled
from ..core.layers import Block, Mlp, Transformer, heads_for, masked_softmax

_NEVER = -1e4  # the logarithm of a weight that is nothing, still finite in 16 bits


class _Sequences(Fusion):
    """Each view's tokens, normed, zero under the mask."""

    def sequences(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Per view x [B, N, D] and mask [B, N]."""
        found = []
        for view in self.views:
            x, mask = tokens[view]
            real = mask.unsqueeze(-1)
            found.append((F.layer_norm(x.masked_fill(~real, 0.0), (self.width,)).masked_fill(~real, 0.0), mask))
        return found


@fusions("coattention")
class CoAttention(_Sequences):
    """Every view chooses which of its own tokens count, in the light of the tokens of the others.

    A light form of alignment: one affinity per pair of tokens, one weight per token. It finds "the patch the word is
    about"; features do not cross over, which is what `mult` and `transformer` do. A view of one token has nothing to choose.

    Source: Lu et al. 2016, "Hierarchical Question-Image Co-Attention", eq. 3-5 (parallel), for any number of views:
    C_ij = tanh(P_i X_i (P_j X_j)' / sqrt(D)), H_i = tanh(W_i X_i + mean over present j of C_ij W_j X_j),
    a_i = softmax(w_i' H_i), row = MLP([a_1 X_1; ...; a_V X_V; present]).

    Args:
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup
    Cost:
        (4 V + 2) * D^2 parameters; quadratic in tokens, once.
    """

    exempt = {"fusion_gradients": "a view of one token has nothing to choose from, so its score learns nothing"}

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        several = len(views) > 1
        self.affinities = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in views).requires_grad_(several)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.scores = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in views)
        self.out = Mlp(len(views) * (width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        views = self.sequences(tokens)
        keys = [p(x) for p, (x, _) in zip(self.affinities, views)]
        hidden = [m(x).masked_fill(~mask.unsqueeze(-1), 0.0) for m, (x, mask) in zip(self.maps, views)]
        present = tokens.present(self.views)
        chosen = []
        for i, (x, mask) in enumerate(views):
            light = torch.zeros_like(hidden[i])
            for j in range(len(views)):
                if j != i:
                    affinity = (keys[i] @ keys[j].transpose(1, 2) / math.sqrt(self.width)).tanh()  # [B, N_i, N_j]
                    light = light + affinity @ hidden[j] / views[j][1].sum(1).clamp(min=1).view(-1, 1, 1)
            others = (present.sum(1) - present[:, i].long()).clamp(min=1).view(-1, 1, 1)
            weights = masked_softmax(self.scores[i]((hidden[i] + light / others).tanh()).squeeze(-1), mask)
            chosen.append(torch.einsum("bn,bnd->bd", weights.to(x.dtype), x))
        return tokens.with_row(self.out(torch.cat([*chosen, present.to(x.dtype)], 1)))


@fusions("mult")
class CrossModal(_Sequences):
    """Pairwise cross-modal transformers: every view is re-read through the eyes of every other.

    The strongest alignment: each token of a view gathers from the tokens of one other view, layer after layer, for every
    ordered pair. It learns from unaligned sequences and costs accordingly; with more than four views take `transformer`.

    Source: Tsai et al. 2019, "Multimodal Transformer for Unaligned Multimodal Language Sequences", eq. 3-5:
    Z_(j->i) passes `depth` blocks whose queries are its own tokens and whose keys and values are those of view j; then per
    view a self-attention transformer over [Z_(j->i) for all j], and row = MLP([mean over tokens of each; present]).
    Differs: the mean over real tokens instead of the last, for padding has no last step.

    Args:
        depth: cross-modal blocks per pair.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention, on its result and in the perceptrons.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup, not product
    Cost:
        (V (V - 1) * 12 depth + 12 V (V - 1)^2 + 2 V (V - 1) + 2) * D^2 parameters; N_i * N_j for each pair of views.
    """

    exempt = {"fusion_gradients": "a query to a view of one token finds that token whatever it asks, so it learns nothing"}

    def __init__(self, views: list[str], width: int, *, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.pairs = [[j for j in range(len(views)) if j != i] for i in range(len(views))]
        self.cross = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(Block(width, heads, dropout) for _ in range(depth)) for _ in others) for others in self.pairs
        )
        joint = max(len(views) - 1, 1) * width  # one view alone is read by itself
        self.own = nn.ModuleList(Transformer(joint, 1, heads, dropout) for _ in views)
        self.out = Mlp(len(views) * (joint + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        views = self.sequences(tokens)
        read = []
        for i, (x, mask) in enumerate(views):
            seen = []
            for blocks, j in zip(self.cross[i], self.pairs[i]):  # type: ignore[call-overload]
                z = x
                for block in blocks:
                    z = block(z, mask, views[j])
                seen.append(z)
            read.append(pool(self.own[i](torch.cat(seen, -1) if seen else x, mask), mask))
        return tokens.with_row(self.out(torch.cat([*read, tokens.present(self.views).to(read[0].dtype)], 1)))


@fusions("transport")
class Transport(_Sequences):
    """Optimal transport: every pair of views is aligned by the cheapest plan that carries all tokens of one to the other.

    For "do these belong together" and for views that describe the same things in another order: unlike attention no
    token may be ignored, so what has no partner shows in the cost. The cost itself goes to the perceptron. Where most
    tokens have no partner, `mult` or `coattention`.

    Source: Cuturi 2013, "Sinkhorn Distances", algorithm 1, in logarithms; alignment as in Chen et al. 2020, "Graph
    Optimal Transport for Cross-Domain Alignment", section 3.1. With cost 1 - cosine and equal weights of the real tokens,
    Y_(j->i) = N_i T X_j; row = MLP([norm(sum of W_v mean(X_v) + mean over pairs of mean over tokens of
    GELU(U [X_i; Y_(j->i); X_i * Y_(j->i)])); costs]). Pairs with an absent view are left out. `notes["distance"]`
    [B, pairs] holds the costs.

    Args:
        softness: of the plan (epsilon); towards zero it becomes one to one.
        steps: iterations.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup
    Cost:
        (2 V + 7) * D^2 parameters; steps * N_i * N_j for each pair of views.
    """

    def __init__(self, views: list[str], width: int, *, softness: float = 0.1, steps: int = 20, dropout: float = 0.1):
        super().__init__(views, width)
        self.pairs = list(itertools.combinations(range(len(views)), 2))
        self.softness, self.steps = softness, steps
        self.places = nn.ModuleList(nn.Linear(width, width) for _ in views).requires_grad_(bool(self.pairs))
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.compare = nn.Linear(3 * width, width).requires_grad_(bool(self.pairs))
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width + len(self.pairs), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        views = self.sequences(tokens)
        present = tokens.present(self.views)
        own = torch.stack([m(pool(x, mask)) for m, (x, mask) in zip(self.maps, views)], 1)
        total = own.masked_fill(~present.unsqueeze(-1), 0.0).sum(1)
        places = [F.normalize(p(x).float(), dim=-1, eps=1e-6) for p, (x, _) in zip(self.places, views)]
        distances = []
        for i, j in self.pairs:
            (a, mask_a), (b, mask_b) = views[i], views[j]
            cost = 1 - (places[i] @ places[j].transpose(1, 2)).float()  # [B, N_i, N_j]; sums of _NEVER overflow 16 bits
            plan = transport_plan(cost, mask_a, mask_b, self.softness, self.steps)
            both = (present[:, i] & present[:, j]).unsqueeze(1)
            met = self._compared(a, mask_a, plan, b) + self._compared(b, mask_b, plan.transpose(1, 2), a)
            total = total + met.masked_fill(~both, 0.0) / len(self.pairs)
            distances.append((plan * cost).sum((1, 2)).masked_fill(~both[:, 0], 0.0))
        distance = torch.stack(distances, 1) if distances else total.new_zeros(len(total), 0)
        return tokens.with_row(self.out(torch.cat([self.norm(total), distance.to(total.dtype)], 1)), distance=distance)

    def _compared(self, x: Tensor, mask: Tensor, plan: Tensor, other: Tensor) -> Tensor:
        """[B, N, D], [B, N], plan [B, N, M], [B, M, D] -> [B, D]."""
        aligned = (plan / plan.sum(2, keepdim=True).clamp(min=1e-9)).to(other.dtype) @ other
        return pool(F.gelu(self.compare(torch.cat([x, aligned, x * aligned], -1))), mask) / 2


def transport_plan(cost: Tensor, mask_a: Tensor, mask_b: Tensor, softness: float, steps: int) -> Tensor:
    """Sinkhorn's plan between equal weights of the real tokens; zero under the masks.

    Shapes:
        cost [B, N, M], mask_a [B, N], mask_b [B, M] -> [B, N, M], rows sum to about 1 / N, columns to 1 / M
    """

    def log_weights(mask: Tensor) -> Tensor:
        even = -mask.sum(1, keepdim=True).clamp(min=1).to(cost.dtype).log()
        return torch.where(mask, even, _NEVER)

    real = mask_a.unsqueeze(2) & mask_b.unsqueeze(1)
    kernel = (-cost / softness).masked_fill(~real, _NEVER)
    log_a, log_b = log_weights(mask_a), log_weights(mask_b)
    u, v = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(steps):
        u = log_a - (kernel + v.unsqueeze(1)).logsumexp(2)
        v = log_b - (kernel + u.unsqueeze(2)).logsumexp(1)
    return (kernel + u.unsqueeze(2) + v.unsqueeze(1)).masked_fill(~real, _NEVER).exp().masked_fill(~real, 0.0)


@fusions("similarity")
class Similarity(Fusion):
    """Cosine similarities of every pair of views, in several learned subspaces, beside the views' vectors.

    The two towers of retrieval, for "does this belong to that?": a sound and a picture, a question and an answer. It needs
    fewer rows than `concat`, `bilinear` or `multiply` to learn that two views agree, whatever it is they agree on, and goes
    well with the objective `contrastive`. Which token of one belongs to which of the other is `coattention`'s.

    Source: Huang et al. 2013, "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", eq. 4 (the cosine of
    two towers); beside the vectors as in Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and
    Recommendation Systems", section 2.1. z_v^h = P_h W_v x_v, s_uv^h = cos(z_u^h, z_v^h), h one of H equal parts of the width;
    row = MLP([x_1; ...; x_V; present]) + S s. The similarity of an absent view is 0.

    Args:
        heads: H.
        dropout: on the vectors and in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor
    Cost:
        (3 V + 2) * D^2 parameters; linear in tokens, quadratic in views.
    """

    def __init__(self, views: list[str], width: int, *, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.heads = heads_for(width, heads)
        self.pairs = list(itertools.combinations(range(len(views)), 2))
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in views if self.pairs)
        self.told = nn.Linear(len(self.pairs) * self.heads, width, bias=False) if self.pairs else None
        self.dropout = nn.Dropout(dropout)
        self.out = Mlp(len(views) * (width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        row = self.out(self.dropout(torch.cat([x.flatten(1), present.to(x.dtype)], 1)))
        if self.told is not None:
            z = torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1).unflatten(2, (self.heads, -1))  # [B, V, H, D / H]
            z = F.normalize(z.float(), dim=-1, eps=1e-4).masked_fill(~present[:, :, None, None], 0.0)
            s = torch.stack([(z[:, u] * z[:, v]).sum(-1) for u, v in self.pairs], 1)  # [B, pairs, H]
            row = row + self.told(s.flatten(1).to(row.dtype))
        return tokens.with_row(row)
