"""Show the progress of downloads: a bar for each file on a terminal, otherwise a line every five seconds."""

import os
import shutil
import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.sanitize import safe

_SECONDS = 5.0
_MIB = 1 << 20
_NARROW = 60  # columns; a narrower terminal has no space for a bar


class Downloads:
    """A context manager; `bar(name)` gives a function that takes (bytes so far, bytes in all)."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._live = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def bar(self, name: str) -> Callable[[int, int], None]:
        """The progress function of one file."""
        if console.quiet:
            return _ignore
        return self._draw_bar(name) if self._live else _Lines(name)

    def say(self, text: str) -> None:
        """Print a note above the bars."""
        if self._progress is None or console.quiet:
            console.note(text)
        else:
            self._progress.console.print(safe(text), style="dim", markup=False, highlight=False, emoji=False)

    def _draw_bar(self, name: str) -> Callable[[int, int], None]:
        task: Any = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                if self._progress is None:
                    self._progress = _progress()
                    self._progress.start()
                task = self._progress.add_task(safe(name), total=total, completed=done)
            self._progress.update(task, completed=done, total=total)

        return update


class _Lines:
    """One line at the start, then every five seconds, and one at the end of a download that takes longer."""

    def __init__(self, name: str) -> None:
        self._name, self._next, self._printed = name, 0.0, False
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        if self._start is None:
            self._start = now, done
        if now < self._next and not (done >= total and self._printed):
            return
        self._next, self._printed = now + _SECONDS, done < total
        seconds, received = now - self._start[0], done - self._start[1]
        speed = received / seconds if seconds else 0.0
        rate = f", {speed / _MIB:.1f} MiB/s, {_left(total - done, speed)}" if speed else ""
        console.note(f"{self._name}: {done / _MIB:.0f} of {total / _MIB:.0f} MiB{rate}")


def _left(n_bytes: int, speed: float) -> str:
    seconds = round(n_bytes / speed)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left" if seconds else "done"


def _ignore(_done: int, _total: int) -> None:
    """Show no progress."""


def _progress() -> Any:
    """Rich's progress display, with the columns that fit the terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    percent = TextColumn("{task.percentage:>3.0f}%")
    terminal = Console(stderr=True)
    if shutil.get_terminal_size().columns < _NARROW:
        return Progress(name, percent, TransferSpeedColumn(), console=terminal, expand=True)
    columns = BarColumn(bar_width=16), percent, DownloadColumn(binary_units=True), TransferSpeedColumn()
    return Progress(name, *columns, TimeRemainingColumn(compact=True), console=terminal, expand=True)
