"""What a run tells while it runs: lines, and a bar with the time left where there is a terminal."""

import sys
from collections.abc import Iterator
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
        """A bar of `total` steps; one that is no terminal gets nothing (the lines of `say` are enough in a log)."""
        if self.quiet or not self.console.is_terminal:
            yield Bar(None, 0)
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
            yield Bar(rich, rich.add_task(label, total=total, about=""))


class Bar:
    """A running bar: `step` moves it, `about` sets the text at its end, `total` corrects its length."""

    def __init__(self, rich: Any, task: Any):
        self._rich, self._task = rich, task

    def step(self, count: float = 1) -> None:
        if self._rich is not None:
            self._rich.update(self._task, advance=count)

    def about(self, text: str) -> None:
        if self._rich is not None:
            self._rich.update(self._task, about=text)

    def total(self, total: float) -> None:
        if self._rich is not None:
            self._rich.update(self._task, total=total)
