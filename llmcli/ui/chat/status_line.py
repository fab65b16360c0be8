"""The texts of the input line: the status below it, and the hint in an empty chat."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.params.settings import fields
from llmcli.text import ellipsize, plural
from llmcli.ui.terminal.cells import first_that_fits

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

_HINT = ("Ask anything", "/ for commands", "Ctrl-C stops", "Ctrl-D leaves")
_MARKER = 2  # columns of the `> ` before the text
_SHORTEST_NAME = 12  # characters of a session name, however narrow the window
_DATE = re.compile(r"\d{4}-\d\d-\d\d-(?=.)")  # at the start of names that llmcli makes


def status_line(chat: "ChatApp") -> str:
    """The state of the chat before the next message: as much as fits the window, the most important first."""
    if chat.editing is not None:
        return _fitting(f"editing message {chat.editing}", "Enter saves it", "Ctrl-C cancels")
    controller = chat.controller
    local, settings = controller.engine, controller.settings
    # Of a path the end, which distinguishes models.
    parts = [local.name if local else Path(str(settings.model)).name, controller.character or ""]
    if local is None and controller.loading:
        parts.append("cannot be loaded" if controller.loading.failed else controller.loading.status)
    if local:
        if chat.n_prompt is None:  # the model was loaded during this prompt
            chat.count()
        parts.append(f"context {_short(chat.n_prompt or 0)}/{_short(local.n_ctx)}")
    parts.append(f"temp {fields()['temperature'].format(settings.temperature)}")
    turn = chat.turn
    if turn and turn.answer.started and turn.message and chat.path()[-1:] == [turn.message]:  # nothing came after it
        speed = round(turn.answer.timings()["predicted_per_second"])
        parts.append(f"{plural(speed, 'token')}/s" if speed else "")
    if chat.pending:
        parts.append(plural(len(chat.pending), "file"))
    if name := chat.session.name:  # at most a third of the row; the date, which tells the least, is dropped first
        longest = max(shutil.get_terminal_size().columns // 3, _SHORTEST_NAME)
        if len(name) > longest and _DATE.match(name):
            name = "…" + _DATE.sub("", name)
        parts.append(ellipsize(name, longest))
    return _fitting(*parts)


def input_hint(chat: "ChatApp") -> str:
    """What the user can do, for the empty line of a chat without an answer; empty after the first answer."""
    answered = any(message.role == "assistant" and message.finish_reason != "greeting" for message in chat.path())
    if chat.turn or answered or chat.editing is not None:
        return ""
    hint = _fitting(*_HINT, less=_MARKER)
    return hint if len(hint) < shutil.get_terminal_size().columns - _MARKER else ""


def _fitting(*parts: str, less: int = 0) -> str:
    """As many of the parts as fit the window without its last column and `less` others; the first one always."""
    return first_that_fits(*(parts[:number] for number in range(len(parts), 0, -1)), less=less)


def _short(tokens: int) -> str:
    """1234 -> 1.2k, 131072 -> 131k."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 10_000 else f"{tokens // 1000}k"
