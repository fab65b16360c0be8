"""What the file of a session says: its conversation, what was set in it, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmcli.chat import session_files as files
from llmcli.chat.journal import read_events
from llmcli.chat.records import NEVER_SET, from_event, number_of
from llmcli.chat.session_file import read_partial
from llmcli.chat.tree import Conversation, Message
from llmcli.errors import UsageError
from llmcli.params.settings import find

_MOST_NOTES = 3


@dataclass
class Reading:
    """A session as it was read; `unfinished` is an answer that a kill cut off."""

    conversation: Conversation = field(default_factory=Conversation)
    overrides: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unfinished: Message | None = None

    def notes(self, name: str) -> list[str]:
        """The faults as a person wants to hear of them: not one by one where there are many."""
        notes = [f"{name}: {fault}" for fault in self.faults[:_MOST_NOTES]]
        more = len(self.faults) - _MOST_NOTES
        return [*notes, f"{name}: {more} more faults like these"] if more > 0 else notes


def read_session(path: Path) -> Reading:
    """Read the files of a session, leaving out what cannot be.

    Raises:
        UsageError: when a newer version wrote it.
        DiskError: when it cannot be read.
    """
    reading = Reading()
    for event in read_events(path, reading.faults):
        try:
            _apply(reading, event)
        except (UsageError, ValueError) as error:
            reading.faults.append(f"a line was left out: {str(error)[:200]}")
    reading.unfinished = _unfinished(path, reading.conversation)
    return reading


def _apply(reading: Reading, event: Mapping[str, Any]) -> None:
    kind, key = event.get("type"), str(event.get("key"))
    if kind == "message":
        _take(reading, from_event(event))
    elif kind == "head":
        reading.conversation.move(number_of(event.get("id")))
    elif kind == "set":
        reading.overrides[find(key).key] = _value(find(key).key, event.get("value"))
    elif kind == "unset":
        reading.overrides.pop(key, None)


def _value(key: str, datum: Any) -> Any:
    if key in NEVER_SET:
        raise UsageError(f"{key} names code, which only you may do: give it again as a flag or a command")
    value = find(key).parse_data(datum)
    if key == "preset" and value:
        from llmcli.chat.presets import preset_layer

        preset_layer(value)  # it may have been removed since
    return value


def _take(reading: Reading, message: Message) -> None:
    """Add a message of the file; where the one before it is lost, after what stands before it."""
    conversation = reading.conversation
    if message.parent is not None and message.parent not in conversation.messages:
        reading.faults.append(f"message {message.id} follows {message.parent}, which is not there")
        message = replace(message, parent=conversation.head)
    if conversation.messages.get(message.id) != message:  # a line that is there twice does no harm
        conversation.add(message)


def _unfinished(path: Path, conversation: Conversation) -> Message | None:
    """The answer that a kill cut off, unless it is there already."""
    message, known = read_partial(files.partial_of(path)), conversation.messages
    if not message or message.id in known:
        return None
    return message if message.parent in (None, *known) else replace(message, parent=conversation.head)
