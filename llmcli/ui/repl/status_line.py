"""The line below the prompt: model, context, temperature, speed and session."""

from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.params.settings import fields
from llmcli.ui.units import plural

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_GAP = " · "


def status_line(chat: "Chat") -> str:
    """What is worth knowing before the next message; the most important first, for the window may cut it."""
    dialogue = chat.dialogue
    local, settings = dialogue.local, dialogue.settings
    if chat.editing is not None:
        return f"changing message {chat.editing}{_GAP}Enter keeps it{_GAP}any command leaves it as it was"
    parts = [local.name if local else Path(str(settings.model)).name]  # of a path its end, which tells models apart
    if local is None and dialogue.opening:
        parts.append("cannot be loaded" if dialogue.opening.failed else dialogue.opening.doing)
    if local:
        if chat.used is None:  # the model was loaded while this prompt stood there
            chat.count()
        parts.append(f"{_short(chat.used or 0)}/{_short(local.n_ctx)}")
    parts.append(f"temp {fields()['temperature'].format(settings.temperature)}")
    if chat.turn and chat.turn.answer.started and (speed := chat.turn.answer.timings()["predicted_per_second"]):
        parts.append(f"{speed:.0f} tokens/s")
    if chat.pending:
        parts.append(plural(len(chat.pending), "file"))
    if chat.session.name:
        parts.append(chat.session.name)
    return _GAP.join(parts)


def _short(tokens: int) -> str:
    """1234 -> 1.2k, 131072 -> 131k."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 10_000 else f"{tokens // 1000}k"
