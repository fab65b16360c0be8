"""How an answer is shown: rendered on a full terminal, plain and verbatim everywhere else."""

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
    """A place for one answer."""

    def status(self, text: str) -> None:
        """Show what is happening until the first text comes; from any thread."""

    def answer(self, parts: Parts, begun: str = "") -> None:
        """Show the parts as they come; `begun` is on the screen already and is continued."""

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Show a row below the answer until the answer ends, where there is a place for it; from any thread."""

    def end(self) -> None:
        """Leave the cursor at the beginning of a line; harmless when done twice."""


def display(settings: Settings, live: bool) -> Display:
    """The display for the present settings."""
    return MarkdownDisplay(settings) if live and settings.markdown else PlainDisplay(settings)


class MarkdownDisplay:
    """Markdown on a terminal."""

    def __init__(self, settings: Settings) -> None:
        from llmcli.ui.markdown.view import AnswerView  # slow to import, so not while the prompt starts

        self._think = settings.think == "show"
        self._lock = threading.Lock()  # two threads never draw at once
        self._ended = False
        self._view = AnswerView(print_drawn, shutil.get_terminal_size, style(settings), wants_color(sys.stdout))

    def status(self, text: str) -> None:
        with self._lock:
            self._view.status(text)

    def answer(self, parts: Parts, begun: str = "") -> None:
        if begun:
            with self._lock:
                self._view.resume(begun)
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

    def answer(self, parts: Parts, begun: str = "") -> None:
        stream_answer(_joined(parts, begun), self._writer, self._status, live=True, think=self._think)
        self._writer.end()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Plain text has no row that can be removed again."""

    def end(self) -> None:
        self._status.clear()
        self._writer.abandon()


def _joined(parts: Parts, begun: str) -> Iterator[tuple[str, str]]:
    """The parts after the last line of the text before them, for a line that a reader can follow."""
    tail = begun.rpartition("\n")[2]
    if tail:
        yield "answer", tail
    yield from parts


def style(settings: Settings) -> str:
    """Dark or light: as set, else as the terminal says (`COLORFGBG`), else dark."""
    if settings.theme != "auto":
        return settings.theme
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if background in ("7", "15") else "dark"


def is_live() -> bool:
    """Whether stdout is a terminal on which the cursor can be moved."""
    return is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"
