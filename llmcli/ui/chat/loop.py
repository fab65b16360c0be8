"""The loop of the chat: read a message or a command, and act on it; what the input line shows meanwhile."""

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import ExitStatus, LlmcliError, ModelInvalidError, ModelNotFoundError, OutputClosedError
from llmcli.params.settings import fields
from llmcli.text import ellipsize, parse_command, plural
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands import registry
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.console import can_ask, console, is_terminal
from llmcli.ui.terminal.interrupt import clear_pending

# Words that people type without the slash, and the command.
_WITHOUT_SLASH = {"help": "help", "exit": "exit", "quit": "exit", "exit()": "exit", "quit()": "exit", ":q": "exit"}
_MARKER = 2  # columns of the `> ` before the text
_DATE = re.compile(r"^\d{4}-\d\d-\d\d-(?=.)")  # at the start of names that llmcli makes


def run(chat: ChatApp, first: str = "") -> int:
    """Chat until the user leaves or the input ends; `first` is sent at once. Returns the exit status.

    Without a terminal it is the status of the first error, so that a script can react.
    """
    text, is_block = first, False  # to act on; empty while the next one is read
    with suppress(EOFError):  # also of /exit
        while True:
            try:
                if text:
                    _handle(chat, text, is_block)
                text = ""
                clear_pending()
                chat.warn_if_full()
                draft, chat.draft = chat.draft, ""
                text = chat.reader.read(draft)
                is_block = chat.reader.is_block
            except OutputClosedError:
                raise
            except LlmcliError as error:  # also a message that is too long: the next one can be read
                console.error(str(error), _hint(error))
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


def _handle(chat: ChatApp, text: str, is_block: bool) -> None:
    """Run the command, or send the message; a word like `exit` alone is sent only when it is typed again.

    A block is a message, whatever it contains.
    """
    if is_block:
        chat.send(text)
        return
    word = text.strip().lower()
    name, refused = _WITHOUT_SLASH.get(word), chat.refused_word
    chat.refused_word = ""
    if name and chat.editing is None and refused != word:
        if can_ask():
            chat.refused_word = word
            console.note(f"not sent: type /{name} for the command, or '{word}' again to send it")
            return
        console.note(f"{word!r} is sent as a message; /{name} is the command")
    command = parse_command(text)
    if not command:
        chat.send(text)
        return
    if number := chat.stop_editing():
        console.note(f"message {number} is unchanged")
    registry.dispatch(chat, *command)


def _hint(error: LlmcliError) -> str:
    """The hint of an error with slash commands in place of flags, except in commands of the shell."""
    commands = {flag: f"/{key}" for key in chat_setting_keys() for flag in fields()[key].flags}
    parts = error.hint.split("`")
    for index, part in enumerate(parts[::2]):
        parts[2 * index] = re.sub(r"(?<!\S)-[\w-]+", lambda flag: commands.get(flag[0], flag[0]), part)
    other = "use another model with /model NAME" if isinstance(error, (ModelInvalidError, ModelNotFoundError)) else ""
    return ", or ".join(filter(None, ("`".join(parts), other)))


def status_line(chat: ChatApp) -> str:
    """The state of the chat before the next message: as much as fits the window, the most important first."""
    if chat.editing is not None:
        return _fitting(f"editing message {chat.editing}", "Enter saves it", "Ctrl-C cancels")
    controller = chat.controller
    engine, settings = controller.engine, controller.settings
    name = engine.name if engine else settings.asked
    # Of a path the end, which distinguishes models.
    parts = [name if engine and not name.startswith("/") else Path(name).name, chat.session.character]
    if engine is None and controller.loading:
        parts.append(controller.loading.status)
        if error := controller.loading.error:  # the whole error comes with the next message
            room = shutil.get_terminal_size().columns - 1 - len(_fitting(*parts[:2])) - len(" · ")
            parts[-1] = ellipsize(f"cannot be loaded: {error}", max(room, len("cannot be loaded…")))
    if engine:
        if chat.fit is None:  # the model was loaded during this prompt
            chat.count()
        of_all = f"/{_short(engine.n_ctx)}" if engine.n_ctx else ""
        parts.append(f"context {_short(chat.fit.n_prompt if chat.fit else 0)}{of_all}")
        if settings.rpc:
            parts.append(engine.placement)
    if not controller.is_of_server("temperature"):
        parts.append(f"temp {fields()['temperature'].format(settings.temperature)}")
    turn = chat.turn
    if turn and turn.answer.started and turn.message and chat.path()[-1:] == [turn.message]:  # nothing came after it
        speed = round(turn.answer.timings()["predicted_per_second"])
        parts.append(f"{plural(speed, 'token')}/s" if speed else "")
    if chat.pending:
        parts.append(plural(len(chat.pending), "file"))
    if name := chat.session.name:  # of a long one, the date is dropped first, which tells the least
        longest = max(shutil.get_terminal_size().columns // 3, 12)
        parts.append(ellipsize(name if len(name) <= longest else _DATE.sub("…", name), longest))
    return _fitting(*parts)


def input_hint(chat: ChatApp) -> str:
    """What the user can do, for the empty line of a chat without an answer; empty after the first answer."""
    answered = any(message.role == "assistant" and message.finish_reason != "greeting" for message in chat.path())
    if chat.turn or answered or chat.editing is not None:
        return ""
    hint = _fitting("Ask anything", "/ for commands", "Ctrl-C stops", "Ctrl-D leaves", less=_MARKER)
    return hint if len(hint) < shutil.get_terminal_size().columns - _MARKER else ""


def _fitting(*parts: str, less: int = 0) -> str:
    """As many of the parts as fit the window without its last column and `less` others; the first one always."""
    return first_that_fits(*(parts[:number] for number in range(len(parts), 0, -1)), less=less)


def _short(tokens: int) -> str:
    """1234 -> 1.2k, 131072 -> 131k."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 10_000 else f"{tokens // 1000}k"
