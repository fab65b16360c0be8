"""What changes in place: a progress line, a spinner, download bars, and rows that are drawn again."""

import os
import shutil
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

from llmcli.text import sanitize
from llmcli.ui.terminal.cells import visible
from llmcli.ui.terminal.console import console, is_terminal

_PATIENCE = 0.4  # seconds before work counts as long
_INTERVAL = 0.1
_DELAY = 0.2  # seconds; shorter work is not worth a text
_TICK = 0.1
_SECONDS = 5.0
_MIB = 1 << 20
_NARROW = 60  # columns; a narrower terminal has no space for a bar
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows the text between them at once


class ProgressLine:
    """Shows nothing for short work, and nothing at all where stderr is not a terminal."""

    def __init__(self) -> None:
        self._on = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not console.quiet
        self._next = monotonic() + _PATIENCE
        self._shown = False

    def update(self, text: str) -> None:
        """Replace the line."""
        if not self._on or monotonic() < self._next:
            return
        self._next = monotonic() + _INTERVAL
        self._shown = True
        sys.stderr.write(f"\r\x1b[K{sanitize(text)}")
        sys.stderr.flush()

    def loading(self, share: float) -> None:
        self.update(f"loading the model {share:.0%}")

    def reading(self, done: int, total: int) -> None:
        self.update(f"reading the prompt {done / max(total, 1):.0%}")

    def identifying(self, done: int, total: int) -> None:
        self.update(f"computing the sha256 of the model {done / max(total, 1):.0%}")

    def clear(self) -> None:
        """Erase the line; cheap when there is none."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Spinner:
    """Within its block it calls `show(text)` from a thread while `text` is set; after `end` nothing more is shown."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.text = ""
        self._show = show
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.end()

    def _run(self) -> None:
        self._ended.wait(_DELAY)
        while not self._ended.is_set():
            if self.text:
                self._show(self.text)
            self._ended.wait(_TICK)

    def reading(self, done: int, total: int) -> None:
        self.text = f"reading the prompt {done / max(total, 1):.0%}"

    @property
    def ended(self) -> bool:
        """Whether the wait is over."""
        return self._ended.is_set()

    def end(self) -> None:
        """Stop; harmless when done twice."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()


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
            self._progress.console.print(sanitize(text), style="dim", markup=False, highlight=False, emoji=False)

    def _draw_bar(self, name: str) -> Callable[[int, int], None]:
        task: Any = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                if self._progress is None:
                    self._progress = _progress()
                    self._progress.start()
                task = self._progress.add_task(sanitize(name), total=total, completed=done)
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


class LiveRegion:
    """Keeps the cursor behind the last row of the tail, or at the start of a new line without a tail."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rows: list[str] = []
        self._size = (0, 0)

    def draw(self, done: list[str], tail: list[str], size: tuple[int, int]) -> None:
        """Write the finished rows `done` where the tail began, and the new `tail` below; equal rows are kept."""
        old, new = self._rows, done + tail
        same = 0
        if size[0] == self._size[0]:
            while same < min(len(old), len(new)) and old[same] == new[same]:
                same += 1
        if new and same == len(new) < len(old):
            same -= 1  # the cursor belongs behind the last row
        if same < len(old):
            out = self._back_to(same, size) + _over(new[same:])
        else:
            out = ("\r\n" if old and new[same:] else "") + "\r\n".join(new[same:])
        out += "\r\n" if new and not tail else ""
        self._rows, self._size = tail, size
        if out:
            self._write(f"{_BEGIN}{out}{_END}")

    def _back_to(self, row: int, size: tuple[int, int]) -> str:
        """Move the cursor to the start of row `row` of the tail.

        A window that became narrower has wrapped the rows: they are erased, so that a terminal that joins wrapped rows
        when it grows does not join the new ones.
        """
        columns, height = size
        lines = sum(max(1, -(-visible(old) // columns)) for old in self._rows[row:])
        up = min(lines, height) - 1
        erase = "\x1b[2K \x1b[J\r" if columns != self._size[0] else ""
        return (f"\x1b[{up}A" if up else "") + "\r" + erase


def _over(rows: list[str]) -> str:
    """`rows` written over others, which are erased.

    The screen is never erased from its first cell on: tmux treats that as a clear, and keeps a copy in its history.
    """
    last = rows[-1] if rows else ""
    lines = "".join(f"{row}\x1b[K\r\n" for row in rows[:-1])
    return f"{lines}{last}\x1b[J" if last else f"{lines} \x1b[J\r"
