"""Tokens of all views to one vector per row. One file per family; this is the table of contents."""

from . import attention, pooling, simple

__all__ = ["attention", "pooling", "simple"]
