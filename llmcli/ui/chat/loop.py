"""The loop of the chat: read a message or a command, and act on it."""

import sys
from contextlib import suppress

from llmcli.errors import ExitStatus, LlmcliError, OutputClosedError
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands import registry
from llmcli.ui.commands.help import ExitChatError, is_command_without_slash
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.interrupt import clear_pending


def run(chat: ChatApp, first: str = "") -> int:
    """Chat until the user leaves or the input ends; `first` is sent at once. Returns the exit status.

    Without a terminal it is the status of the first error, so that a script can react.
    """
    text = first  # to act on; empty while the next one is read
    with suppress(EOFError, ExitChatError):
        while True:
            try:
                if text:
                    _handle(chat, text)
                text = ""
                clear_pending()
                chat.warn_if_full()
                draft, chat.draft = chat.draft, ""
                text = chat.reader.read(draft)
            except OutputClosedError:
                raise
            except LlmcliError as error:  # also a message that is too long: the next one can be read
                console.error(str(error), error.hint)
                chat.failure = chat.failure or error
                text = ""
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):  # of a script, which ends
                    raise
                console.note("stopped" if text else "Ctrl-D or /exit ends the chat")
                text = ""
    if chat.live or not chat.failure:
        return ExitStatus.OK
    return chat.failure.status


def _handle(chat: ChatApp, text: str) -> None:
    """Send a message, or run a command."""
    if is_command_without_slash(chat, text):
        return
    parsed = registry.parse_command(text)
    if parsed is None:
        chat.send(text.removeprefix("/") if text.startswith("//") else text)
        return
    number = chat.editing
    if chat.stop_editing():
        console.note(f"message {number} is unchanged")
    registry.dispatch(chat, *parsed)
