"""A download as a person sees it: a bar on a terminal, a line every five seconds elsewhere."""

import os
import sys
from types import TracebackType
from typing import Any

from llmcli.ui.console import console, is_terminal

_SECONDS = 5.0
_MIB = 1 << 20


class DownloadBar:
    """Use as a context manager; call it with (bytes done, bytes in all)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._task: Any = None
        self._next = 0.0
        self._said = False

    def __enter__(self) -> "DownloadBar":
        return self

    def __call__(self, done: int, total: int) -> None:
        if console.quiet:
            return
        if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
            self._draw(done, total)
        else:
            self._tell(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._make()
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def _make(self) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(binary_units=True)
        return Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True))

    def _tell(self, done: int, total: int) -> None:
        from time import monotonic

        if monotonic() >= self._next or (done >= total and self._said):
            self._next = monotonic() + _SECONDS
            self._said = done < total
            console.note(f"{self._what}: {done / _MIB:.0f} of {total / _MIB:.0f} MiB")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
