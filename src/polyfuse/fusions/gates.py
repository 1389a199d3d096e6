"""Gates: the row decides how much of each view, feature or expert goes through."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, RecipeError, Tokens, did_you_mean, fusions, pooled
from ..core.layers import Mlp


@fusions("gmu")
class GatedUnit(Fusion):
    """Gated multimodal unit: per row and per feature, how much of each view.

    Finer than `attention`, which has one weight per view. A gate sees all views, so one can say when another is to be
    believed; it blends features rather than multiplying them.

    Source: Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", eq. of figure 2a:
    h_v = tanh(W_v x_v), z_v = sigmoid(Z_v [x_1; ...; x_V]), h = sum over present v of z_v * h_v, row = MLP(norm(h)).
    `notes["weights"]` [B, V] holds the mean of z_v over features, scaled to sum to one.

    Args:
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not lookup
    Cost:
        (V^2 + V + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.gates = nn.Linear(len(views) * width, len(views) * width)
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        h = torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1).tanh()
        z = self.gates(x.flatten(1)).sigmoid().unflatten(1, (len(self.views), -1)).masked_fill(~present.unsqueeze(-1), 0.0)
        weights = z.float().mean(2)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
        return tokens.with_row(self.out(self.norm((z * h).sum(1))), weights=weights)


@fusions("mag")
class AdaptationGate(Fusion):
    """Multimodal adaptation gate: one main view, which the others may shift, but never by more than a share of its size.

    Where one view carries most (text in sentiment) and the others shade it. With views of equal worth take `gmu`.

    Source: Rahman et al. 2020, "Integrating Multimodal Information in Large Pretrained Transformers", eq. 1-5 of the gate:
    g_v = ReLU(R_v [z; x_v] + b_v), H = sum over present v of g_v * (W_v x_v) + b, a = min(beta |z| / |H|, 1),
    row = MLP(norm(z + a H)). z is the main view's vector plus a learned start, which stands alone where it is absent.

    Args:
        main: name of the main view; the first if empty.
        beta: largest size of the shift against the main view's.
        dropout: on the shifted vector and in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Raises:
        RecipeError: no view of that name.
    Expresses:
        xor, not lookup
    Cost:
        (3 V + 1) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, main: str = "", beta: float = 1.0, dropout: float = 0.1):
        super().__init__(views, width)
        self.main = main or views[0]
        if self.main not in views:
            raise RecipeError(
                "fusion 'mag'", f"has the unknown main view '{main}'", expected=f"one of {', '.join(views)}", fix=did_you_mean(main, views)
            )
        self.others = [v for v in views if v != self.main]
        self.beta = beta
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.gates = nn.ModuleList(nn.Linear(2 * width, width) for _ in self.others)
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in self.others)
        self.bias = nn.Parameter(torch.zeros(width), requires_grad=bool(self.others))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, [self.main, *self.others])
        x = F.layer_norm(x, (self.width,))
        z = self.start + x[:, 0]
        if self.others:
            shift = self.bias.expand_as(z)
            for v, (gate, m) in enumerate(zip(self.gates, self.maps), 1):
                shown = gate(torch.cat([z, x[:, v]], 1)).relu() * m(x[:, v])
                shift = shift + shown.masked_fill(~present[:, v : v + 1], 0.0)
            z = z + _length(z).div(_length(shift)).mul(self.beta).clamp(max=1.0) * shift
        return tokens.with_row(self.out(self.dropout(self.norm(z))))


@fusions("moe")
class Experts(Fusion):
    """A sparse mixture of experts: a router sends each row to the few perceptrons that suit what it has.

    Where rows are of different sorts (this pattern of absent views, that product line). On a small table the experts
    share too few rows each: take `concat`. Every expert is computed and the unchosen are weighted zero, which keeps
    shapes fixed for export; the gain is in what can be learned, not in time.

    Source: Shazeer et al. 2017, "Outrageously Large Neural Networks", eq. 1-3 without the noise; the balance loss is eq. 4 of
    Fedus et al. 2021, "Switch Transformers". row = sum over the k chosen e of g_e MLP_e([x_1; ...; x_V; present]).
    `losses["balance"]` is smallest where all experts get equal shares; `notes["experts"]` [B, E] holds g.

    Args:
        experts: E.
        chosen: k, experts per row.
        balance: weight of the balance loss.
        dropout: in the experts.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        experts * 2 (V + 1) * D^2 parameters; linear in tokens.
    """

    losses = ("balance",)

    def __init__(self, views: list[str], width: int, *, experts: int = 4, chosen: int = 2, balance: float = 0.01, dropout: float = 0.1):
        super().__init__(views, width)
        if not 1 <= chosen <= experts:
            raise RecipeError("fusion 'moe'", f"chooses {chosen} of {experts} experts", expected="at least one and no more than there are")
        inputs = len(views) * (width + 1)
        self.chosen, self.balance = chosen, balance
        self.router = nn.Linear(inputs, experts)
        self.experts = nn.ModuleList(Mlp(inputs, 2 * width, width, dropout=dropout) for _ in range(experts))

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        x = torch.cat([x.flatten(1), present.to(x.dtype)], 1)
        share = self.router(x).float().softmax(1)  # [B, E]
        best = share.topk(self.chosen, 1).indices
        gates = torch.zeros_like(share).scatter(1, best, share.gather(1, best))
        gates = gates / gates.sum(1, keepdim=True)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        routed = (gates > 0).float().mean(0) / self.chosen
        balance = self.balance * len(self.experts) * (routed * share.mean(0)).sum()
        fused = tokens.with_row(torch.einsum("be,bed->bd", gates.to(answers.dtype), answers), experts=gates)
        return replace(fused, losses={**fused.losses, "balance": balance})


def _length(x: Tensor) -> Tensor:
    """Euclidean length over the last dimension, with a slope that is finite at zero."""
    return (x.float().square().sum(-1, keepdim=True) + 1e-12).sqrt()
