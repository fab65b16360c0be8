"""Commands that show and save how the tokens of an answer were sampled."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.files import data_dir, make_private
from llmcli.text import plural
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import INSPECT, command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import aside

if TYPE_CHECKING:
    from llmcli.engine.events import TokenTrace
    from llmcli.ui.chat.app import Chat

MEASURES = ("temperature", "p", "entropy")


@command(
    "tokens",
    heading=INSPECT,
    usage="[temperature|p|entropy]",
    help="Show the tokens of the last answer in color.",
    detail="The color is the temperature, the probability (p) or the entropy of each token. Without color, bars below "
    "the text show it.",
    examples=("/tokens", "/tokens p", "/tokens entropy"),
    aliases=("heat",),
    complete=complete.words(*MEASURES),
)
def tokens(chat: "Chat", argument: str) -> None:
    """Print the last answer, its tokens colored by a measure."""
    from llmcli.ui.charts.heatmap import put_heat

    by = {"": "temperature", "temp": "temperature", "probability": "p"}.get(argument, argument)
    if by not in MEASURES:
        raise UsageError(f"/tokens must be temperature, p or entropy, got '{argument}'")
    with aside(not chat.live):
        put_heat(last_traces(chat), by)  # type: ignore[arg-type]


def last_traces(chat: "Chat") -> list["TokenTrace"]:
    """How the tokens of the last answer were sampled.

    Raises:
        UsageError: when there is none in this branch since the chat was opened.
    """
    if not chat.turn or not chat.turn.answer.traces or chat.turn.message not in chat.path():
        raise UsageError("no answer in this branch since the chat was opened", "send a message, or use /retry")
    return chat.turn.answer.traces


@command(
    "trace",
    heading=INSPECT,
    usage="[on [FOLDER]|off|FILE]",
    help="Write how each token is sampled to a file.",
    detail="`on` writes one file per answer. FILE.jsonl takes the last answer. Alone it shows whether traces are on. "
    "`llmcli trace show FILE` reads them.",
    examples=("/trace on", "/trace last.jsonl", "/trace off"),
    complete=complete.words("on", "off"),
)
def trace(chat: "Chat", argument: str) -> None:
    """Turn traces on or off, or write that of the last answer."""
    word, _, name = argument.partition(" ")
    if word == "on":
        folder = Path(os.path.expanduser(name.strip())) if name.strip() else data_dir() / "traces"
        chat.traces = make_private(folder)
    elif word == "off":
        chat.traces = None
    elif word:
        _write(Path(os.path.expanduser(argument)), last_traces(chat))
        return
    console.note(f"traces are on: one file per answer in {chat.traces}" if chat.traces else "traces are off")


def _write(path: Path, traces: list["TokenTrace"]) -> None:
    from contextlib import closing

    from llmcli.inference.trace_file import TraceWriter

    if path.suffix != ".jsonl":
        raise UsageError(f"/trace must be on, off or FILE.jsonl, got '{path}'")
    if path.exists():
        raise UsageError(f"{path} already exists", "choose another name")
    with closing(TraceWriter(path)) as writer:
        for token in traces:
            writer.write(token)
    console.note(f"wrote {plural(len(traces), 'token')} to {path} (see `llmcli trace show` and `llmcli trace plot`)")


def spark(chat: "Chat") -> str:
    """The temperatures of the last answer as a line of bars and their range; empty where there are none."""
    from llmcli.ui.sparkline import sparkline

    values = [one.temperature for one in chat.turn.answer.traces if one.id is not None] if chat.turn else []
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f}..{high:.2f}"
    room = min(shutil.get_terminal_size().columns - 1, 60) if chat.live else 60
    return f"{sparkline(values, min(room, len(values)))}\nlast answer: {span}, mean {sum(known) / len(known):.2f}"
