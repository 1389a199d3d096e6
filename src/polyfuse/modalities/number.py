"""Numbers: read strictly, scaled by the training rows."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..core import MISSING, DataError, Draws, TabularCodec, codecs

_LARGEST = float(np.finfo(np.float32).max)


@codecs("number")
class NumberCodec(TabularCodec):
    """A decimal number, as a standardised value and as its rank among the training values.

    The first entry is the plain standardised number and keeps outliers as they are, clipped to +-10 deviations; the second
    is the number's normal score, which is blind to outliers and skew. A network gets both.
    Source: ours; the normal score is Van der Waerden's (1952).

    Shapes:
        cell -> "value" float32 [2]
    Raises:
        DataError: the cell is not a decimal, or not finite. "nan", "NA", "null", "none" and "-" are missing.
    Example:
        >>> NumberCodec("age").read(" 4.5 ")
        4.5
        >>> NumberCodec("age").read("1,5")
        Traceback (most recent call last):
        polyfuse.core.errors.DataError: column 'age': cannot read '1,5' as a number. Expected a decimal such as 1.5. Fix: \
write 1.5, empty the cell, or declare modality='category'.
    """

    numbers = 2
    plain = True
    version = 1

    def __init__(self, column: str):
        super().__init__(column)
        self.mean, self.std = 0.0, 1.0
        self._set_knots([0.0])

    @classmethod
    def examples(cls) -> list[Any]:
        return ["1.5", -2, 3e2, "0", 7.25]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        if not sample or any(isinstance(v, bool | list | dict | bytes | np.ndarray) for v in sample):
            return 0.0
        good = sum(_decimal(v) is not None for v in sample)
        return 0.9 * good / len(sample)

    def read(self, raw: Any) -> float | None:
        if raw is None:
            return None
        if isinstance(raw, str) and raw.strip().lower() in MISSING:
            return None
        value = _decimal(raw)
        if value is None:
            shown = raw if isinstance(raw, str) else type(raw).__name__
            decimal = str(shown).strip().replace(",", ".")
            try:
                hint = str(float(decimal)) if math.isfinite(float(decimal)) and len(decimal) < 20 else "12.5"
            except ValueError:
                hint = "12.5"
            raise self.error(
                f"cannot read {shown[:40]!r} as a number",
                expected=f"a decimal such as {hint}",
                fix=f"write {hint}, empty the cell, or declare modality='category'"
                if hint != "12.5"
                else "correct the cell, empty it, or declare modality='category'",
            )
        if math.isnan(value):
            return None
        if abs(value) > _LARGEST:
            raise self.error(
                f"{raw[:40] if isinstance(raw, str) else value!r} is not a finite number",
                expected="a decimal such as 12.5",
                fix="correct the cell or empty it",
            )
        return value

    def read_column(self, array: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, dict[int, DataError]]:
        """`read` of every cell at once: values [n], present [n], refused {row: error}."""
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            values = pc.cast(array, pa.float64(), safe=False).to_numpy().astype(np.float64)
            bad = np.flatnonzero(np.abs(values) > _LARGEST)
        else:
            try:
                plain = pc.if_else(pc.equal(array, ""), None, array) if pa.types.is_string(array.type) else array
                values = pc.cast(plain, pa.float64()).to_numpy().astype(np.float64)
                bad = np.flatnonzero(np.abs(values) > _LARGEST)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                values, bad = np.full(len(array), np.nan), np.arange(len(array))
        refused: dict[int, DataError] = {}
        if len(bad):
            for row, raw in zip(bad.tolist(), array.take(pa.array(bad)).to_pylist()):
                try:
                    value = self.read(raw)
                    values[row] = np.nan if value is None else value
                except DataError as error:
                    refused[row], values[row] = error, np.nan
        return values, np.isfinite(values), refused

    def fit(self, values: Iterator[float]) -> None:
        x = np.fromiter(values, np.float64)
        if not len(x):
            return
        apart = x - x[0]  # so that nothing cancels
        self.mean = float(x[0] + apart.mean())
        std = float(apart.std())
        self.std = std if std > max(1e-12 * abs(self.mean), float(np.finfo(np.float32).tiny)) else 1.0  # 1: a constant column
        self._set_knots(np.unique(np.quantile(x, np.linspace(0, 1, 65))).tolist())

    def _set_knots(self, knots: list[float]) -> None:
        self.knots: list[float] = knots
        self._at, self._share = np.array(knots), np.linspace(0.01, 0.99, len(knots))  # made once: a row has many numbers

    def clean(self, value: float) -> dict[str, np.ndarray]:
        return {"value": self.clean_many([value])["value"][0]}

    def clean_many(self, values: Sequence[float] | np.ndarray) -> dict[str, np.ndarray]:
        """{"value": [n, 2]} of n read values."""
        x = np.asarray(values, np.float64)
        plain = np.clip((x - self.mean) / self.std, -10, 10)
        if len(self._at) > 1:
            share = np.interp(x, self._at, self._share)
        else:
            share = np.full(len(x), 0.5)
        return {"value": np.stack([plain, _normal_score(share)], 1).astype(np.float32)}

    def restore(self, standard: Tensor) -> Tensor:
        """Standardised values back to the column's unit."""
        return standard * self.std + self.mean

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Normal noise in the column's unit; at level 1 its deviation is the column's own. The rank follows the value."""
        if not level:
            return x
        noisy = x["value"][:, 0].double().cpu() + level * draws.normal()
        value = torch.from_numpy(self.clean_many((noisy * self.std + self.mean).numpy())["value"])
        return {**x, "value": value.to(x["value"].device)}

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "knots": self.knots}

    def load_state(self, state: dict[str, Any]) -> None:
        self.mean, self.std = state["mean"], state["std"]
        self._set_knots(list(state["knots"]))


def _decimal(raw: Any) -> float | None:
    """None where it is no number; "1_000" and "∞" are none either."""
    if isinstance(raw, str):
        text = raw.strip()
        if "_" in text or not text.isascii():
            return None
        if text.lower() in MISSING:
            return math.nan
        raw = text
    elif isinstance(raw, bytes | list | dict | np.ndarray) and not np.isscalar(raw):
        return None
    try:
        return float(raw)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def _normal_score(share: np.ndarray) -> np.ndarray:
    """The standard normal's quantile, by the logistic approximation of Bowling et al. 2009 (within 0.01 here)."""
    return np.log(share / (1 - share)) / 1.702
