"""Tokens of all views to one vector per row. One file per family; this is the table of contents.

simple        concat, add, multiply, max, weighted
pooling       mean, attention
attention     transformer, bottleneck, perceiver
alignment     coattention, mult, transport
interaction   bilinear, tensor, lowrank, mcb, mutan, fm, deepfm, mi, film
gates         gmu, mag, moe
latent        poe, mopoe, shared-private
shared        meta
adversarial   invariant, generate
"""

from . import adversarial, alignment, attention, gates, interaction, latent, pooling, shared, simple

__all__ = ["adversarial", "alignment", "attention", "gates", "interaction", "latent", "pooling", "shared", "simple"]
