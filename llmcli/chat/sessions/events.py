"""The lines of a session file beside messages: the head of the current branch, settings, the character.

The file may come from others: no setting in it runs code or names a file that would be read into a prompt. So the file
has the text of a system prompt, a grammar, a schema or a template, in place of the name of its file.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

from llmcli.chat.conversation import MessageId
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import convert, read_text
from llmcli.inference.request import is_inline
from llmcli.params.settings import CODE_KEYS, fields, find, to_datum

_TEXTS = ("system", "grammar_file", "json_schema", "chat_template")  # settings that may name a text file


class HeadMove(Struct, tag="head", tag_field="type"):
    """The current branch ends with another message (None = before the first)."""

    id: MessageId | None


class SettingChange(Struct, tag="set", tag_field="type"):
    """A setting has a value from now on, as JSON data."""

    key: str
    value: Any = None


class SettingReset(Struct, tag="unset", tag_field="type"):
    """The session does not set a setting any more."""

    key: str


class CharacterChange(Struct, tag="character", tag_field="type"):
    """A character answers from now on ("" = none); `keys` are the settings that it has set before."""

    name: str
    keys: list[str]


Event = HeadMove | SettingChange | SettingReset | CharacterChange
_KINDS: tuple[type[Event], ...] = (HeadMove, SettingChange, SettingReset, CharacterChange)


def parse_event(data: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None for the header, and for a type that this version does not know.

    Raises ValueError if it is not valid, as in a file that was edited or cut.
    """
    kind = next((kind for kind in _KINDS if kind.__struct_config__.tag == data.get("type")), None)
    return convert(data, kind) if kind else None


def setting_changes(values: Mapping[str, Any]) -> Iterator[SettingChange | SettingReset]:
    """The events of typed values of settings; a value that no session can have is not set."""
    for key, value in values.items():
        is_refused = key in CODE_KEYS or _names_file(key, value)
        if is_refused and key in _TEXTS and (text := _file_text(key, value)) is not None:
            value, is_refused = text, _names_file(saved_key(key), text)
        key = saved_key(key)
        yield SettingReset(key) if is_refused else SettingChange(key, to_datum(fields()[key], value))


def _file_text(key: str, name: str) -> str | None:
    """The text of a file that a setting names; None if it cannot be read, which the next answer reports."""
    path = name[1:] if key == "system" else name
    if os.path.isfile(os.path.expanduser(path)):  # not a pipe, which can be read only once
        with suppress(LlmcliError):
            return read_text(path).rstrip("\n") if key == "system" else read_text(path)
    return None


def saved_key(key: str) -> str:
    """The key under which a session file has a setting."""
    return "grammar" if key == "grammar_file" else key


def typed_setting(change: SettingChange) -> tuple[str, Any]:
    """The key and the typed value of a setting. Raises UsageError if no session can have it."""
    field = find(change.key)
    if field.key in CODE_KEYS:
        raise UsageError(f"a session file cannot set {field.key} (it runs code)")
    value = field.parse_data(change.value)
    if _names_file(field.key, value):
        raise UsageError(f"a session file cannot set {field.key} to the name of a file")
    if field.key == "preset" and value:
        from llmcli.config.presets import preset_layer

        preset_layer(str(value))  # raises if the preset was deleted
    return field.key, value


def _names_file(key: str, value: Any) -> bool:
    """Whether a setting names a file that is not a model."""
    if not value:
        return False
    if key == "system":
        return bool(value.startswith("@"))
    if key in ("json_schema", "chat_template"):
        return not is_inline(value)
    if key == "theme":
        return not re.fullmatch(r"[\w-]+", value)
    return fields()[key].path and key != "model_folders"
