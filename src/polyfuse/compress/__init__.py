"""Make a bundle smaller, and say what that costs."""

from .distillation import distil
from .measure import lines

__all__ = ["distil", "lines"]
