"""`llmcli chat`: a conversation in the terminal, or one turn per line from a pipe."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.chat.paths import data_dir
from llmcli.cli.options import both, complete_reference, complete_session, with_settings
from llmcli.errors import LlmcliError, UsageError
from llmcli.params.layers import Layer, resolve
from llmcli.params.settings import Settings, fields
from llmcli.ui.console import is_terminal

if TYPE_CHECKING:  # what the chat is made of is imported when there is one: `--help` and completion do without
    from llmcli.chat.session import Session
    from llmcli.ui.repl.chat import Chat, Reader

_FIRST = ("prompt", "file")  # said at once, and no settings of the conversation


@with_settings(only=[key for key in fields() if key != "logprobs"])
def chat(
    flags: Layer,
    text: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="Say this at once.")] = None,
    go_on: Annotated[bool, typer.Option("--continue", "-C", help="Go on with the last session.")] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session", "-S", metavar="NAME", help="Open this session, or begin it.", autocompletion=complete_session
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--save/--no-save", help="Keep the session on disk, or leave no trace.")] = True,
) -> int:
    """Talk with a model. Without a terminal each line of stdin is a turn, or each block between lines of \"\"\"."""
    from llmcli.cli.chat_session import open_session
    from llmcli.ui.repl.show import is_live
    from llmcli.ui.typeahead import silent_keys

    first = both(text, flags.values.get("prompt"), "prompt")
    if "-" in (first, *flags.values.get("file", ())):
        raise UsageError("stdin holds the turns of a chat, and cannot be a prompt too", "pipe it in without the `-`")
    live = is_live() and is_terminal(sys.stdin)
    with silent_keys(live):  # somebody may type already
        return _talk(flags, open_session(go_on, session, keep), first or "", live)


def _talk(flags: Layer, session: "Session", first: str, live: bool) -> int:
    """Put a chat together and run it."""
    from llmcli.chat.dialogue import Dialogue
    from llmcli.chat.layering import layers_of
    from llmcli.cli.chat_session import character_of, remember
    from llmcli.cli.chat_start import bring, open_model, run
    from llmcli.ui.repl.chat import Chat

    given = Layer("flag", {key: value for key, value in flags.values.items() if key not in _FIRST})
    character, middle = character_of(given, session)
    layers = layers_of(given, *middle)
    remember(session, *middle, given)
    asked = resolve(layers.above(session.overrides)).settings
    here: Chat
    load = partial(open_model, on_end=lambda: _loaded(here))
    here = Chat(Dialogue(session, layers, load), live=live, names=lambda: complete_reference(""), bring=bring)
    here.reader = _reader(here, asked, live)
    return run(here, first, flags.values.get("file", ()), character)


def _loaded(here: "Chat") -> None:
    """Show that the model is there, and import what its first word would otherwise wait for; in the loading thread."""
    here.reader.refresh()
    if here.live:
        from llmcli.ui.markdown.view import preload

        preload()


def _reader(here: "Chat", settings: Settings, live: bool) -> "Reader":
    if not live:
        from llmcli.ui.prompt.lines import LineReader

        marker = _mark if is_terminal(sys.stdin) else None
        if sys.stdin is None:
            raise LlmcliError("stdin is closed", "give the messages there, or use a terminal")
        return LineReader(sys.stdin.buffer, marker)
    from llmcli.ui.commands.complete import suggest
    from llmcli.ui.prompt.reader import TerminalReader
    from llmcli.ui.repl.show import style
    from llmcli.ui.repl.status_line import input_hint, status_line

    reader = TerminalReader(
        lambda before: suggest(here, before),
        lambda: status_line(here),
        data_dir() / "history",
        settings.editing_mode,
        style(settings),
        here.colour,
        lambda: input_hint(here),
    )
    reader.on_drawn = here.dialogue.open
    reader.on_interrupt(here.stop_editing)
    return reader


def _mark() -> None:
    sys.stderr.write("> ")
    sys.stderr.flush()
