"""How good an answer is and how sure that figure is: on anything that answers."""

from .leakage import leaks
from .learning import knowledge, told
from .metrics import difference, evaluate, naive
from .robustness import KINDS, RATES, Robustness, checked_rates, curves, relative

__all__ = [
    "KINDS",
    "RATES",
    "Robustness",
    "checked_rates",
    "curves",
    "difference",
    "evaluate",
    "knowledge",
    "leaks",
    "naive",
    "relative",
    "told",
]
