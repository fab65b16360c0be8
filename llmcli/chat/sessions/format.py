"""The events of a session file: messages and settings to JSON, and messages from JSON."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from llmcli.chat.attachments import Attachment
from llmcli.chat.conversation import Conversation, Message
from llmcli.files import VERSION
from llmcli.inference.replay_manifest import from_data
from llmcli.params.settings import NEVER_SET, fields, to_datum

HEADER: dict[str, Any] = {"type": "session", "version": VERSION}
ROLES = ("user", "assistant", "summary")
_MAX_ID = 10**9  # of a message
_MAX_TIME = 253402300800  # the year 10000, which an ISO timestamp cannot express


def to_event(message: Message) -> dict[str, Any]:
    """The event of a message, without its empty fields."""
    event: dict[str, Any] = {
        "type": "message",
        "id": message.id,
        "parent": message.parent,
        "time": _timestamp(message.time),
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning,
        "attachments": [{"name": one.name, "text": one.text} for one in message.attachments],
        "model": message.model,
        "params": dict(message.params),
        "finish_reason": message.finish_reason,
        "timings": dict(message.timings),
        "replay": dict(message.replay),
    }
    return {key: value for key, value in event.items() if value not in ("", [], {})}


def set_events(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of typed values of settings, without those that name code."""
    for key, value in values.items():
        if key not in NEVER_SET:
            yield {"type": "set", "key": key, "value": to_datum(fields()[key], value)}


def unset_event(key: str) -> dict[str, Any]:
    """The event of a setting that is no longer set in the session."""
    return {"type": "unset", "key": key}


def character_event(name: str, keys: Iterable[str]) -> dict[str, Any]:
    """The event of a character that answers from now on; `keys` are the settings that it has set before."""
    return {"type": "character", "name": name, "keys": sorted(keys)}


def all_events(
    conversation: Conversation, overrides: Mapping[str, Any], character: str = "", keys: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """The events of a whole session; `character` has set the settings in `keys`."""
    yield HEADER
    yield from map(to_event, conversation.messages.values())
    yield from set_events(overrides)
    if character:
        yield character_event(character, keys)
    if conversation.head != next(reversed(conversation.messages), None):
        yield {"type": "head", "id": conversation.head}


def from_event(event: Mapping[str, Any]) -> Message:
    """The message of an event.

    Raises:
        ValueError: if the event is not a valid message, as in a file that was edited or cut.
    """
    role, params, timings = event.get("role"), event.get("params", {}), event.get("timings", {})
    attachments = event.get("attachments", [])
    if role not in ROLES or not isinstance(attachments, list):
        raise ValueError("not a message")
    if not isinstance(params, dict) or not isinstance(timings, dict):
        raise ValueError("params and timings must be JSON objects")
    return Message(
        id=_message_id(event.get("id")),
        parent=number_of(event.get("parent")),
        role=role,
        content=_text(event, "content"),
        reasoning=_text(event, "reasoning"),
        attachments=tuple(_attachment(one) for one in attachments),
        time=_seconds_of(event.get("time")),
        model=_text(event, "model"),
        params={key: value for key, value in params.items() if _is_plain(value)},
        finish_reason=_text(event, "finish_reason"),
        timings={key: float(value) for key, value in timings.items() if _is_number(value)},
        replay=_replay_data(event.get("replay")),
    )


def _replay_data(value: Any) -> dict[str, Any]:
    """What a replay needs; empty if it is not valid, because the answer itself is worth more."""
    try:
        return from_data(value).to_data() if value else {}
    except ValueError:
        return {}


def number_of(value: Any) -> int | None:
    """The message id that an event refers to; None means before the first message.

    Raises:
        ValueError: if it is not a message id.
    """
    return None if value is None else _message_id(value)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds_of(timestamp: Any) -> float:
    try:
        seconds = datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return seconds if 0 <= seconds < _MAX_TIME else 0.0


def _message_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_ID:
        raise ValueError(f"the id of a message must be an integer from 1 to {_MAX_ID}")
    return value


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and abs(value) < 1e300
    )  # neither NaN nor an integer beyond the range of a float


def _is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a setting can have this value: a number, a string, or a list of them."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value


def _attachment(value: Any) -> Attachment:
    if not isinstance(value, dict):
        raise ValueError("an attachment must be a JSON object")
    return Attachment(_text(value, "name"), _text(value, "text"))
