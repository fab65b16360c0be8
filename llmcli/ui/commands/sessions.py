"""Commands that name, open, copy and list sessions."""

from llmcli.chat.sessions import listing, store
from llmcli.chat.sessions.session import Session
from llmcli.errors import LlmcliError, UsageError
from llmcli.text import format_age, plural
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.messages import show_last
from llmcli.ui.commands.registry import command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_rows


@command("fork NAME", "/fork other-ending", "/fork draft-2", "/fork short, then /undo 2")
def fork(chat: ChatApp, argument: str) -> None:
    """Continue in a copy of this session. The copy gets the NAME; this session stays as it is."""
    before = chat.session.name
    chat.controller.switch_session(chat.session.copy(argument))
    console.note(f"session {chat.session.name}" + (f" (a copy of {before}, which stays as it is)" if before else ""))


@command("save NAME", "/save novel", "/save ghost story", "/save draft-1")
def save(chat: ChatApp, argument: str) -> None:
    """Name this chat, or save a copy under a new name.

    Each message is saved at once anyway, under a name made of the date and the first words.
    """
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


def _names(_chat: ChatApp, start: str) -> list[tuple[str, str]]:
    return [(session.name, session.title) for session in listing.session_summaries(start)]


@command("load NAME", "/load novel", "/load ghost-story", "/sessions, then /load draft-1", complete=_names)
def load(chat: ChatApp, argument: str) -> None:
    """Open another session and continue it.

    /sessions lists them. The end of a name is enough: `comet` opens 2026-11-28-comet.
    """
    if store.to_name(argument) == chat.session.name:
        raise UsageError(f"session {chat.session.name} is already open")
    try:
        session = Session.load(argument)
    except UsageError as error:
        raise UsageError(str(error), error.hint.replace("`llmcli sessions`", "/sessions")) from None
    chat.controller.switch_session(session)
    ensure_session_model(chat)
    open_session(chat)


def ensure_session_model(chat: ChatApp) -> None:
    """Make sure that a model is downloaded: the session's own, else the default one; else ModelNotFoundError."""
    controller = chat.controller
    missing, origin = controller.settings.model, controller.resolved().origins["model"]
    try:
        chat.ensure_model(controller.settings)
    except LlmcliError:
        if origin != "session":
            raise
        controller.reset("model")
        chat.ensure_model(controller.settings)
        what = "not downloaded: using " + str(controller.settings.model)
        if controller.settings.endpoint:
            what = "not at the endpoint: another one answers"
        console.warn(f"the model of this session, {missing}, is {what}")


def open_session(chat: ChatApp) -> None:
    """Show what is wrong with a session that was opened, and its last messages."""
    chat.warn_of_session()
    if chat.live:
        show_last(chat, 2)
    console.note(f"session {chat.session.name}, {plural(len(chat.path()), 'message')}")


@command("sessions [TEXT]", "/sessions", "/sessions comet", "/sessions, then /load novel")
def sessions(chat: ChatApp, argument: str) -> None:
    """List the sessions, or search their messages.

    With TEXT, the messages of all sessions that contain it. /load NAME opens a session.
    """
    if argument:
        hits = [(hit.session, str(hit.number), hit.excerpt) for hit in listing.search(argument)]
        if hits:
            print_rows(("SESSION", "N", "TEXT"), hits, right=("N",))
        else:
            console.note(f"no message contains {argument!r}")
        return
    listed = listing.session_summaries()
    if not listed:
        console.note("no sessions yet")
        return
    rows = []
    for session in listed:
        mark = "*" if session.name == chat.session.name else ""
        rows.append((session.name + mark, str(session.n_messages), format_age(session.changed), session.title))
    print_rows(("SESSION", "MESSAGES", "CHANGED", "BEGINS"), rows, right=("MESSAGES",), spare=("BEGINS", "MESSAGES"))


@command("rename NAME", "/rename novel", "/rename ghost story", "/load draft-1, then /rename final")
def rename(chat: ChatApp, argument: str) -> None:
    """Rename this session. Words are joined by hyphens."""
    chat.session.rename(argument)
    console.note(f"renamed to {chat.session.name}")
