"""What a run tells while it runs: lines, and a bar with the time left where there is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """Talks to the terminal; with `quiet` it is silent. Everything goes to standard error, so that output can be piped."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._console: Any = None

    @property
    def console(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        return self._console

    def say(self, text: str, style: str | None = None) -> None:
        if not self.quiet:
            self.console.print(text, style=style, markup=False)

    @contextmanager
    def bar(self, label: str, total: float) -> Iterator["Bar"]:
        """A bar of `total` steps on a terminal; in a log file a line every half minute."""
        if self.quiet:
            yield Bar()
            return
        if not self.console.is_terminal:
            yield _Lines(self.say, label, total)
            return
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[about]}", markup=False),
        )
        with RichProgress(*columns, console=self.console, transient=True, refresh_per_second=4) as rich:
            yield _RichBar(rich, rich.add_task(label, total=total, about=""))


class Bar:
    """`step` moves it, `about` sets the text at its end, `total` corrects its length. This one shows nothing."""

    def step(self, count: float = 1) -> None: ...

    def about(self, text: str) -> None: ...

    def total(self, total: float) -> None: ...


class _RichBar(Bar):
    def __init__(self, rich: Any, task: Any):
        self._rich, self._task = rich, task

    def step(self, count: float = 1) -> None:
        self._rich.update(self._task, advance=count)

    def about(self, text: str) -> None:
        self._rich.update(self._task, about=text)

    def total(self, total: float) -> None:
        self._rich.update(self._task, total=total)


class _Lines(Bar):
    every_s = 30.0

    def __init__(self, say: Callable[[str], None], label: str, total: float):
        self._say, self._label, self._total, self._text, self._done = say, label, total, "", 0.0
        self._start = self._last = time.monotonic()

    def step(self, count: float = 1) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            left = (now - self._start) / self._done * max(self._total - self._done, 0)
            self._say(f"{self._label}: {self._done / max(self._total, 1):.0%}, about {left:.0f} s left {self._text}".rstrip())

    def about(self, text: str) -> None:
        self._text = text

    def total(self, total: float) -> None:
        self._total = total
