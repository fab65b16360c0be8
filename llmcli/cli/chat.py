"""`llmcli chat`: a conversation on a terminal, or one message a line from a pipe."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.cli.options import both, complete_reference, complete_session, with_settings
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import data_dir
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.ui.terminal.console import console, is_terminal

if TYPE_CHECKING:  # imported when a chat starts: `--help` and completion do not need them
    from llmcli.chat.sessions.session import Session
    from llmcli.ui.chat.app import Chat, Reader

_FIRST_MESSAGE = ("prompt", "file")  # not settings of the conversation


@with_settings(only=[key for key in fields() if key != "logprobs"])
def chat(
    flags: Layer,
    text: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="First message.")] = None,
    go_on: Annotated[bool, typer.Option("--continue", "-C", help="Continue the last session.")] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session", "-S", metavar="NAME", help="Session to open or create.", autocompletion=complete_session
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--save/--no-save", help="Save the session to disk.")] = True,
) -> int:
    """Chat with a model. Without a terminal, each line of stdin is a message, or each block between lines of \"\"\"."""
    from llmcli.cli.chat_session import open_session
    from llmcli.ui.chat.answer_display import is_live
    from llmcli.ui.terminal.interrupt import silent_keys

    first = both(text, flags.values.get("prompt"), "prompt")
    if "-" in (first, *flags.values.get("file", ())):
        raise UsageError("`-` is not valid in a chat: stdin contains the messages", "remove the `-`")
    live = is_live() and is_terminal(sys.stdin)
    with silent_keys(live):  # the user may type already
        return _run_chat(flags, open_session(go_on, session, keep), first or "", live)


def _run_chat(flags: Layer, session: "Session", first: str, live: bool) -> int:
    """Build a chat and run it."""
    from llmcli.chat.controller import Dialogue
    from llmcli.cli.chat_session import character_of, remember
    from llmcli.cli.chat_setup import bring, open_model, run
    from llmcli.config.layers import layers_of
    from llmcli.ui.chat.app import Chat

    given = Layer("flag", {key: value for key, value in flags.values.items() if key not in _FIRST_MESSAGE})
    character, middle = character_of(given, session)
    layers = layers_of(given, *middle)
    remember(session, *middle, given)
    if character:
        session.set_character(character.name, middle[0].values)
    settings = resolve(layers.above(session.overrides)).settings
    chat: Chat
    load = partial(open_model, on_end=lambda: _show_loaded(chat))
    chat = Chat(Dialogue(session, layers, load), live=live, names=lambda: complete_reference(""), bring=bring)
    chat.reader = _reader(chat, settings, live)
    if live and names_model(first, flags):
        console.note(f"{first!r} is sent as a message; to use the model, start with `llmcli chat -m {first}`")
    return run(chat, first, flags.values.get("file", ()), character)


def names_model(text: str, flags: Layer) -> bool:
    """Whether the first message is only the name of a model on this machine, as in `ollama run MODEL`."""
    if not text or text.split() != [text] or "model" in flags.values:
        return False
    names = {name.casefold() for name in complete_reference("")}
    return text.casefold() in names | {name.rpartition("/")[2] for name in names}


def _show_loaded(chat: "Chat") -> None:
    """Draw the status line again, and import what the first answer needs; runs in the loading thread."""
    chat.reader.refresh()
    if chat.live:
        from llmcli.ui.markdown.view import preload

        preload()


def _reader(chat: "Chat", settings: Settings, live: bool) -> "Reader":
    if not live:
        from llmcli.ui.input.piped import LineReader

        marker = _print_prompt if is_terminal(sys.stdin) else None
        if sys.stdin is None:
            raise LlmcliError("stdin is closed", "pipe messages to stdin, or use a terminal")
        return LineReader(sys.stdin.buffer, marker)
    from llmcli.ui.chat.answer_display import style
    from llmcli.ui.chat.status_line import input_hint, status_line
    from llmcli.ui.commands.registry import suggest
    from llmcli.ui.input.reader import TerminalReader

    reader = TerminalReader(
        lambda before: suggest(chat, before),
        lambda: status_line(chat),
        data_dir() / "history",
        settings.editing_mode,
        style(settings),
        chat.colour,
        lambda: input_hint(chat),
    )
    reader.on_drawn = chat.dialogue.open
    reader.on_interrupt(chat.stop_editing)
    return reader


def _print_prompt() -> None:
    sys.stderr.write("> ")
    sys.stderr.flush()
