"""What is asked of a row: loss, answers and metrics. This is the table of contents."""

from . import classes, numbers

__all__ = ["classes", "numbers"]
