"""Products between views: what neither says alone. One vector per view goes in; the methods differ in which products they keep."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, RecipeError, Tokens, fusions, pool, pooled
from ..core.layers import Mlp

_LARGEST_TENSOR = 4096  # entries of an outer product of all views; its perceptron has D times as many weights


class _Mapped(Fusion):
    """One normed vector per view through a linear map of its own to `inner` numbers."""

    def __init__(self, views: list[str], width: int, inner: int):
        super().__init__(views, width)
        self.maps = nn.ModuleList(nn.Linear(width, inner) for _ in views)

    def vectors(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """x [B, V, inner], zero where absent, and present [B, V]."""
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        x = torch.stack([m(x[:, v]) for v, m in enumerate(self.maps)], 1)
        return x.masked_fill(~present.unsqueeze(-1), 0.0), present


@fusions("bilinear")
class Bilinear(_Mapped):
    """All products between the features of every pair of views, after a map to a few features each.

    Every product has a weight of its own, where `multiply` has one per channel. Products of three views it reaches only
    through its perceptron (`tensor`, `lowrank`).

    Source: Tenenbaum and Freeman 2000, "Separating Style and Content with Bilinear Models", eq. 2, for each pair;
    row = MLP([x_v; present; x_i x_j' for i < j]), x_v = W_v x. Products with an absent view are zero.

    Args:
        inner: features per view that are multiplied.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (V (V - 1) / 2 * inner^2 + 2 V * inner + D) * D parameters; linear in tokens.
    """

    pairs: Tensor

    def __init__(self, views: list[str], width: int, *, inner: int = 16, dropout: float = 0.1):
        super().__init__(views, width, inner)
        self.register_buffer("pairs", torch.triu_indices(len(views), len(views), 1), persistent=False)
        self.out = Mlp(len(views) * (inner + 1) + self.pairs.shape[1] * inner**2, width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = self.vectors(tokens)
        products = torch.einsum("bpi,bpj->bpij", x[:, self.pairs[0]], x[:, self.pairs[1]])
        return tokens.with_row(self.out(torch.cat([x.flatten(1), present.to(x.dtype), products.flatten(1)], 1)))


@fusions("tensor")
class TensorFusion(_Mapped):
    """Tensor fusion: the outer product of all views, each with a one appended, so that it holds every order of product.

    The most expressive for two or three views. Its size is a power of their number: with more views it maps each to
    fewer features, and `lowrank` is better.

    Source: Zadeh et al. 2017, "Tensor Fusion Network for Multimodal Sentiment Analysis", eq. 2:
    z = [x_1; 1] (x) ... (x) [x_V; 1], row = MLP(z). An absent view is [0; 1], which leaves the products of the others.

    Args:
        inner: features per view; lowered until z has at most 4096 entries.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Raises:
        RecipeError: more than 12 views.
    Expresses:
        xor, product, not lookup
    Cost:
        (min((inner + 1)^V, 4096) + V * inner + D) * D parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, inner: int = 16, dropout: float = 0.1):
        if 2 ** len(views) > _LARGEST_TENSOR:
            raise RecipeError(
                "fusion 'tensor'",
                f"would need 2^{len(views)} entries or more for {len(views)} views",
                expected="12 views or fewer",
                fix="use 'lowrank', which is linear in the number of views",
            )
        while (inner + 1) ** len(views) > _LARGEST_TENSOR:
            inner -= 1
        super().__init__(views, width, inner)
        self.out = Mlp((inner + 1) ** len(views), width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, _ = self.vectors(tokens)
        x = F.pad(x, (0, 1), value=1.0)  # [B, V, inner + 1]
        z = x[:, 0]
        for other in x[:, 1:].unbind(1):
            z = torch.einsum("bi,bj->bij", z, other).flatten(1)
        return tokens.with_row(self.out(z))


@fusions("lowrank")
class LowRank(Fusion):
    """Low-rank tensor fusion: the tensor's product with its weights, computed without ever making the tensor.

    Products of every order at a cost linear in the number of views; of all of these functions it has those of rank R.
    For two or three views `tensor` has room for all of them.

    Source: Liu et al. 2018, "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", eq. 8:
    h = sum over r of a_r prod over v of (W_v^r' [x_v; 1]), row = MLP(norm(h)). An absent view is [0; 1]. The constants
    start at one, so that the product of many views neither vanishes nor explodes.

    Args:
        rank: R, summands.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (V * rank + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, rank: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        factors = torch.empty(len(views), rank, width + 1, width).uniform_(-1, 1) / math.sqrt(width)
        factors[:, :, -1] = 1.0
        self.factors = nn.Parameter(factors)
        self.ranks = nn.Parameter(torch.randn(rank) / math.sqrt(rank))
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, _ = pooled(tokens, self.views)
        x = F.pad(F.layer_norm(x, (self.width,)), (0, 1), value=1.0)
        product = torch.einsum("bvi,vrio->bvro", x, self.factors.to(x.dtype)).float().prod(1)  # [B, R, D]
        return tokens.with_row(self.out(self.norm(torch.einsum("bro,r->bo", product, self.ranks))))


@fusions("mcb")
class CompactBilinear(Fusion):
    """Compact bilinear pooling: the outer product of all views squeezed by random sketches, without learned weights.

    Where the encoders are good and rows are few: nothing before the perceptron is learned. Only products over all the
    views a row has are kept, no sums (`concat`) and no lower orders (`tensor`), so one view of noise drowns the rest and
    views that merely repeat one another are worth less than one alone.

    Source: Fukui et al. 2016, "Multimodal Compact Bilinear Pooling", algorithm 1; Pham and Pagh 2013 (the sketch):
    z = FFT^-1(prod over v of FFT(sketch_v(x_v))), then signed square root and L2 norm, row = MLP(z). An absent factor is 1.

    Args:
        size: entries of the sketch.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup, not redundant, not noise
    Cost:
        (size + D) * D parameters; size * log(size) per view.
    """

    places: Tensor
    signs: Tensor

    def __init__(self, views: list[str], width: int, *, size: int = 1024, dropout: float = 0.1):
        super().__init__(views, width)
        g = torch.Generator().manual_seed(len(views))
        self.register_buffer("places", torch.randint(size, (len(views), width), generator=g))
        self.register_buffer("signs", torch.randint(2, (len(views), width), generator=g).float() * 2 - 1)
        self.size = size
        self.out = Mlp(size, width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x.float(), (self.width,)) * self.signs  # [B, V, D]
        sketch = x.new_zeros(*x.shape[:2], self.size).scatter_add(2, self.places.expand(x.shape), x)
        waves = torch.fft.rfft(sketch, dim=2)
        waves = torch.where(present.unsqueeze(-1), waves, torch.ones_like(waves))
        product = waves[:, 0]
        for factor in waves[:, 1:].unbind(1):
            product = product * factor
        z = torch.fft.irfft(product, n=self.size, dim=1)
        z = z / (z.abs() + 1e-6).sqrt()  # the signed root, with a slope that is finite at zero
        return tokens.with_row(self.out(F.normalize(z, dim=1) * math.sqrt(self.size)))


@fusions("mutan")
class Mutan(_Mapped):
    """A sum of R element-wise products of bounded views: a tensor in Tucker form whose core has rank R.

    As `lowrank` with a tanh on every view and without the appended ones: only the product over all the views a row has,
    but steadier under outliers.

    Source: Ben-younes et al. 2017, "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", eq. 8-9:
    z = sum over r of prod over v of (M_v^r tanh(W_v x_v)), row = MLP(norm(z)). An absent factor is 1.

    Args:
        rank: R, summands.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (V * (rank + 1) + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, rank: int = 4, dropout: float = 0.1):
        super().__init__(views, width, width)
        self.slices = nn.ModuleList(nn.Linear(width, rank * width) for _ in views)
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = self.vectors(tokens)
        factors = torch.stack([m(x[:, v].tanh()) for v, m in enumerate(self.slices)], 1).float()  # [B, V, R D]
        product = factors.masked_fill(~present.unsqueeze(-1), 1.0).prod(1)
        return tokens.with_row(self.out(self.norm(product.unflatten(1, (-1, self.width)).sum(1))))


@fusions("fm")
class FactorisationMachine(_Mapped):
    """A factorisation machine over views: a linear part plus the element-wise products of all pairs.

    No hidden layer at all, so it is hard to overfit and its terms can be read; sums and pairwise products are all it
    expresses. `deepfm` adds a perceptron.

    Source: Rendle 2010, "Factorization Machines", eq. 1 and lemma 3.1, with views as the fields and a vector as the
    answer (the pooling of He and Chua 2017, "Neural Factorization Machines", eq. 4):
    row = w_0 + sum L_v x_v + P ((sum e_v)^2 - sum e_v^2) / 2, e_v = W_v x_v. An absent view is no summand.

    Args:
        inner: width of the factors e_v; 0 = D.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (2 V + 1) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, inner: int = 0):
        super().__init__(views, width, inner or width)
        self.linear = nn.Linear(len(views) * (width + 1), width)
        self.pairs = nn.Linear(inner or width, width, bias=False)
        for part in (self.maps, self.pairs):
            part.requires_grad_(len(views) > 1)  # one view makes no pair

    def rows(self, tokens: Tokens) -> Tensor:
        """[B, D]."""
        x, present = self.inputs(tokens)
        e, _ = self.vectors(tokens)
        return self.linear(torch.cat([x, present], 1)) + self.pairs((e.sum(1) ** 2 - (e**2).sum(1)) / 2)

    def inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Normed vectors end to end [B, V D], and present [B, V] as numbers."""
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,)).flatten(1)
        return x, present.to(x.dtype)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_row(self.rows(tokens))


@fusions("deepfm")
class DeepFm(FactorisationMachine):
    """A factorisation machine and a perceptron side by side, added.

    The machine has the sums and pairwise products at once, the perceptron what is left; a fair default for many small
    views. With two rich views `bilinear` keeps more products.

    Source: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", eq. 1:
    row = y_FM + MLP([x_1; ...; x_V; present]).

    Args:
        inner: width of the machine's factors; 0 = D.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        (4 V + 3) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, inner: int = 0, dropout: float = 0.1):
        super().__init__(views, width, inner=inner)
        self.deep = Mlp(len(views) * (width + 1), 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_row(self.rows(tokens) + self.deep(torch.cat(self.inputs(tokens), 1)))


@fusions("mi")
class MultiplicativeInteraction(_Mapped):
    """Each view makes the weights of a linear layer that the others have gone through: a small hypernetwork.

    Where one view decides how another is to be read (a question, a mode of operation). The views act one after the other
    on a learned start, so their order matters little but is not nothing; a full three-way tensor per view keeps `inner` small.
    `film` scales and shifts instead, with far fewer weights.

    Source: Jayakumar et al. 2020, "Multiplicative Interactions and Where to Find Them", eq. 1-2, chained over views:
    h <- h + h (z' T_v + U_v) + V_v z + b_v with z = W_v x_v. An absent view leaves h as it is.

    Args:
        inner: width of h and z.
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, product, not lookup
    Cost:
        V * (inner^3 + 2 inner^2 + inner * D) + 2 (inner + D) * D parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, inner: int = 32, dropout: float = 0.1):
        super().__init__(views, width, inner)
        self.start = nn.Parameter(torch.randn(inner))
        matrices = [nn.Linear(inner, inner * inner) for _ in views]
        for make in matrices:  # its output is a matrix, whose columns sum `inner` terms
            nn.init.normal_(make.weight, std=1 / inner)
            nn.init.zeros_(make.bias)
        self.matrices = nn.ModuleList(matrices)
        self.shifts = nn.ModuleList(nn.Linear(inner, inner) for _ in views)
        self.norm = nn.LayerNorm(inner)
        self.out = Mlp(inner, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = self.vectors(tokens)
        h = self.start.to(x.dtype).expand(len(x), -1)
        for v, (make, shift) in enumerate(zip(self.matrices, self.shifts)):
            matrix = make(x[:, v]).unflatten(1, (h.shape[1], -1))
            moved = torch.einsum("bi,bij->bj", h, matrix.to(h.dtype)) + shift(x[:, v])
            h = h + moved.masked_fill(~present[:, v : v + 1], 0.0)
        return tokens.with_row(self.out(self.norm(h)))


@fusions("film")
class Film(Fusion):
    """Feature-wise linear modulation: all views together scale and shift the features of every token of each view.

    Tokens are changed before they are pooled, so that a question can switch on the patches that answer it, at no more
    than linear cost. A token meets the summary of the other views, not their single tokens (`transformer`, `mult`).

    Source: Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", eq. 2, in its residual block:
    t' = t + ReLU(gamma_v(c) * (A_v t) + beta_v(c)) for each token t of view v, c the mean over present views of C_v x_v;
    row = MLP(norm(sum over present v of mean over tokens of t')). Differs: every view is modulated, not one alone.

    Args:
        dropout: in the hidden layer.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup, not product
    Cost:
        (4 V + 4) * D^2 parameters; linear in tokens.
    """

    def __init__(self, views: list[str], width: int, *, dropout: float = 0.1):
        super().__init__(views, width)
        self.contexts, self.inner, self.films = (nn.ModuleList(nn.Linear(width, size) for _ in views) for size in (width, width, 2 * width))
        self.norm = nn.LayerNorm(width)
        self.out = Mlp(width, 2 * width, width, dropout=dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        x = F.layer_norm(x, (self.width,))
        real = present.unsqueeze(-1)
        context = torch.stack([m(x[:, v]) for v, m in enumerate(self.contexts)], 1).masked_fill(~real, 0.0)
        context = context.sum(1) / real.sum(1).clamp(min=1)
        total = torch.zeros_like(context)
        for v, view in enumerate(self.views):
            t, mask = tokens[view]
            t = F.layer_norm(t.masked_fill(~mask.unsqueeze(-1), 0.0), (self.width,))
            gamma, beta = self.films[v](context).unsqueeze(1).chunk(2, -1)
            total = total + pool(t + F.relu((1 + gamma) * self.inner[v](t) + beta), mask)
        return tokens.with_row(self.out(self.norm(total)))
