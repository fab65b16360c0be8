"""The loop of the chat: read, obey or send, and again."""

from contextlib import suppress

from llmcli.errors import ExitStatus, LlmcliError, ReaderGoneError
from llmcli.ui.commands import registry
from llmcli.ui.commands.asking import LeaveError
from llmcli.ui.console import console
from llmcli.ui.repl.chat import Chat


def talk(chat: Chat, first: str = "") -> int:
    """Talk until the user leaves or the input ends; `first` is said at once. Returns the exit status.

    Without a terminal the status is that of the first thing that failed, for a script to see.
    """
    with suppress(EOFError, LeaveError):
        if first:
            _one(chat, first)
        while True:
            draft, chat.draft = chat.draft, ""
            chat.measure()
            _one(chat, chat.reader.read(draft))
    if chat.live or not chat.failure:
        return ExitStatus.OK
    return chat.failure.status


def _one(chat: Chat, text: str) -> None:
    """One message or command; what goes wrong is told and the chat goes on."""
    try:
        _obey(chat, text)
    except ReaderGoneError:
        raise
    except LlmcliError as error:
        console.error(str(error), error.hint)
        chat.failure = chat.failure or error
    except KeyboardInterrupt:
        console.note("stopped")


def _obey(chat: Chat, text: str) -> None:
    parsed = registry.split(text)
    if parsed is None:
        chat.send(text.removeprefix("/") if text.startswith("//") else text)
        return
    if chat.editing is not None:
        console.note(f"message {chat.editing} stays as it was")
        chat.editing = None
    registry.obey(chat, *parsed)
