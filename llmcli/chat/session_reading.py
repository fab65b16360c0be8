"""Read the file of a session: its conversation, its settings, and what is wrong with the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmcli.chat.conversation import Conversation, Message
from llmcli.chat.sessions import store as files
from llmcli.chat.sessions.file import read_partial
from llmcli.chat.sessions.format import from_event, number_of
from llmcli.errors import UsageError
from llmcli.files import read_events
from llmcli.params.settings import NEVER_SET, find
from llmcli.text import excerpt

_MAX_NOTES = 3
_MAX_NAME = 100  # characters, of a character


@dataclass
class Reading:
    """The content of a session file; `unfinished` is the answer of a chat that was killed."""

    conversation: Conversation = field(default_factory=Conversation)
    overrides: dict[str, Any] = field(default_factory=dict)
    character: str = ""
    character_keys: set[str] = field(default_factory=set)  # the settings that the character has set
    faults: list[str] = field(default_factory=list)
    unfinished: Message | None = None

    def notes(self, name: str) -> list[str]:
        """The faults for a person: the first few, and how many more there are."""
        notes = [f"{name}: {fault}" for fault in self.faults[:_MAX_NOTES]]
        more = len(self.faults) - _MAX_NOTES
        return [*notes, f"{name}: {more} more problems like these"] if more > 0 else notes


def read_session(path: Path) -> Reading:
    """Read the files of a session, and skip what is not valid.

    Raises:
        UsageError: if a newer version wrote it.
        DiskError: if it cannot be read.
    """
    reading = Reading()
    for event in read_events(path, reading.faults):
        try:
            _apply(reading, event)
        except (UsageError, ValueError) as error:
            reading.faults.append(f"skipped a line: {str(error)[:200]}")
    reading.unfinished = _unfinished(path, reading.conversation)
    return reading


def _apply(reading: Reading, event: Mapping[str, Any]) -> None:
    kind, key = event.get("type"), str(event.get("key"))
    if kind == "message":
        _add_message(reading, from_event(event))
    elif kind == "head":
        reading.conversation.move(number_of(event.get("id")))
    elif kind == "set":
        key = find(key).key
        reading.overrides[key] = _typed_value(key, event.get("value"))
        reading.character_keys.discard(key)
    elif kind == "unset":
        reading.overrides.pop(key, None)
        reading.character_keys.discard(key)
    elif kind == "character":
        _set_character(reading, event.get("name"), event.get("keys"))


def _set_character(reading: Reading, name: Any, keys: Any) -> None:
    if not isinstance(name, str) or not isinstance(keys, list):
        raise ValueError("a character must have a name and a list of keys")
    reading.character = excerpt(name, _MAX_NAME)
    reading.character_keys = {key for key in reading.overrides if key in keys}


def _typed_value(key: str, datum: Any) -> Any:
    if key in NEVER_SET:
        raise UsageError(f"a session file cannot set {key} (it runs code)")
    value = find(key).parse_data(datum)
    if key == "preset" and value:
        from llmcli.config.presets import preset_layer

        preset_layer(value)  # raises if the preset was deleted
    return value


def _add_message(reading: Reading, message: Message) -> None:
    """Add a message of the file; if the one that it follows is lost, it follows the message before it in the file."""
    conversation = reading.conversation
    if message.parent is not None and message.parent not in conversation.messages:
        reading.faults.append(f"message {message.id} follows message {message.parent}, which does not exist")
        message = replace(message, parent=conversation.head)
    if conversation.messages.get(message.id) != message:  # a line may be there twice
        conversation.add(message)


def _unfinished(path: Path, conversation: Conversation) -> Message | None:
    """The answer of a chat that was killed, unless the conversation has it already."""
    message, known = read_partial(files.partial_of(path)), conversation.messages
    if not message or message.id in known:
        return None
    return message if message.parent in (None, *known) else replace(message, parent=conversation.head)
