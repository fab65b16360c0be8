"""Sessions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat import session_files
from llmcli.chat.compose import system_text
from llmcli.chat.session import Session
from llmcli.errors import LlmcliError, UsageError
from llmcli.ui.ask import confirm
from llmcli.ui.commands import complete
from llmcli.ui.commands.branching import show
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console
from llmcli.ui.units import ago, plural

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_SHOWN = 2  # messages, after a session was opened


def _names(_chat: "Chat", start: str) -> list[tuple[str, str]]:
    return [(one.name, one.title) for one in session_files.listed(start)]


@command("NAME")
def save(chat: "Chat", argument: str) -> None:
    """Name this session; copy it if it has a name. Every turn is on disk at once anyway."""
    if not argument:
        raise UsageError("/save needs a name", "as in /save novel")
    if chat.session.named and not chat.session.saved:
        raise UsageError("nothing was said yet, so there is nothing to copy", "say something first")
    if chat.session.named:
        chat.session.copy(argument).close()
        console.note(f"a copy is kept as {argument}; this is still {chat.session.name}")
        return
    chat.session.rename(argument)
    console.note(f"this session is {argument} now; llmcli chat --session {argument} opens it again")


@command("NAME", complete=_names)
def load(chat: "Chat", argument: str) -> None:
    """Go on in another session."""
    if not argument:
        raise UsageError("/load needs a name", "/sessions lists them")
    if argument == chat.session.name:
        raise UsageError(f"this is {argument} already")
    chat.dialogue.take(Session.load(argument))
    settle_model(chat)
    opened(chat)


def settle_model(chat: "Chat") -> None:
    """See to it that the model is here; where a session's own is gone, it goes on with the usual one.

    Raises:
        ModelNotFoundError: when that is not here either.
    """
    dialogue = chat.dialogue
    wanted, origin = dialogue.settings.model, dialogue.resolved().origins["model"]
    try:
        chat.bring(dialogue.settings)
    except LlmcliError:
        if origin != "session":
            raise
        dialogue.reset("model")
        chat.bring(dialogue.settings)
        console.warn(f"{wanted}, which this session used, is not here: this is {dialogue.settings.model}")


def opened(chat: "Chat") -> None:
    """What a person wants to see of a session that was opened: what is wrong with it, and its end."""
    for note in chat.session.notes:
        console.warn(note)
    chat.session.notes.clear()
    path = chat.path()
    if chat.live:
        show(chat, path[-_SHOWN:], len(path) - _SHOWN + 1)
    console.note(f"this is the session {chat.session.name}, {plural(len(path), 'message')}")


@command("[TEXT]")
def sessions(chat: "Chat", argument: str) -> None:
    """List the sessions, or the messages that hold TEXT."""
    if argument:
        found = list(session_files.search(argument))
        if not found:
            console.note(f"no session holds {argument!r}")
            return
        chat.rows(("SESSION", "N", "TEXT"), [(hit.session, str(hit.id), hit.excerpt) for hit in found], right=("N",))
        return
    listed = session_files.listed()
    if not listed:
        console.note("no sessions yet")
        return
    rows = [
        (one.name + ("*" if one.name == chat.session.name else ""), str(one.n_messages), ago(one.changed), one.title)
        for one in listed
    ]
    chat.rows(("SESSION", "MESSAGES", "CHANGED", "BEGINS"), rows, right=("MESSAGES",), spare=("BEGINS", "MESSAGES"))


@command("NAME")
def rename(chat: "Chat", argument: str) -> None:
    """Give this session another name."""
    if not argument:
        raise UsageError("/rename needs a name", "as in /rename novel")
    chat.session.rename(argument)
    console.note(f"this session is {argument} now")


@command("FILE", complete=complete.paths)
def export(chat: "Chat", argument: str) -> None:
    """Write the conversation to a file. Markdown, JSON, a page for a browser or a picture (SVG), by its suffix."""
    from llmcli.chat.export import form_of
    from llmcli.ui.document import document, write

    if not argument:
        raise UsageError("/export needs a file", "as in /export talk.md")
    path = Path(os.path.expanduser(argument.strip('"')))
    form = form_of(path)
    if not chat.path():
        raise UsageError("there is nothing to export", "say something first")
    if os.path.exists(path) and not (chat.live and confirm(f"{path} is there already; replace it?", False)):
        raise UsageError(f"{path} is there already", "choose another name")
    write(document(chat.path(), chat.session.name, system_text(chat.dialogue.settings), form), path)
    console.note(f"written to {path}")
