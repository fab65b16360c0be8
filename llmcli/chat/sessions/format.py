"""The lines of a session file: messages and settings as events, and back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from llmcli.chat.conversation import Message, MessageId
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import VERSION, convert, read_events
from llmcli.inference.answer_json import ReplayManifest
from llmcli.params.param import is_number
from llmcli.params.settings import CODE_KEYS, fields, find, to_datum

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

_EVENTS: dict[str, type[HeadMove | SettingChange | SettingReset | CharacterChange]] = {
    "head": HeadMove,
    "set": SettingChange,
    "unset": SettingReset,
    "character": CharacterChange,
}


def to_event(data: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None if it is the header, or a type that this version does not know.

    Raises:
        ValueError: if it is not valid, as in a file that was edited or cut.
    """
    kind = str(data.get("type"))
    if kind == "message":
        return to_message(data)
    return convert(data, _EVENTS[kind]) if kind in _EVENTS else None


def typed_setting(change: SettingChange) -> tuple[str, Any]:
    """The key and the typed value of a setting.

    Raises:
        UsageError: if no session can have it.
    """
    field = find(change.key)
    if field.key in CODE_KEYS:
        raise UsageError(f"a session file cannot set {field.key} (it runs code)")
    value = field.parse_data(change.value)
    if field.key == "preset" and value:
        from llmcli.config.presets import preset_layer

        preset_layer(str(value))  # raises if the preset was deleted
    return field.key, value


def read_unfinished(path: Path) -> Message | None:
    """The unfinished answer in this file, or None if it is empty."""
    message: Message | None = None
    texts: dict[str, list[str]] = {"answer": [], "think": []}
    with suppress(LlmcliError):  # usually the file does not exist
        for event in read_events(path):
            if event.get("type") == "message":
                with suppress(ValueError):
                    message = to_message(event)
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


def to_message(data: Mapping[str, Any]) -> Message:
    """The message of a JSON object, without values that no setting and no timing can have.

    Raises:
        ValueError: if it is not a valid message.
    """
    cleaned = {
        "time": _seconds_of(data.get("time")),
        "params": _only(_is_plain, data.get("params", {})),
        "timings": _only(_is_finite, data.get("timings", {})),
        "replay": _replay_data(data.get("replay")),
    }
    return convert({**data, **cleaned}, Message)


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
