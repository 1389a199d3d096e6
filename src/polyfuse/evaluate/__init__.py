"""How good an answer is and how sure that figure is: on anything that answers."""

from .metrics import difference, evaluate, naive

__all__ = ["difference", "evaluate", "naive"]
