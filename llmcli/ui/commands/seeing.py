"""Seeing how answers are drawn."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.paths import data_dir, make_private
from llmcli.errors import UsageError
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console
from llmcli.ui.output import aside

if TYPE_CHECKING:
    from llmcli.engine.trace import TokenTrace
    from llmcli.ui.repl.chat import Chat

MEASURES = ("temperature", "p", "entropy")


@command("[temperature|p|entropy]", "heat", complete=complete.words(*MEASURES))
def tokens(chat: "Chat", argument: str) -> None:
    """Show the last answer coloured by how it was drawn.

    By temperature, probability (p) or entropy; without colour, bars below the text say the same.
    """
    from llmcli.ui.heat import put_heat

    by = {"": "temperature", "temp": "temperature", "probability": "p"}.get(argument, argument)
    if by not in MEASURES:
        raise UsageError(f"/tokens takes temperature, p or entropy, got {argument!r}")
    with aside(not chat.live):
        put_heat(last_traces(chat), by)  # type: ignore[arg-type]


def last_traces(chat: "Chat") -> list["TokenTrace"]:
    """How the tokens of the last answer were drawn.

    Raises:
        UsageError: when no answer was given since the chat was opened, or another branch is talked in.
    """
    if not chat.turn or not chat.turn.answer.traces:
        raise UsageError("no answer was given here yet", "/retry gives one")
    return chat.turn.answer.traces


@command("[on [FOLDER]|off|FILE]", complete=complete.words("on", "off"))
def trace(chat: "Chat", argument: str) -> None:
    """Write how each token is drawn, one file an answer. FILE.jsonl takes the last answer; alone, it says where."""
    word, _, name = argument.partition(" ")
    if word == "on":
        folder = Path(os.path.expanduser(name.strip())) if name.strip() else data_dir() / "traces"
        chat.traces = make_private(folder)
    elif word == "off":
        chat.traces = None
    elif word:
        _write(Path(os.path.expanduser(argument)), last_traces(chat))
        return
    console.note(f"each answer's trace is written into {chat.traces}" if chat.traces else "no traces are written")


def _write(path: Path, traces: list["TokenTrace"]) -> None:
    from contextlib import closing

    from llmcli.chat.trace_file import TraceWriter

    if path.suffix != ".jsonl":
        raise UsageError(f"/trace takes on, off or FILE.jsonl, got {str(path)!r}")
    if path.exists():
        raise UsageError(f"{path} is there already", "choose another name")
    with closing(TraceWriter(path)) as writer:
        for token in traces:
            writer.write(token)
    console.note(f"{len(traces)} tokens in {path}; `llmcli trace show` and `trace plot` read it")


def spark(chat: "Chat") -> str:
    """The temperatures of the last answer as a line of bars with their range; empty where there are none."""
    from llmcli.ui.sparkline import sparkline

    values = [one.temperature for one in chat.turn.answer.traces if one.id is not None] if chat.turn else []
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f}..{high:.2f}"
    room = min(shutil.get_terminal_size().columns - 1, 60) if chat.live else 60
    return f"{sparkline(values, min(room, len(values)))}\nlast answer: {span}, mean {sum(known) / len(known):.2f}"
