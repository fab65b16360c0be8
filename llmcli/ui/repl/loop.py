"""The loop of the chat: read, obey or send, and again."""

import sys
from contextlib import suppress

from llmcli.errors import ExitStatus, LlmcliError, ReaderGoneError
from llmcli.ui.commands import registry
from llmcli.ui.commands.asking import LeaveError, is_command_without_slash
from llmcli.ui.console import console, is_terminal
from llmcli.ui.interrupt import forget
from llmcli.ui.repl.chat import Chat


def talk(chat: Chat, first: str = "") -> int:
    """Talk until the user leaves or the input ends; `first` is said at once. Returns the exit status.

    Without a terminal the status is that of the first thing that failed, for a script to see.
    """
    with suppress(EOFError, LeaveError):
        if first:
            _one(chat, first)
        while True:
            _next(chat)
    if chat.live or not chat.failure:
        return ExitStatus.OK
    return chat.failure.status


def _next(chat: Chat) -> None:
    """Read one message or command, and do what it asks for."""
    forget()
    try:
        chat.measure()
        draft, chat.draft = chat.draft, ""
        text = chat.reader.read(draft)
    except KeyboardInterrupt:
        if not is_terminal(sys.stdin):
            raise
        console.note("Ctrl-D or /exit ends the chat")
        return
    except LlmcliError as error:  # a message that is too long, say; the one after it can be read
        _tell(chat, error)
        return
    _one(chat, text)


def _one(chat: Chat, text: str) -> None:
    """One message or command; what goes wrong is told and the chat goes on."""
    try:
        _obey(chat, text)
    except ReaderGoneError:
        raise
    except LlmcliError as error:
        _tell(chat, error)
    except KeyboardInterrupt:
        console.note("stopped")


def _tell(chat: Chat, error: LlmcliError) -> None:
    console.error(str(error), error.hint)
    chat.failure = chat.failure or error


def _obey(chat: Chat, text: str) -> None:
    if is_command_without_slash(chat, text):
        return
    parsed = registry.split(text)
    if parsed is None:
        chat.send(text.removeprefix("/") if text.startswith("//") else text)
        return
    if chat.editing is not None:
        console.note(f"message {chat.editing} stays as it was")
        chat.editing = None
    registry.obey(chat, *parsed)
