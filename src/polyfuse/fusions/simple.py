"""One vector per view, and element-wise arithmetic between them: the cheap fusions that every other has to beat."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions, pooled
from ..core.layers import Mlp, masked_softmax


@fusions("concat")
class Concat(Fusion):
    """The views' vectors end to end, then a multilayer perceptron.

    The usual baseline, and hard to beat on small tables. Every view keeps weights of its own, so it sees which
    feature came from where; products between views it can only approximate through its hidden layer (`multiply`,
    `tensor`), and which token of one view belongs to which of another it cannot see (`transformer`, `mult`).

    Source: ours; the early "feature-level" fusion of the literature. row = MLP([x_1; ...; x_V; present]).
    An absent view is zeros plus a missing indicator, whose weights are the learned vector that stands for it.

    Args:
        hidden: width of the hidden layer in multiples of D.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not lookup
    Cost:
        hidden * (V + 1) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, hidden: int = 2, dropout: float = 0.1):
        super().__init__(views, width)
        self.out = Mlp(len(views) * (width + 1), hidden * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        return tokens.with_row(self.out(torch.cat([x.flatten(1), present.to(x.dtype)], 1)))


@fusions("early")
class Early(Concat):
    """Feature-level fusion: all columns of plain numbers become one vector before any encoder; what is left goes as in `concat`.

    Where numbers of several sources belong together (three sets of measurements of one leaf) and one encoder should see
    their products from the start. It gives up what `concat` keeps: a source that is missing is no absent view any more but
    missing components, a number that cannot be read costs the row all of them, and sources have no weights or contributions
    of their own. Text, pictures and sounds have no plain
    numbers to join; without at least two such columns it is `concat`.

    Source: ours; the early fusion of the literature (Snoek et al. 2005, "Early versus Late Fusion in Semantic Video Analysis").
    row = MLP([x_1; ...; x_V; present]) over the views that are left.

    Args:
        hidden: width of the hidden layer in multiples of D.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not lookup
    Cost:
        hidden * (V + 1) * D^2 parameters, V the views that are left; linear in tokens.
    """

    level = "feature"


class _Mixed(Fusion):
    """Every view's vector through a linear map of its own; a subclass mixes them to one; a norm and a perceptron end it.

    Args:
        dropout: in the hidden layer of the perceptron.
    """

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in views)
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def vectors(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """x [B, V, D], zero where absent, and present [B, V]."""
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        x = torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1)
        return x.masked_fill(~present.unsqueeze(-1), 0.0), present

    def mix(self, x: Tensor, present: Tensor) -> Tensor:
        """[B, V, D] -> [B, D]; zeros where nothing is present, which the norm's bias makes a learned default."""
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_row(self.out(self.norm(self.mix(*self.vectors(tokens)))))


@fusions("add")
class Add(_Mixed):
    """The sum of the views' mapped vectors.

    As many parameters in the perceptron for two views as for twenty, and an absent view is simply no summand. It
    expresses what is additive before the perceptron; `concat` has more room, `multiply` the products.

    Source: ours; row = MLP(norm(sum over present v of W_v x_v + b_v)).

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (V + 4) * D^2 parameters; linear in tokens.
    """

    def mix(self, x: Tensor, present: Tensor) -> Tensor:
        return x.sum(1)


@fusions("multiply")
class Multiply(_Mixed):
    """The element-wise product of the views' mapped vectors.

    Right where the answer is in the agreement of views: a question about a picture, whether a sound belongs to a
    clip, XOR. The factors start near one, so that the product opens as 1 + sum + pairwise products + ...: sums are
    still expressed, and no view's gradient vanishes at the start. Products of every order share D channels; `tensor`
    gives each its own.

    Source: ours, after the Hadamard product of Kim et al. 2017, "Hadamard Product for Low-rank Bilinear Pooling",
    eq. 3; row = MLP(norm(prod over present v of (1 + W_v x_v + b_v))). An absent factor is 1.

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (V + 4) * D^2 parameters; linear in tokens.
    """

    def mix(self, x: Tensor, present: Tensor) -> Tensor:
        product = x.new_ones(x[:, 0].shape, dtype=torch.float32)
        for factor in (1.0 + x.float()).unbind(1):
            product = product * factor
            # the norm that follows takes the scale out again: this only keeps twenty factors from overflowing
            product = product / product.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
        return product


@fusions("max")
class Maximum(_Mixed):
    """The element-wise maximum of the views' mapped vectors.

    "Any view says so": the strongest evidence for a feature wins and the weaker views of a row cannot dilute it.
    It cannot count agreeing views (`add`) nor weigh one against another (`weighted`, `gmu`).

    Source: ours; row_d = MLP(norm(max over present v of (W_v x_v + b_v)))_d.

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (V + 4) * D^2 parameters; linear in tokens.
    """

    def mix(self, x: Tensor, present: Tensor) -> Tensor:
        lowest = x.masked_fill(~present.unsqueeze(-1), torch.finfo(x.dtype).min)
        return lowest.amax(1).masked_fill(~present.any(1, keepdim=True), 0.0)


@fusions("weighted")
class Weighted(_Mixed):
    """A learned weighted mean: one weight per view, the same in every row, to be read afterwards.

    For a reader who asks how much each view counts. The weights of the views a row has sum to one. Weights that
    depend on the row are `attention` (one per view) and `gmu` (one per view and feature).

    Source: ours; row = MLP(norm(sum over v of a_v (W_v x_v + b_v))), a = softmax over present v of s_v.
    `notes["weights"]` [B, V] holds a.

    Args:
        dropout: in the hidden layer of the perceptron.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product, not lookup
    Cost:
        (V + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width, dropout=dropout)
        # one view has weight one whatever its score is: nothing to learn
        self.scores = nn.Parameter(torch.zeros(len(views)), requires_grad=len(views) > 1)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = self.vectors(tokens)
        weights = masked_softmax(self.scores.expand(present.shape), present)
        row = self.out(self.norm(torch.einsum("bv,bvd->bd", weights.to(x.dtype), x)))
        return tokens.with_row(row, weights=weights)
