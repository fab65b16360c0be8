"""How an answer is shown: rendered on a terminal whose cursor can be moved, plain and verbatim everywhere else."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import is_terminal, wants_color
from llmcli.ui.terminal.output import AnswerWriter, print_drawn, stream_answer
from llmcli.ui.terminal.progress import ProgressLine

Parts = Iterable[tuple[str, str]]


class Display(Protocol):
    """Shows one answer."""

    def status(self, text: str) -> None:
        """Show what is happening until the first text of the answer; from any thread."""

    def answer(self, parts: Parts, so_far: str = "") -> None:
        """Show the parts as they stream; they continue the text `so_far`, which is on the screen already."""

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Show a row below the answer until it ends, where rows can be erased; from any thread."""

    def end(self) -> None:
        """End the answer with the cursor at the start of a line; harmless when done twice."""


class MarkdownDisplay:
    """Markdown on a terminal."""

    def __init__(self, settings: Settings) -> None:
        from llmcli.ui.markdown.view import AnswerView  # slow to import: not while the prompt starts

        self._think = settings.think == "show"
        self._lock = threading.Lock()  # two threads never draw at once
        self._ended = False
        self._view = AnswerView(print_drawn, shutil.get_terminal_size, settings.theme, wants_color(sys.stdout))

    def status(self, text: str) -> None:
        with self._lock:
            self._view.status(text)

    def answer(self, parts: Parts, so_far: str = "") -> None:
        if so_far:
            with self._lock:
                self._view.resume(so_far)
        for kind, text in parts:
            with self._lock:
                self._add(kind, text)

    def _add(self, kind: str, text: str) -> None:
        if kind == "answer":
            self._view.push(text)
        elif self._think:
            self._view.think(text)

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        with self._lock:
            if not self._ended:
                self._view.foot(row, now)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            self._view.finish()


class PlainDisplay:
    """The text as it is; reasoning and progress go to stderr."""

    def __init__(self, settings: Settings) -> None:
        self._think = settings.think
        self._status = ProgressLine()
        self._writer = AnswerWriter()

    def status(self, text: str) -> None:
        self._status.update(text)

    def answer(self, parts: Parts, so_far: str = "") -> None:
        stream_answer(_joined(parts, so_far), self._writer, self._status, live=True, think=self._think)
        self._writer.end()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Do nothing: a row of plain text cannot be erased."""

    def end(self) -> None:
        self._status.clear()
        self._writer.abandon()


def _joined(parts: Parts, so_far: str) -> Iterator[tuple[str, str]]:
    """The parts after the last line of the text before them, so that a reader sees a whole line."""
    tail = so_far.rpartition("\n")[2]
    if tail:
        yield "answer", tail
    yield from parts


def display(settings: Settings, live: bool) -> Display:
    """The display for the present settings."""
    return MarkdownDisplay(settings) if live and settings.markdown else PlainDisplay(settings)


def is_live() -> bool:
    """Whether stdout is a terminal on which the cursor can be moved."""
    return is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"
