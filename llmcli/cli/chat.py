"""`llmcli chat`: a conversation on a terminal, or one message a line from a pipe."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from llmcli.chat.conversation import attach
from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.chat.sessions.store import saved_key
from llmcli.cli import model_preload
from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_reference, complete_remote, complete_session
from llmcli.cli.options import DECISION, RESULT, prompt_of, with_settings
from llmcli.cli.stdin import stdin_lines
from llmcli.config.presets import layers_of, resolve_settings
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import cache_dir, data_dir, read_text
from llmcli.inference.request import stdin_options, system_file
from llmcli.models import locations
from llmcli.params.generation import GenerationParams, RequestParams
from llmcli.params.param import fields_of
from llmcli.params.policies.policy import names_in
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.text import sanitize
from llmcli.ui.terminal.console import can_ask, can_redraw, console, is_terminal
from llmcli.ui.terminal.interrupt import allow_interrupt, defer_interrupt, disable_echo, exit_on_signal

if TYPE_CHECKING:
    from llmcli.chat.controller import BackgroundLoad, ReadAhead
    from llmcli.config.characters import Character
    from llmcli.engine.events import Cancellation
    from llmcli.inference.engine import Engine
    from llmcli.ui.chat.app import ChatApp
    from llmcli.ui.input.piped import LineReader
    from llmcli.ui.input.reader import TerminalReader

# Settings that belong to a conversation; those of the screen and the machine may differ from day to day.
_SAVED = {*fields_of(RequestParams), *fields_of(GenerationParams), *fields_of(SamplingParams), "model", "n_ctx"}


@with_settings(only=fields().keys() - DECISION - RESULT - {"logprobs"})
def chat(
    flags: Layer,
    text: Annotated[str | None, Argument(metavar="[PROMPT]", help="First message.")] = None,
    go_on: Annotated[bool, Option("--continue", "-C", help="Continue the last session.")] = False,
    session: Annotated[
        str | None,
        Option("--session", "-S", metavar="NAME", help="Session to open or create.", autocompletion=complete_session),
    ] = None,
    keep: Annotated[bool, Option("--save/--no-save", help="Save the session to disk.")] = True,
) -> int:
    first = prompt_of(flags, text)
    if readers := stdin_options(replace(resolve_settings(flags), prompt=first)):
        raise UsageError(
            f"{readers[0]} cannot read stdin in a chat: stdin contains the messages", "give a text or a file"
        )
    live = can_redraw(sys.stdout) and is_terminal(sys.stdin)
    with disable_echo(live):  # the user may type already
        return _start_chat(flags, open_session(go_on, session, keep), first or "", live)


def _start_chat(flags: Layer, session: Session, first: str, live: bool) -> int:
    from llmcli.chat.controller import ChatController
    from llmcli.ui.chat.app import ChatApp

    # The first message is not a setting of the conversation.
    given = Layer("flag", {key: value for key, value in flags.values.items() if key not in ("prompt", "file")})
    character, middle = character_of(given, session)
    layers = layers_of(given, *middle)
    save_overrides(session, *middle, given)
    if character:
        session.set_character(character.name, middle[0].values)
    settings = resolve(layers.above(session.overrides)).settings
    chat: ChatApp

    def show_loaded() -> None:  # runs in the loading thread
        chat.reader.refresh()
        if chat.live:
            from llmcli.ui.markdown.view import preload

            preload()  # what the first answer needs

    controller = ChatController(session, layers, partial(open_model, on_end=show_loaded))
    chat = ChatApp(controller, live, lambda: _model_names(controller.settings.endpoint), ensure_model)
    chat.reader = _reader(chat, settings, live)
    if live and is_model_name(first, flags):
        console.note(f"{first!r} is sent as a message; to use the model, start with `llmcli chat -m {first}`")
    return run_chat(chat, first, flags.get("file", tuple) or (), character)


def _model_names(endpoint: str | None) -> list[str]:
    """The names that /model completes."""
    return _names_at(endpoint) if endpoint else complete_reference("")


@cache
def _names_at(endpoint: str) -> list[str]:
    from llmcli.inference.endpoint_server import names_at

    return [sanitize(name) for name in names_at(endpoint, 1.0)]


def is_model_name(text: str, flags: Layer) -> bool:
    """Whether the first message is only the name of a model, here or of the catalog, as in `ollama run MODEL`."""
    if not text or text.split() != [text] or "model" in flags.values:
        return False
    names = {name.casefold() for name in complete_remote("")}
    return text.casefold() in names | {name.rpartition("/")[2] for name in names}


def _reader(chat: "ChatApp", settings: Settings, live: bool) -> "TerminalReader | LineReader":
    if not live:
        from llmcli.ui.input.piped import LineReader

        if sys.stdin is None:
            raise LlmcliError("stdin is closed", "pipe messages to stdin, or use a terminal")
        mark = partial(print, "> ", end="", file=sys.stderr, flush=True)
        lines = stdin_lines(settings.encoding)
        return LineReader(lines, mark) if is_terminal(sys.stdin) else LineReader(lines)
    from llmcli.ui.chat.loop import input_hint, status_line
    from llmcli.ui.commands.registry import suggest
    from llmcli.ui.input.reader import TerminalReader

    reader = TerminalReader(
        lambda before: suggest(chat, before),
        lambda: status_line(chat),
        lambda: input_hint(chat),
        data_dir() / "history",
        settings,
    )
    reader.on_drawn = chat.controller.load_model
    reader.on_interrupt = chat.stop_editing
    reader.on_idle = chat.controller.keep_context
    return reader


def open_session(go_on: bool, name: str | None, keep: bool) -> Session:
    """The session of the command line: the last one, one by its name, or a new one. Raises UsageError."""
    if go_on and name is not None:
        raise UsageError("--continue and --session cannot be used together", "use one of them")
    if not keep and (go_on or name is not None):
        raise UsageError("--no-save starts a new session", "remove --continue and --session")
    if not go_on and name is None:
        return Session(keep=keep)
    if name is None:
        last = next((one for one in store.names() if not store.is_open(one)), None)
        if last:
            return Session.load(last)
        console.note("no session to continue: this is a new session")
        return Session()
    name = store.to_name(name)
    same = [one for one in store.names() if one.casefold() == name.casefold()]
    if store.path_of(name).is_file() or len(same) == 1:
        return Session.load(same[0] if len(same) == 1 else name)  # an empty file has no name in the list
    similar = store.similar_name(name)
    if similar or can_ask():  # the name may be mistyped
        console.note("; ".join(filter(None, (f"new session {name!r}", similar))))
    return Session(name)


def character_of(flags: Layer, session: Session) -> "tuple[Character | None, list[Layer]]":
    """The character of the flags, or in a new session of the configuration, and its settings; `none` removes it."""
    chosen = resolve_settings(flags).character
    if not chosen or (session.conversation.messages and "character" not in flags.values):
        return None, []
    from llmcli.config.characters import character_layer, load_character

    character = None if chosen == "none" else load_character(chosen)
    session.remove_character()
    return character, [character_layer(character)] if character else []


def save_overrides(session: Session, *layers: Layer) -> None:
    """Let the settings of the command line replace those of the session, and save them with it."""
    flags = {key: value for layer in layers for key, value in layer.values.items()}
    file, temperature = flags.get("temp_policy_file"), session.overrides.get("temperature")
    if file and temperature and str(file).rpartition(":")[2] not in names_in(temperature):  # the file replaces it
        session.unset("temperature")
    for key in {*flags, *map(saved_key, flags)} & session.overrides.keys():
        session.unset(key)
    encoding = str(flags.get("encoding", fields()["encoding"].default))
    session.save_flags({key: _portable(key, value, encoding) for key, value in flags.items() if key in _SAVED})


def _portable(key: str, value: Any, encoding: str) -> Any:
    """A value that does not depend on the current folder, or on a file that may change."""
    if key == "system" and (file := system_file(value)) is not None:
        return read_text(file, encoding).rstrip("\n")
    if key == "model" and isinstance(value, str):
        path = os.path.expanduser(value)
        return os.path.abspath(path) if os.path.isfile(path) else value
    return value


def ensure_model(settings: Settings) -> None:
    """Make sure that the model is here; download it if the user agrees. Raises ModelNotFoundError.

    At an endpoint, it makes sure that the server has the model of a session.
    """
    if settings.endpoint:
        if settings.given.get("model") == "session":
            from llmcli.inference.endpoint_server import open_endpoint

            with allow_interrupt():
                open_endpoint(settings).check_model()
        return
    if settings.model != locations.STARTER:
        from llmcli.models.lookup import find_model_file

        with suppress(locations.ModelNotDownloadedError):
            find_model_file(settings.model, locations.model_locations(settings))
            return
    elif locations.is_starter_downloaded(cache_dir()):
        return
    from llmcli.cli.open_model import find_model

    with allow_interrupt():
        find_model(settings)


def open_model(settings: Settings, ahead: "ReadAhead", on_end: Callable[[], None]) -> "BackgroundLoad":
    """Load the model of the settings in a thread, and evaluate the conversation ahead of the next message."""
    from llmcli.chat.controller import BackgroundLoad

    def connect(cancellation: "Cancellation", _report: Callable[[str], None]) -> "Engine":
        from llmcli.inference.endpoint import EndpointEngine
        from llmcli.inference.endpoint_server import open_endpoint

        return EndpointEngine(open_endpoint(settings, cancellation=cancellation), cancellation=cancellation)

    def load(cancellation: "Cancellation", report: Callable[[str], None]) -> "Engine":
        from llmcli.cli.open_model import open_elsewhere
        from llmcli.inference.local import LocalEngine
        from llmcli.inference.resolved_model import resolve_model

        target = resolve_model(settings.model, locations.model_locations(settings), for_text=True)
        report("loading")
        if cancellation.is_set():
            raise KeyboardInterrupt
        early = model_preload.claim(target.file.parts if settings.has_default_load else ())

        def loading(share: float) -> None:
            report(f"loading {share:.0%}")

        engine = open_elsewhere(target, settings, cancellation, loading) or LocalEngine(
            target, settings, cancellation, loading, early
        )
        try:
            engine.open_context(settings)
            report("reading the conversation")
            with suppress(LlmcliError):  # the first message reports a fault of the template or the length
                ahead(engine, cancellation)
        except BaseException:
            engine.close()
            raise
        if isinstance(engine, LocalEngine):
            engine.hasher.start()
        return engine

    return BackgroundLoad(connect, on_end, "connecting") if settings.endpoint else BackgroundLoad(load, on_end)


def run_chat(chat: "ChatApp", first: str, files: Sequence[str], character: "Character | None") -> int:
    """Open what is needed, run the chat, and close everything."""
    from llmcli.cli.open_model import welcome
    from llmcli.ui.chat.loop import run
    from llmcli.ui.commands.sessions import ensure_session_model

    controller = chat.controller
    with exit_on_signal(), defer_interrupt() if chat.live else nullcontext():
        try:
            ensure_session_model(chat)
            welcome(controller.resolved())
            if not chat.live:  # at a terminal the load begins when the prompt is drawn
                controller.load_model()
            if console.verbose:  # what it shows would run into the prompt
                _show_details(chat)
            _print_opening(chat, character)
            chat.pending += [attach(name, controller.settings.encoding) for name in files]
            status = run(chat, first)
            if chat.live and controller.session.is_saved:
                console.note(f"saved as {controller.session.name!r}; `llmcli chat --continue` resumes it")
            return status
        finally:
            done = controller.close_model()
            controller.session.close()
            for line in done:
                console.detail(line)


def _show_details(chat: "ChatApp") -> None:
    """Load the model and show what `--verbose` knows; with -vv, llama.cpp's log too."""
    from llmcli.cli.open_model import print_settings
    from llmcli.inference.local import subscribe_log

    print_settings(chat.controller.resolved())
    if console.engine_log:
        subscribe_log(console.detail)
    if engine := chat.wait_for_model():
        for fact in engine.facts:
            console.detail(fact)


def _print_opening(chat: "ChatApp", character: "Character | None") -> None:
    """Show the end of a session that was opened, or the greeting of the character in a new one."""
    from llmcli.ui.commands.sessions import open_session

    session = chat.controller.session
    if session.conversation.messages or session.notes:
        open_session(chat)
    elif character and (greeting := session.greet(character)):
        chat.render(greeting)
        chat.say("")
