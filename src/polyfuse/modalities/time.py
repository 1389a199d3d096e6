"""Dates and times as numbers a network can use."""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Draws, TabularCodec, codecs

_FORMATS = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y-%m", "%Y%m%dT%H%M%S")
_SECONDS = re.compile(r"-?[0-9]{9,10}(\.[0-9]+)?")  # as text, from 1973 on: "2024" is no second
_LIKE = re.compile(r"\d{4}[-/]\d{1,2}([-/]\d{1,2})?([T ]\d.*)?$|\d{1,2}\.\d{1,2}\.\d{4}( \d.*)?$")


@codecs("time")
class TimeCodec(TabularCodec):
    """A date or a time as its place in the whole span, and in the year, the month, the week and the day.

    ISO 8601 with or without a time zone (none is taken as UTC), 2026/11/21, 21.11.2026; numbers are no dates unless the
    column is declared, and then they are seconds since 1970. A format in which day and month could be swapped is refused.
    Source: ours; circles after Kazemi et al. 2019, "Time2Vec".

    Shapes:
        cell -> "value" float32 [10]: standardised time, fraction of the year, and sine and cosine of the place in the year,
        the month, the week and the day
    Raises:
        DataError: the cell is no date.
    """

    numbers = 10

    def __init__(self, column: str):
        super().__init__(column)
        self.mean, self.std = 0.0, 1.0

    @classmethod
    def examples(cls) -> list[Any]:
        return ["2026-11-21", "2025-01-05T13:45:00+02:00", "24.12.2024", datetime(2020, 2, 29, 6, 30), "2023/07/01 08:00"]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        good = sum(isinstance(v, date) or (isinstance(v, str) and bool(_LIKE.match(v.strip()))) for v in sample)
        return 0.95 * good / len(sample) if sample else 0.0

    def read(self, raw: Any) -> float | None:
        """-> seconds since 1970, UTC."""
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return None
        if isinstance(raw, np.datetime64):
            if np.isnat(raw):
                return None
            raw = raw.astype("datetime64[s]").item()  # a datetime, or seconds where a datetime cannot hold the year
        if isinstance(raw, str):
            raw = self._parsed(raw.strip())
            if isinstance(raw, str) and _SECONDS.fullmatch(raw):
                raw = float(raw)
        if isinstance(raw, datetime):
            return (raw if raw.tzinfo else raw.replace(tzinfo=UTC)).timestamp()
        if isinstance(raw, date):
            return datetime(raw.year, raw.month, raw.day, tzinfo=UTC).timestamp()
        if isinstance(raw, int | float | np.integer | np.floating) and not isinstance(raw, bool):
            seconds = math.inf if isinstance(raw, int) and raw.bit_length() > 63 else float(raw)
            if math.isnan(seconds):
                return None
            if abs(seconds) < 1e11:  # years 0 to 5000
                return seconds
            raise self.error("holds a number that is no time", expected="seconds since 1970, or a date such as 2026-11-21")
        shown = repr(raw[:40]) if isinstance(raw, str) else f"a {type(raw).__name__}"
        raise self.error(f"cannot read {shown} as a time", expected="a date such as 2026-11-21 or 2026-11-21T13:45")

    def _parsed(self, text: str) -> datetime | str:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
        for form in _FORMATS:
            try:
                return datetime.strptime(text, form)
            except ValueError:
                continue
        return text

    def fit(self, values: Iterator[float]) -> None:
        x = np.fromiter(values, np.float64)
        if len(x):
            self.mean, self.std = float(x.mean()), float(x.std()) or 1.0

    def clean(self, value: float) -> dict[str, np.ndarray]:
        return {"value": self.clean_many([value])["value"][0]}

    def clean_many(self, values: Sequence[float] | np.ndarray) -> dict[str, np.ndarray]:
        """{"value": [n, 10]} of n read values."""
        x = np.asarray(values, np.float64)
        days = x / 86400
        year = np.mod(days, 365.2425) / 365.2425
        circles = [year, np.mod(days, 30.436875) / 30.436875, np.mod(days + 3, 7) / 7, np.mod(days, 1)]  # 1970-01-01 was a Thursday
        parts = [np.clip((x - self.mean) / self.std, -10, 10), year - 0.5]
        for share in circles:
            parts += [np.sin(2 * np.pi * share), np.cos(2 * np.pi * share)]
        return {"value": np.stack(parts, 1).astype(np.float32)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """The whole time is moved at random, and the place in year, month, week and day with it; at level 1 by the column's deviation."""
        if not level:
            return x
        noisy = x["value"][:, 0].double().cpu() + level * draws.normal()
        value = torch.from_numpy(self.clean_many((noisy * self.std + self.mean).numpy())["value"])
        return {**x, "value": value.to(x["value"].device)}

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    def load_state(self, state: dict[str, Any]) -> None:
        self.mean, self.std = state["mean"], state["std"]
