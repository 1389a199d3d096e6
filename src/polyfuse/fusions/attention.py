"""Attention between tokens: every token may look at every other, or through a narrow passage."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Fusion, Tokens, fusions
from ..core.layers import Block, Transformer


class _Tokenwise(Fusion):
    """Tokens brought to one scale and marked with a learned embedding of their view."""

    def __init__(self, views: list[str], width: int):
        super().__init__(views, width)
        self.embedding = nn.Parameter(torch.randn(len(views), width) * 0.02)

    def marked(self, tokens: Tokens) -> Tensor:
        """[B, N, D], zero under the mask."""
        real = tokens.mask.unsqueeze(-1)
        x = F.layer_norm(tokens.x.masked_fill(~real, 0.0), (self.width,))
        owner = torch.zeros(x.shape[1], dtype=torch.long, device=x.device)
        for v, view in enumerate(self.views):
            owner[tokens.spans[view]] = v
        return (x + self.embedding[owner]).masked_fill(~real, 0.0)


@fusions("transformer")
class JointTransformer(_Tokenwise):
    """One transformer over the tokens of all views and a row token that gathers the answer.

    The most general: any token may attend to any other, so it expresses what depends on the alignment of words,
    patches and moments. It asks for more rows than the simple ones and its cost grows with the square of the tokens;
    with hundreds of tokens take `bottleneck` or `perceiver`. Products of views it learns slowly (`multiply`).
    The tokens that follow the row are the contextual ones.

    Source: Vaswani et al. 2017, "Attention Is All You Need"; the row token after the class token of Devlin et al.
    2019, "BERT"; the learned view embedding after Kim et al. 2021, "ViLT", eq. 3.

    Args:
        depth: blocks.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention, on its result and in the perceptrons.
    Shapes:
        tokens [B, N, D] -> row [B, D], tokens [B, N, D]
    Expresses:
        xor, lookup, not product
    Cost:
        depth * 12 * D^2 parameters; quadratic in tokens.
    """

    def __init__(self, views: list[str], width: int, *, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.row = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = Transformer(width, depth, heads, dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        x = self.marked(tokens)
        tokens = replace(tokens, x=x).with_row(self.row.to(x.dtype).expand(len(x), -1))
        return replace(tokens, x=self.blocks(tokens.x, tokens.mask))


@fusions("bottleneck")
class Bottleneck(_Tokenwise):
    """Each view keeps a transformer of its own; views meet only in a few shared bottleneck tokens.

    A view must say the essential in a few vectors, which keeps a redundant or noisy view from flooding the rest, and
    the cost stays linear in the number of views. Fine alignment of token with token passes the bottleneck late, after
    many steps, if at all (`transformer`, `mult`).

    Source: Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion", eq. 8-9: per layer and view
    [z_v; f_v] = Block_v([z_v; f]), then f = mean over present v of f_v. Differs: the row is the normed mean of the
    bottleneck tokens, not of one class token per view.

    Args:
        latents: bottleneck tokens.
        depth: layers.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention, on its result and in the perceptrons.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, not product
    Cost:
        V * depth * 12 * D^2 parameters; quadratic in the tokens of a view, linear in views.
    """

    def __init__(self, views: list[str], width: int, *, latents: int = 4, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.layers = nn.ModuleList(nn.ModuleList(Block(width, heads, dropout) for _ in views) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tokens) -> Tokens:
        x = self.marked(tokens)
        own = [x[:, tokens.spans[v]] for v in self.views]
        masks = [tokens.mask[:, tokens.spans[v]] for v in self.views]
        present = tokens.present(self.views)  # [B, V]
        count = len(self.latents)
        shared = self.latents.to(x.dtype).expand(len(x), -1, -1)  # [B, L, D]
        real = tokens.mask.new_ones(len(x), count)
        share = (present / present.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)  # [B, V]
        for layer in self.layers:
            results = [block(torch.cat([z, shared], 1), torch.cat([m, real], 1)) for block, z, m in zip(layer, own, masks)]  # type: ignore[call-overload]
            own = [r[:, :-count] for r in results]
            mean = torch.einsum("bv,bvld->bld", share, torch.stack([r[:, -count:] for r in results], 1).to(x.dtype))
            shared = torch.where(present.any(1).view(-1, 1, 1), mean, shared)
        return tokens.with_row(self.norm(shared.mean(1)))


@fusions("perceiver")
class Perceiver(_Tokenwise):
    """A few latent vectors read all tokens by cross-attention, think by self-attention, and read again.

    For very many tokens (video, long series): the cost is linear in them. With few tokens `transformer` is as cheap
    and more direct.

    Source: Jaegle et al. 2021, "Perceiver: General Perception with Iterative Attention", section 3.1. Differs: no
    Fourier positions, for the encoders give positions where they matter. z <- Block(Block(z; tokens); z) in each round,
    row = norm(mean of the latents z).

    Args:
        latents: latent vectors.
        depth: rounds of reading and thinking.
        heads: attention heads, lowered to a divisor of D.
        dropout: in the attention, on its result and in the perceptrons.
    Shapes:
        tokens [B, N, D] -> row [B, D]
    Expresses:
        xor, lookup, not product
    Cost:
        depth * 24 * D^2 parameters; linear in tokens, times `latents`.
    """

    def __init__(self, views: list[str], width: int, *, latents: int = 8, depth: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__(views, width)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.reads = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.thinks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tokens) -> Tokens:
        x = self.marked(tokens)
        latents = self.latents.to(x.dtype).expand(len(x), -1, -1)
        real = tokens.mask.new_ones(latents.shape[:2])
        for read, think in zip(self.reads, self.thinks):
            latents = think(read(latents, real, (x, tokens.mask)), real)
        return tokens.with_row(self.norm(latents.mean(1)))
