"""Tokens of all views to one vector per row. One file per family; this is the table of contents.

simple        concat, early, add, multiply, max, weighted
pooling       mean, attention
attention     transformer, bottleneck, perceiver
alignment     coattention, mult, transport, similarity
interaction   bilinear, tensor, lowrank, mcb, mutan, fm, deepfm, mi, film
gates         gmu, mag, moe
latent        poe, mopoe, shared-private
shared        meta
multiscale    hierarchical, mmtm
adversarial   invariant, generate
decision      decision-mean, decision-product, decision-vote, decision-confidence, decision-weighted, decision-stacking

Under "Expresses:" each says what it learns and, after "not", what it does not. tests/test_planted.py plants these and tries:
xor (do two facts, one per view, differ?), product (inner products of two views, from few rows), lookup (which of several
tokens of one view the other asks for). Every fusion gains from redundant views and bears one of pure noise unless it says not.
"""

from . import adversarial, alignment, attention, decision, gates, interaction, latent, multiscale, pooling, shared, simple

__all__ = [
    "adversarial",
    "alignment",
    "attention",
    "decision",
    "gates",
    "interaction",
    "latent",
    "multiscale",
    "pooling",
    "shared",
    "simple",
]
