"""Commands that name, open, list and export sessions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.request import system_text
from llmcli.text import format_age, plural
from llmcli.ui.commands import registry
from llmcli.ui.commands.branches import show
from llmcli.ui.commands.registry import FILES, SESSIONS, command
from llmcli.ui.terminal.ask import confirm
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.table import print_rows

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

_SHOWN = 2  # messages, after a session was opened


def _session_names(_chat: "ChatApp", start: str) -> list[tuple[str, str]]:
    return [(session.name, session.title) for session in store.session_summaries(start)]


@command(
    "save",
    heading=SESSIONS,
    usage="NAME",
    help="Name this session, or copy it if it has a name.",
    detail="Each message is saved at once anyway, under a name made of the date and the first words.",
    examples=("/save novel", "/save ghost story", "/save draft-1"),
    everyday=True,
)
def save(chat: "ChatApp", argument: str) -> None:
    """Give the session a name, or keep a copy of a named one."""
    if not argument:
        raise UsageError("/save needs a name", "try /save novel")
    if chat.session.is_named and not chat.session.is_saved:
        raise UsageError("the session is empty: nothing to copy", "send a message first")
    if chat.session.is_named:
        copy = chat.session.copy(argument)
        copy.close()
        console.note(f"saved a copy as {copy.name}; this session is still {chat.session.name}")
        return
    chat.session.rename(argument)
    name = chat.session.name
    console.note(f"saved as {name} (open it again with `llmcli chat --session {name}`)")


@command(
    "load",
    heading=SESSIONS,
    usage="NAME",
    help="Open another session and continue it.",
    detail="/sessions lists them. The end of a name is enough: `comet` opens 2026-11-28-comet.",
    examples=("/load novel", "/load ghost-story", "/sessions, then /load draft-1"),
    complete=_session_names,
)
def load(chat: "ChatApp", argument: str) -> None:
    """Close this session and open another one."""
    if not argument:
        raise UsageError("/load needs the name of a session", "see the names in /sessions")
    if store.to_name(argument) == chat.session.name:
        raise UsageError(f"session {chat.session.name} is already open")
    chat.controller.switch_session(_open(argument))
    ensure_session_model(chat)
    open_session(chat)


def _open(argument: str) -> Session:
    """The session of that name, or the one whose name ends so.

    Raises:
        UsageError: if there is none, with the command of the chat that lists them.
    """
    try:
        return Session.load(argument)
    except UsageError as error:
        raise UsageError(str(error), error.hint.replace("`llmcli sessions`", "/sessions")) from None


def ensure_session_model(chat: "ChatApp") -> None:
    """Make sure that the model is downloaded; if the session's own model is missing, use the default model.

    Raises:
        ModelNotFoundError: when that one is missing too.
    """
    controller = chat.controller
    missing, origin = controller.settings.model, controller.resolved().origins["model"]
    try:
        chat.ensure_model(controller.settings)
    except LlmcliError:
        if origin != "session":
            raise
        controller.reset("model")
        chat.ensure_model(controller.settings)
        console.warn(f"the model of this session, {missing}, is not downloaded: using {controller.settings.model}")


def open_session(chat: "ChatApp") -> None:
    """Show what is wrong with a session that was opened, and its last messages."""
    for note in chat.session.notes:
        console.warn(note)
    chat.session.notes.clear()
    path = chat.path()
    if chat.live:
        show(chat, path[-_SHOWN:], len(path) - _SHOWN + 1)
    console.note(f"session {chat.session.name}, {plural(len(path), 'message')}")


@command(
    "sessions",
    heading=SESSIONS,
    usage="[TEXT]",
    help="List the sessions, or search their messages.",
    detail="With TEXT, the messages of all sessions that contain it. /load NAME opens a session.",
    examples=("/sessions", "/sessions comet", "/sessions, then /load novel"),
    everyday=True,
)
def sessions(chat: "ChatApp", argument: str) -> None:
    """Print a table of sessions, or of the messages that contain a text."""
    if argument:
        _search(argument)
        return
    listed = store.session_summaries()
    if not listed:
        console.note("no sessions yet")
        return
    rows = []
    for session in listed:
        mark = "*" if session.name == chat.session.name else ""
        rows.append((session.name + mark, str(session.n_messages), format_age(session.changed), session.title))
    print_rows(("SESSION", "MESSAGES", "CHANGED", "BEGINS"), rows, right=("MESSAGES",), spare=("BEGINS", "MESSAGES"))


def _search(text: str) -> None:
    """Print the messages of all sessions that contain a text."""
    hits = list(store.search(text))
    if not hits:
        console.note(f"no message contains {text!r}")
        return
    print_rows(("SESSION", "N", "TEXT"), [(hit.session, str(hit.number), hit.excerpt) for hit in hits], right=("N",))


@command(
    "rename",
    heading=SESSIONS,
    usage="NAME",
    help="Rename this session.",
    detail="Words are joined by hyphens.",
    examples=("/rename novel", "/rename ghost story", "/load draft-1, then /rename final"),
)
def rename(chat: "ChatApp", argument: str) -> None:
    """Give the session another name."""
    if not argument:
        raise UsageError("/rename needs a name", "try /rename novel")
    chat.session.rename(argument)
    console.note(f"renamed to {chat.session.name}")


@command(
    "export",
    heading=FILES,
    usage="FILE",
    help="Write the conversation to a file.",
    detail="Its ending selects the format: .md (Markdown), .txt, .json, .html (a page for a browser) or "
    ".svg (a picture).",
    examples=("/export talk.md", "/export talk.html", "/export talk.svg"),
    complete=registry.complete_paths,
    everyday=True,
)
def export(chat: "ChatApp", argument: str) -> None:
    """Write the conversation as a document."""
    from llmcli.chat.export import format_of
    from llmcli.ui.export_file import document, write

    if not argument:
        raise UsageError("/export needs a file name", "try /export talk.md")
    path = Path(os.path.expanduser(argument.strip('"')))
    form = format_of(path)
    if not chat.path():
        raise UsageError("the conversation is empty: nothing to export", "send a message first")
    if os.path.exists(path) and not (chat.live and confirm(f"{path} already exists. Replace it?", False)):
        raise UsageError(f"{path} already exists", "choose another name")
    write(document(chat.path(), chat.session.name, system_text(chat.controller.settings), form), path)
    console.note(f"exported to {os.path.abspath(path)}")
