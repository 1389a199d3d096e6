"""Losses beside the task's, each with a weight. One file each; this is the table of contents."""

from . import contrastive, heads, reconstruct

__all__ = ["contrastive", "heads", "reconstruct"]
