"""How an answer is shown: rendered on a terminal whose cursor can be moved, plain and verbatim everywhere else."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from itertools import chain

from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import wants_color
from llmcli.ui.terminal.output import AnswerWriter, print_drawn, stream_answer
from llmcli.ui.terminal.progress import ProgressLine

Parts = Iterable[tuple[str, str]]


class MarkdownDisplay:
    """Shows one answer as Markdown on a terminal."""

    def __init__(self, settings: Settings) -> None:
        from llmcli.ui.markdown.view import AnswerView  # slow to import: not while the prompt starts

        self._think = settings.think == "show"
        self._lock = threading.Lock()  # two threads never draw at once
        self._ended = False
        self._view = AnswerView(print_drawn, shutil.get_terminal_size, style(settings), wants_color(sys.stdout))

    def status(self, text: str) -> None:
        """Show what is happening until the first text of the answer; from any thread."""
        with self._lock:
            self._view.status(text)

    def answer(self, parts: Parts, so_far: str = "") -> None:
        """Show the parts as they stream; they continue the text `so_far`, which is on the screen already."""
        if so_far:
            with self._lock:
                self._view.resume(so_far)
        for kind, text in parts:
            self._add(kind, text)

    def _add(self, kind: str, text: str) -> None:
        with self._lock:
            if kind == "answer":
                self._view.push(text)
            elif self._think:
                self._view.think(text)

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Show a row below the answer until it ends; from any thread."""
        with self._lock:
            if not self._ended:
                self._view.foot(row, now)

    def end(self) -> None:
        """End the answer with the cursor at the start of a line; harmless when done twice."""
        with self._lock:
            self._ended = True
            self._view.finish()


class PlainDisplay:
    """Shows one answer as the text that it is; reasoning and progress go to stderr."""

    def __init__(self, settings: Settings) -> None:
        self._think = settings.think
        self._status = ProgressLine()
        self._writer = AnswerWriter()

    def status(self, text: str) -> None:
        self._status.update(text)

    def answer(self, parts: Parts, so_far: str = "") -> None:
        tail = so_far.rpartition("\n")[2]  # again, so that a reader sees a whole line
        shown = chain([("answer", tail)], parts) if tail else parts
        stream_answer(shown, self._writer, self._status, live=True, think=self._think)
        self._writer.end()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Do nothing: a row of plain text cannot be erased."""

    def end(self) -> None:
        self._status.clear()
        self._writer.abandon()


def display(settings: Settings, live: bool) -> MarkdownDisplay | PlainDisplay:
    """The display for the present settings."""
    return MarkdownDisplay(settings) if live and settings.markdown else PlainDisplay(settings)


def style(settings: Settings) -> str:
    """ "dark" or "light": the setting, or else the background in COLORFGBG, or else dark."""
    if settings.theme != "auto":
        return settings.theme
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if background in ("7", "15") else "dark"
