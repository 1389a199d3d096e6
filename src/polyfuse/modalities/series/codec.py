"""Readings over time: from files, lists and columns to scaled arrays with gaps."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from torch import Tensor

from ...core import Codec, Draws, Value, codecs

SUFFIXES = (".npy", ".csv", ".tsv", ".parquet", ".txt")
_SAMPLE = 20_000
_LARGEST = float(np.finfo(np.float32).max)


@codecs("series")
class SeriesCodec(Codec):
    """Readings over time, [T, channels], scaled per channel; a gap is masked and never a value.

    A cell is a JSON list ([1, 2, null] or [[..], [..]], time first), an array [T] or [T, C], a file (.npy, .parquet, or
    CSV with a column per channel), or several columns: each a channel of its own length, stretched to the longest, or
    each one number, which makes one channel. Longer series keep their last readings.
    Source: ours.

    Args:
        channels: 0 = the most common number of the training rows; another is refused.
        longest: readings kept; 0 = as long as 99 of 100 training series, at most 512.
        augment: strength of the jitter while training, in tenths of a channel's deviation; 0 = none.
    Shapes:
        cell -> "value" float32 [T, C] (0 in gaps), "real" bool [T, C]
    Raises:
        DataError: no numbers, no reading at all, infinite readings, or another number of channels.
    """

    encoder = "series-cnn"
    untrained = "series-features"
    media = True
    ragged = True

    def __init__(self, column: str, *, channels: int = 0, longest: int = 0, augment: float = 0.5):
        super().__init__(column)
        self.given_channels, self.given_longest, self.strength = channels, longest, augment
        self.channels, self.longest = channels or 1, longest or 512
        self.mean, self.std = [0.0] * self.channels, [1.0] * self.channels

    @classmethod
    def examples(cls) -> list[Any]:
        return ["[1, 2, null, 3.5]", [0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], np.array([1.0, np.nan, 3.0]), "[4]", [[1], [2], [None], [5]]]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        if not sample:
            return 0.0
        lengths, good = set(), 0
        for cell in sample:
            if isinstance(cell, str) and cell.strip().lower().endswith(".npy"):
                return 0.9
            if isinstance(cell, str) and not cell.lstrip().startswith("["):
                continue
            try:
                found = json.loads(cell) if isinstance(cell, str) else cell
                array = _numbers(found) if isinstance(found, list | np.ndarray) else None
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
            if array is not None and array.size and array.ndim in (1, 2) and not (isinstance(cell, np.ndarray) and cell.dtype == np.uint8):
                good += 1
                lengths.add(-1 if array.ndim == 2 or np.isnan(array).any() else len(array))
        varied = len(lengths) > 1 or -1 in lengths
        return (0.93 if varied else 0.5) * good / len(sample)

    def read(self, raw: Any) -> np.ndarray | None:
        """-> float64 [T, C], NaN in gaps."""
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return None
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except (ValueError, RecursionError):
                raise self.error(f"cannot read {raw[:40]!r} as a series", expected="a list such as [0.1, null, 0.3], or a path") from None
        if isinstance(raw, bytes):
            raw = self._from_file(raw)
        if isinstance(raw, tuple) and any(isinstance(r, list | np.ndarray | bytes) for r in raw):  # one series per source column
            return self._stretched(raw)
        return self._checked(raw)

    def _checked(self, raw: Any) -> np.ndarray:
        try:
            if isinstance(raw, list | tuple):
                raw = [
                    [math.nan if v is None or v == "" else v for v in r]
                    if isinstance(r, list | tuple)
                    else math.nan
                    if r is None or r == ""
                    else r
                    for r in raw
                ]
            array = _numbers(raw)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(
                f"cannot read a {type(raw).__name__} as a series ({str(error)[:100]})",
                expected="numbers: one list, or one list per time step",
            ) from None
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or not array.size:
            raise self.error(f"is a series of shape {array.shape}", expected="at least one reading, [time] or [time, channels]")
        if (np.abs(array) > _LARGEST).any():
            raise self.error("has infinite readings", expected="finite readings, null in gaps")
        if np.isnan(array).all():
            raise self.error(
                "has no reading at all, only gaps", expected="at least one number", fix="empty the cell where the series is missing"
            )
        return array

    def _from_file(self, data: bytes) -> Any:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        if not data:
            raise self.error("the file is empty (zero bytes)", expected="a series")
        try:
            if data[:6] == b"\x93NUMPY":
                return np.load(BytesIO(data), allow_pickle=False)
            if data[:4] == b"PAR1":
                table = pyarrow.parquet.read_table(BytesIO(data))
            else:
                first = data[:4096].decode("utf-8-sig").split("\n")[0]
                head = all(_is_number(c) for c in first.replace(";", ",").replace("\t", ",").split(","))
                mark = next((d for d in (",", ";", "\t") if d in first), ",")
                table = pyarrow.csv.read_csv(
                    BytesIO(data), pyarrow.csv.ReadOptions(autogenerate_column_names=head), pyarrow.csv.ParseOptions(delimiter=mark)
                )
            columns = [c.cast(pa.float64()).to_numpy() for c in table.columns if not pa.types.is_null(c.type)]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, EOFError, OSError) as error:
            raise self.error(
                f"the file is no series ({str(error).splitlines()[0][:100]})", expected=".npy, .parquet, or a CSV of numbers"
            ) from None
        return np.stack(columns, 1) if columns else np.zeros((0, 1))

    def _stretched(self, raws: Sequence[Any]) -> np.ndarray:
        """One channel per source, each stretched to the longest; a missing source is a channel of gaps."""
        parts = [None if r is None else self.read(r) for r in raws]
        longest = max((len(p) for p in parts if p is not None), default=0)
        if not longest:
            raise self.error("has no reading in any of its columns", expected="at least one number")
        out = []
        for part in parts:
            if part is None:
                out.append(np.full((longest, 1), np.nan))
            else:
                at = np.round(np.linspace(0, len(part) - 1, longest)).astype(int)
                out.append(part[at] if len(part) < longest else part)
        return np.concatenate(out, 1)

    def fit(self, values: Iterator[np.ndarray]) -> None:
        kept, lengths, shapes = [], [], Counter[int]()
        for at, value in enumerate(values):
            kept.append(value)
            lengths.append(len(value))
            shapes[value.shape[1]] += 1
            if at + 1 == _SAMPLE:
                break
        if not kept:
            return
        self.channels = self.given_channels or shapes.most_common(1)[0][0]
        self.longest = self.given_longest or int(min(512, max(1, np.quantile(lengths, 0.99))))
        flat = np.concatenate([v for v in kept if v.shape[1] == self.channels] or [np.zeros((1, self.channels))])
        real = ~np.isnan(flat)
        count = np.maximum(real.sum(0), 1)
        mean = np.where(real, flat, 0).sum(0) / count
        std = np.sqrt(np.where(real, (flat - mean) ** 2, 0).sum(0) / count)
        self.mean = mean.tolist()
        self.std = np.where(std > np.maximum(1e-9 * np.abs(mean), np.finfo(np.float32).tiny), std, 1.0).tolist()  # 1: constant

    def clean(self, value: np.ndarray) -> Value:
        if value.shape[1] != self.channels:
            raise self.error(f"has {value.shape[1]} channels", expected=f"{self.channels}, as in training")
        value = value[-self.longest :]
        real = ~np.isnan(value)
        scaled = np.clip((np.where(real, value, self.mean) - self.mean) / self.std, -20, 20)
        return {"value": scaled.astype(np.float32), "real": real}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        if self.strength <= 0 or not len(x["value"]):
            return x
        value, real, s = x["value"], x["real"], self.strength
        p, t, c = value.shape
        value = value + 0.1 * s * draws.normal(t, c)
        return {**x, "value": value.masked_fill(~real, 0.0)}

    def filler(self) -> Value:
        return {"value": np.zeros((1, self.channels), np.float32), "real": np.ones((1, self.channels), bool)}

    def state(self) -> dict[str, Any]:
        return {"channels": self.channels, "longest": self.longest, "mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        self.channels, self.longest, self.mean, self.std = state["channels"], state["longest"], state["mean"], state["std"]


def _numbers(raw: Any) -> np.ndarray:
    if isinstance(raw, np.ndarray) and raw.dtype.kind in "cMmV":
        raise TypeError(f"{raw.dtype} is no reading")
    return np.array(raw, dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text.strip()
    return True
