"""A message as a line of a session file, and back."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmcli.chat.attachments import Attachment
from llmcli.chat.tree import Message

ROLES = ("user", "assistant", "summary")


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
    }
    return {key: value for key, value in event.items() if value not in ("", [], {})}


def from_event(event: Mapping[str, Any]) -> Message:
    """The message of a line.

    Raises:
        ValueError: when the line holds none: a file that was changed by hand or cut.
    """
    role, params, timings = event.get("role"), event.get("params", {}), event.get("timings", {})
    if role not in ROLES or not isinstance(params, dict) or not isinstance(timings, dict):
        raise ValueError("it is no message")
    return Message(
        id=_whole(event.get("id")),
        parent=None if event.get("parent") is None else _whole(event["parent"]),
        role=role,
        content=_text(event, "content"),
        reasoning=_text(event, "reasoning"),
        attachments=tuple(_attachment(one) for one in event.get("attachments", [])),
        time=_seconds(event.get("time")),
        model=_text(event, "model"),
        params=params,
        finish_reason=_text(event, "finish_reason"),
        timings={str(key): float(value) for key, value in timings.items() if isinstance(value, int | float)},
    )


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds(stamp: Any) -> float:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("its number is no number")
    return value


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"its {key} is no text")
    return value


def _attachment(value: Any) -> Attachment:
    if not isinstance(value, dict):
        raise ValueError("an attachment is none")
    return Attachment(_text(value, "name"), _text(value, "text"))
