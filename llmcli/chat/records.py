"""What the lines of a session file say: messages and settings as lines, and messages back."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from llmcli.chat.attachments import Attachment
from llmcli.chat.circumstances import from_data
from llmcli.chat.journal import VERSION
from llmcli.chat.tree import Conversation, Message
from llmcli.params.settings import fields, to_datum

HEADER: dict[str, Any] = {"type": "session", "version": VERSION}
NEVER_SET = ("temp_policy_file",)  # it names code: a file that came from elsewhere must not make anybody run it
ROLES = ("user", "assistant", "summary")
_HIGHEST = 10**9  # number of a message
_END_OF_TIME = 253402300800  # the year 10000, which no stamp can hold


def to_event(message: Message) -> dict[str, Any]:
    """The line of a message; what is empty is left out."""
    event: dict[str, Any] = {
        "type": "message",
        "id": message.id,
        "parent": message.parent,
        "time": _stamp(message.time),
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
    """The lines of typed values of settings; those that name code have none."""
    for key, value in values.items():
        if key not in NEVER_SET:
            yield {"type": "set", "key": key, "value": to_datum(fields()[key], value)}


def all_events(conversation: Conversation, overrides: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a whole session."""
    yield HEADER
    yield from map(to_event, conversation.messages.values())
    yield from set_events(overrides)
    if conversation.head != next(reversed(conversation.messages), None):
        yield {"type": "head", "id": conversation.head}


def from_event(event: Mapping[str, Any]) -> Message:
    """The message of a line.

    Raises:
        ValueError: when the line holds none: a file that was changed by hand or cut.
    """
    role, params, timings = event.get("role"), event.get("params", {}), event.get("timings", {})
    attachments = event.get("attachments", [])
    if role not in ROLES or not isinstance(attachments, list):
        raise ValueError("it is no message")
    if not isinstance(params, dict) or not isinstance(timings, dict):
        raise ValueError("its params or timings are no object")
    return Message(
        id=_number(event.get("id")),
        parent=number_of(event.get("parent")),
        role=role,
        content=_text(event, "content"),
        reasoning=_text(event, "reasoning"),
        attachments=tuple(_attachment(one) for one in attachments),
        time=_seconds(event.get("time")),
        model=_text(event, "model"),
        params={key: value for key, value in params.items() if _is_plain(value)},
        finish_reason=_text(event, "finish_reason"),
        timings={key: float(value) for key, value in timings.items() if _is_number(value)},
        replay=_circumstances(event.get("replay")),
    )


def _circumstances(value: Any) -> dict[str, Any]:
    """What repeats an answer; nothing where that cannot be, for the answer itself is worth more."""
    try:
        return from_data(value).to_data() if value else {}
    except ValueError:
        return {}


def number_of(value: Any) -> int | None:
    """The message that a line refers to; None is before the first.

    Raises:
        ValueError: when it is no number.
    """
    return None if value is None else _number(value)


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds(stamp: Any) -> float:
    try:
        seconds = datetime.fromisoformat(str(stamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return seconds if 0 <= seconds < _END_OF_TIME else 0.0


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _HIGHEST:
        raise ValueError("its number is no number of a message")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # NaN is not, nor what no float can hold


def _is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a setting can have this value: a number, a text, or a list of them."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"its {key} is no text")
    return value


def _attachment(value: Any) -> Attachment:
    if not isinstance(value, dict):
        raise ValueError("an attachment is none")
    return Attachment(_text(value, "name"), _text(value, "text"))
