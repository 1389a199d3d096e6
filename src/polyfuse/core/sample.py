"""A few of many things that pass by once."""

from collections.abc import Iterable
from typing import TypeVar

Thing = TypeVar("Thing")


def evenly(things: Iterable[Thing], least: int) -> list[Thing]:
    """Things at even distances over the whole stream, in its order: all of fewer than 2 * least, else least to 2 * least - 1.

    Nothing is drawn and the stream may be of any length: when too many are held, every other one is let go. Things should not
    be views, which would keep in memory what they are cut from.

    Example:
        >>> evenly(range(7), 4), evenly(range(100), 4)
        ([0, 1, 2, 3, 4, 5, 6], [0, 16, 32, 48, 64, 80, 96])
    """
    kept: list[Thing] = []
    distance = 1
    for at, thing in enumerate(things):
        if at % distance == 0:
            kept.append(thing)
            if len(kept) == 2 * least:
                kept, distance = kept[::2], 2 * distance
    return kept
