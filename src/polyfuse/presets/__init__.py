"""fit under a preset: plan, members fitted fold by fold, their selection, the verdict."""

from .course import Course, start
from .crossfit import Table, learn
from .plan import BUDGETS, PRESETS, Plan, Step, checked, features_for, folds_for
from .selection import tempered

__all__ = [
    "BUDGETS",
    "PRESETS",
    "Course",
    "Plan",
    "Step",
    "Table",
    "checked",
    "features_for",
    "folds_for",
    "learn",
    "start",
    "tempered",
]
