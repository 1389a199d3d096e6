"""Cells that hold several names: a list, a JSON list, or one text that is cut at a separator later."""

import json
from typing import Any

import numpy as np

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
