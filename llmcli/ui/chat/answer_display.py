"""How an answer is shown: rendered on a terminal whose cursor can be moved, plain and verbatim everywhere else."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING

from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import wants_color
from llmcli.ui.terminal.output import AnswerWriter, print_drawn, stream_answer
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.ui.markdown.view import AnswerView

Parts = Iterable[tuple[str, str]]


class PlainDisplay:
    """Shows one answer, as `AnswerView` does, but as the text that it is; reasoning and progress go to stderr."""

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

    def finish(self) -> None:
        self._status.clear()
        self._writer.abandon()


def display(settings: Settings, live: bool) -> "AnswerView | PlainDisplay":
    """The display for the present settings."""
    if not live or not settings.markdown:
        return PlainDisplay(settings)
    from llmcli.ui.markdown.view import AnswerView  # slow to import: not while the prompt starts

    color = wants_color(sys.stdout)
    return AnswerView(
        print_drawn, shutil.get_terminal_size, style(settings), color, shows_reasoning=settings.think == "show"
    )


def style(settings: Settings) -> str:
    """ "dark" or "light": the setting, or else the background in COLORFGBG, or else dark."""
    if settings.theme != "auto":
        return settings.theme
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if background in ("7", "15") else "dark"
