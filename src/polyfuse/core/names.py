"""Cells that hold names: a list, a JSON list, or one text that is cut at a separator later; and another name in place of one."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codec import Codec


def read_names(codec: Codec, raw: Any, what: str, example: str) -> list[str] | str | None:
    """-> the names of a list, or the text of a single cell as it is; None = missing.

    Args:
        what: they are, for messages: "ids", "labels".
        example: of a cell, for messages.

    Raises:
        DataError: no list, or other things in it than texts and whole numbers.
    """
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return None
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise codec.error(f"cannot read {raw[:40]!r} as a list", expected=f"{what} such as {example}") from None
    if isinstance(raw, np.ndarray):
        raw = raw.tolist()
    if isinstance(raw, list | tuple):
        if not all(map(_is_name, raw)):
            raise codec.error(f"holds other things than {what}", expected=f"{what} such as {example}")
        return [_text(v).strip() for v in raw]
    if _is_name(raw):
        return _text(raw)
    raise codec.error(f"holds a {type(raw).__name__}", expected=f"{what} such as {example}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | np.integer) and abs(int(value)) < 2**64)


def _text(value: Any) -> str:
    """Halves of surrogate pairs, which no file can hold, become question marks."""
    return str(value).encode("utf-8", "replace").decode()


def another(index: Tensor, u: Tensor, count: int) -> Tensor:
    """Another of the known indices 1 .. count, chosen by u in [0, 1); where there is no other, the one that is there.

    Example:
        >>> another(torch.tensor([1, 2, 0]), torch.tensor([0.0, 0.99, 0.5]), 2).tolist()
        [2, 1, 2]
    """
    others = count - (index > 0).long()  # of an index that is not known all are others
    step = torch.minimum((u * others).long(), others - 1)
    new = torch.where(index > 0, (index + step) % max(count, 1) + 1, step + 1)
    return torch.where(others > 0, new, index)
