"""The session of a chat: which one it is, and what it keeps of the command line that began it."""

import os
from typing import TYPE_CHECKING, Any

from llmcli.chat.compose import read_text
from llmcli.chat.config import config_layer
from llmcli.chat.session import Session
from llmcli.errors import UsageError
from llmcli.params.generation import GenerationParams
from llmcli.params.layers import Layer, environment_layer, resolve
from llmcli.params.param import describe
from llmcli.params.request import RequestParams
from llmcli.params.settings import SamplingParams, fields
from llmcli.ui.console import console

if TYPE_CHECKING:
    from llmcli.chat.characters import Character

# What a conversation is made with; how it is shown and where it is computed may differ from day to day.
_KEPT = {*describe(RequestParams), *describe(GenerationParams), *describe(SamplingParams), "model", "n_ctx"}


def open_session(go_on: bool, name: str | None, keep: bool) -> Session:
    """The session asked for: the last one, one by its name, or a new one.

    Raises:
        UsageError: when two of them are asked for at once, or another chat has it open.
    """
    if go_on and name:
        raise UsageError("--continue and --session cannot be used together", "keep one of them")
    if not keep and (go_on or name):
        raise UsageError("--no-save begins a session of its own", "leave out --continue and --session")
    if not go_on and not name:
        return Session(keep=keep)
    from llmcli.chat import session_files

    if name:
        return Session.load(name) if session_files.path_of(name).is_file() else Session(name)
    last = next((one for one in session_files.names() if not session_files.is_open(one)), None)
    if not last:
        console.note("there is no session to go on with: this is a new one")
        return Session()
    return Session.load(last)


def character_of(flags: Layer, session: Session) -> "tuple[Character | None, list[Layer]]":
    """Whom to talk to: a character is asked for on the command line, or, by the configuration, in a new session.
    With the layer of its settings, if there is one.

    Raises:
        UsageError: when there is no such character.
        DiskError: when its file cannot be read.
    """
    chosen = resolve([config_layer(), environment_layer(os.environ), flags]).settings.character
    if not chosen or (session.conversation.messages and "character" not in flags.values):
        return None, []
    from llmcli.chat.characters import layer, load_character

    character = load_character(chosen)
    return character, [layer(character)]


def remember(session: Session, *layers: Layer) -> None:
    """Let what the command line says win over what was set in the session, and come back with it."""
    given = {key: value for layer in layers for key, value in layer.values.items()}
    for key in given.keys() & session.overrides.keys():
        session.unset(key)
    session.remember({key: _lasting(key, value) for key, value in given.items() if key in _KEPT})


def _lasting(key: str, value: Any) -> Any:
    """A value that means the same from another folder, and tomorrow."""
    if key == "system" and isinstance(value, str) and value.startswith("@"):
        return read_text(value[1:]).rstrip("\n")
    if (fields()[key].param.path or key == "model") and isinstance(value, str):
        path = os.path.expanduser(value)
        return os.path.abspath(path) if os.path.isfile(path) else value
    return value
