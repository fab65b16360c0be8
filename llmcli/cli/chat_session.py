"""The session of a chat: which one to open, and what to save of its command line."""

import os
from typing import TYPE_CHECKING, Any

from llmcli.chat.sessions.session import Session
from llmcli.config.file import config_layer
from llmcli.errors import UsageError
from llmcli.files import read_text
from llmcli.params.generation import GenerationParams, RequestParams
from llmcli.params.param import describe
from llmcli.params.settings import Layer, SamplingParams, environment_layer, fields, resolve
from llmcli.ui.terminal.ask import can_ask
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:
    from llmcli.config.characters import Character

_NO_CHARACTER = "none"
# Settings that belong to a conversation; those of the screen and the machine may differ from day to day.
_SAVED = {*describe(RequestParams), *describe(GenerationParams), *describe(SamplingParams), "model", "n_ctx"}


def open_session(go_on: bool, name: str | None, keep: bool) -> Session:
    """The session of the command line: the last one, one by its name, or a new one.

    Raises:
        UsageError: if the options contradict each other, or another chat has the session open.
    """
    if go_on and name:
        raise UsageError("--continue and --session cannot be used together", "use one of them")
    if not keep and (go_on or name):
        raise UsageError("--no-save starts a new session", "remove --continue and --session")
    if not go_on and not name:
        return Session(keep=keep)
    from llmcli.chat.sessions import store

    if name:
        return _open_named(name)
    last = next((one for one in store.names() if not store.is_open(one)), None)
    if not last:
        console.note("there is no session to continue: this is a new session")
        return Session()
    return Session.load(last)


def _open_named(text: str) -> Session:
    """The session of this name, or a new one; a note reports a new one, because the name may be mistyped."""
    from llmcli.chat.sessions import store

    name = store.to_name(text)
    if store.path_of(name).is_file():
        return Session.load(name)
    if can_ask():
        note = f"new session {name!r}"
        console.note("; ".join(filter(None, (note, store.similar(name)))))
    return Session(name)


def character_of(flags: Layer, session: Session) -> "tuple[Character | None, list[Layer]]":
    """The character of the command line, or, in a new session, of the configuration; and the layer of its settings.

    The name `none` removes the character of a session.

    Raises:
        UsageError: if there is no such character.
        DiskError: if its file cannot be read.
    """
    chosen = resolve([config_layer(), environment_layer(os.environ), flags]).settings.character
    if not chosen or (session.conversation.messages and "character" not in flags.values):
        return None, []
    if chosen == _NO_CHARACTER:
        session.remove_character()
        return None, []
    from llmcli.config.characters import layer, load_character

    character = load_character(chosen)
    session.remove_character()
    return character, [layer(character)]


def remember(session: Session, *layers: Layer) -> None:
    """Let the settings of the command line replace those of the session, and save them with it."""
    given = {key: value for layer in layers for key, value in layer.values.items()}
    for key in given.keys() & session.overrides.keys():
        session.unset(key)
    session.remember({key: _portable(key, value) for key, value in given.items() if key in _SAVED})


def _portable(key: str, value: Any) -> Any:
    """A value that does not depend on the current folder, or on a file that may change."""
    if key == "system" and isinstance(value, str) and value.startswith("@"):
        return read_text(value[1:]).rstrip("\n")
    if (fields()[key].param.path or key == "model") and isinstance(value, str):
        path = os.path.expanduser(value)
        return os.path.abspath(path) if os.path.isfile(path) else value
    return value
