"""The lines of a session file: messages and settings as events, and back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from llmcli.chat.conversation import Conversation, Message, MessageId
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import VERSION, convert, read_events
from llmcli.inference.answer_json import ReplayManifest
from llmcli.params.param import is_number
from llmcli.params.settings import CODE_KEYS, fields, find, to_datum
from llmcli.text import ellipsize

_MAX_NAME = 100  # letters in the name of a character
_MAX_TIME = 253402300800  # the year 10000, which an ISO timestamp cannot express


class Header(Struct, tag="session", tag_field="type"):
    """The first line."""

    version: int = VERSION


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


Event = Message | Header | HeadMove | SettingChange | SettingReset | CharacterChange


@dataclass
class SessionData:
    """The content of a session file; `unfinished` is the answer of a chat that was killed."""

    conversation: Conversation = field(default_factory=Conversation)
    overrides: dict[str, Any] = field(default_factory=dict)
    character: str = ""
    character_keys: set[str] = field(default_factory=set)  # the settings that the character has set
    faults: list[str] = field(default_factory=list)
    unfinished: Message | None = None


def read_session(path: Path, partial: Path) -> SessionData:
    """Read a session and the file of its unfinished answer, and skip what is not valid.

    Raises:
        UsageError: if a newer version wrote it.
        DiskError: if it cannot be read.
    """
    data = SessionData()
    for event in read_events(path, data.faults):
        try:
            _apply(data, event)
        except (UsageError, ValueError) as error:
            data.faults.append(f"skipped a line: {str(error)[:200]}")
    message, conversation = _read_partial(partial), data.conversation
    if message and message.id not in conversation.messages:
        data.unfinished = conversation.with_parent(message)
    return data


def _apply(data: SessionData, event: Mapping[str, Any]) -> None:
    match event.get("type"):
        case "message":
            _add_message(data, from_event(event))
        case "head":
            data.conversation.move(convert(event, HeadMove).id)
        case "set":
            change = convert(event, SettingChange)
            key = find(change.key).key
            data.overrides[key] = _typed_value(key, change.value)
            data.character_keys.discard(key)
        case "unset":
            key = convert(event, SettingReset).key
            data.overrides.pop(key, None)
            data.character_keys.discard(key)
        case "character":
            character = convert(event, CharacterChange)
            data.character = ellipsize(character.name, _MAX_NAME)
            data.character_keys = data.overrides.keys() & set(character.keys)


def _typed_value(key: str, datum: Any) -> Any:
    if key in CODE_KEYS:
        raise UsageError(f"a session file cannot set {key} (it runs code)")
    value = find(key).parse_data(datum)
    if key == "preset" and value:
        from llmcli.config.presets import preset_layer

        preset_layer(value)  # raises if the preset was deleted
    return value


def _add_message(data: SessionData, message: Message) -> None:
    conversation = data.conversation
    placed = conversation.with_parent(message)
    if placed is not message:
        data.faults.append(f"message {message.id} follows message {message.parent}, which does not exist")
    if conversation.messages.get(message.id) != placed:  # a line may be there twice
        conversation.add(placed)


def _read_partial(path: Path) -> Message | None:
    """The unfinished answer in this file, or None if it is empty."""
    message: Message | None = None
    texts: dict[str, list[str]] = {"answer": [], "think": []}
    with suppress(LlmcliError):  # usually the file does not exist
        for event in read_events(path):
            if event.get("type") == "message":
                with suppress(ValueError):
                    message = from_event(event)
            for kind in texts.keys() & event.keys():
                texts[kind].append(str(event[kind]))
    content, reasoning = "".join(texts["answer"]), "".join(texts["think"])
    if not message or not content + reasoning:
        return None
    return replace(message, content=content, reasoning=reasoning, finish_reason="interrupt")


def setting_changes(values: Mapping[str, Any]) -> Iterator[SettingChange]:
    """The events of typed values of settings, without those that name code."""
    for key, value in values.items():
        if key not in CODE_KEYS:
            yield SettingChange(key, to_datum(fields()[key], value))


def to_data(event: Event) -> dict[str, Any]:
    """The JSON object of an event; a message is without its empty fields."""
    data: dict[str, Any] = to_builtins(event)
    if not isinstance(event, Message):
        return data
    time = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    data = {"type": "message", "id": event.id, "parent": event.parent, "time": time} | data | {"time": time}
    return {key: value for key, value in data.items() if value not in ("", (), {})}


def from_event(event: Mapping[str, Any]) -> Message:
    """The message of an event, without values that no setting and no timing can have.

    Raises:
        ValueError: if the event is not a valid message, as in a file that was edited or cut.
    """
    cleaned = {
        "time": _seconds_of(event.get("time")),
        "params": _only(_is_plain, event.get("params", {})),
        "timings": _only(_is_finite, event.get("timings", {})),
        "replay": _replay_data(event.get("replay")),
    }
    return convert({**event, **cleaned}, Message)


def _replay_data(value: Any) -> Any:
    """What a replay needs; empty if it is not valid, because the answer itself is worth more."""
    with suppress(ValueError):
        ReplayManifest.from_data(value)
        return value
    return {}


def _seconds_of(timestamp: Any) -> float:
    try:
        seconds = datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return seconds if 0 <= seconds < _MAX_TIME else 0.0


def _only(is_valid: Callable[[Any], bool], values: Any) -> Any:
    """The valid values of an object."""
    return {key: value for key, value in values.items() if is_valid(value)} if isinstance(values, dict) else values


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e300  # neither NaN nor beyond the range of a float


def _is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a setting can have this value: a number, a string, or a list of them."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, bool | str) or _is_finite(value)
