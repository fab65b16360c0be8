"""The file of a session: messages and settings as lines, and messages back."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat.attachments import Attachment
from llmcli.chat.conversation import Conversation, Message
from llmcli.chat.sessions import store
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.files import OPEN_SAFE, VERSION, JsonlAppender, check_integer, check_text, encode, read_events
from llmcli.inference.answer_json import ReplayManifest
from llmcli.params.settings import CODE_KEYS, fields, find, to_datum
from llmcli.text import ellipsize

if TYPE_CHECKING:
    from filelock import BaseFileLock

HEADER: dict[str, Any] = {"type": "session", "version": VERSION}
_ROLES = ("user", "assistant", "summary")
_PARTIAL = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OPEN_SAFE
_MAX_NOTES = 3
_MAX_NAME = 100  # letters in the name of a character
_MAX_ID = 10**9  # of a message
_MAX_TIME = 253402300800  # the year 10000, which an ISO timestamp cannot express


class SessionFile:
    """The files of a session, locked until `close`."""

    def __init__(self, name: str, appender: JsonlAppender, lock: "BaseFileLock") -> None:
        self.name = name
        self._appender = appender
        self._lock = lock
        self._partial = -1  # descriptor of the file of the unfinished answer
        self._waiting: list[Mapping[str, Any]] = []  # events that are not written yet, because the disk was full

    @classmethod
    def claim(cls, name: str, first: str) -> "SessionFile":
        """A new file with this name, or, if it is empty, with a name from the `first` message.

        Raises:
            UsageError: if a session of that name exists.
            DiskError: if the file cannot be created.
        """
        if name:
            return cls._create(name)
        name = store.new_name(first)
        for number in count(1):
            with suppress(UsageError):
                return cls._create(name if number == 1 else f"{name}-{number}")
        raise AssertionError  # `count` does not end

    @classmethod
    def _create(cls, name: str) -> "SessionFile":
        path = store.path_of(name)
        lock = store.acquire_lock(name)  # before the file exists, so that no `--continue` opens it
        try:
            appender = JsonlAppender(path, new=True)
        except FileExistsError:
            lock.release()
            raise store.name_taken_error(name) from None
        except BaseException:
            lock.release()
            raise
        with suppress(OSError):
            store.partial_path(path).unlink()  # of a deleted session of this name
        return cls(name, appender, lock)

    @classmethod
    def open(cls, name: str) -> "SessionFile":
        """The file of a session that exists.

        Raises:
            UsageError: if there is none, or another chat has it open.
        """
        path = store.existing_path(name)
        lock = store.acquire_lock(name)
        try:
            return cls(name, JsonlAppender(path), lock)
        except BaseException:
            lock.release()
            raise

    def add(self, events: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Write events, after those that could not be written before; with `sync` they survive a power cut.

        Raises:
            DiskError: if they cannot be written; the next call tries again.
        """
        self._waiting += events
        self._appender.add(self._waiting)
        self._waiting.clear()
        if sync:
            self._appender.sync()

    def rename(self, name: str) -> None:
        """Rename the session.

        Raises:
            UsageError: if the name is taken or not valid.
        """
        if name == self.name:
            raise UsageError(f"the name of this session is already {name!r}")
        path, target = self._appender.path, store.path_of(name)
        lock = store.acquire_lock(name)
        self._appender.close()  # Windows cannot move an open file
        try:
            store.move_files(path, target)
            self.name, self._lock, lock, path = name, lock, self._lock, target
        finally:
            lock.release()
            self._appender = JsonlAppender(path)

    def begin_answer(self, event: Mapping[str, Any]) -> None:
        """Write what is known of an answer before its first token."""
        with suppress(OSError):  # a full disk is reported when the answer ends
            self._partial = os.open(store.partial_path(self._appender.path), _PARTIAL, 0o600)
            os.write(self._partial, encode(event))

    def add_piece(self, event: Mapping[str, Any]) -> None:
        """Write a piece of the answer, in a few microseconds."""
        if self._partial >= 0:
            with suppress(OSError):
                os.write(self._partial, encode(event))

    def end_answer(self) -> None:
        """Delete the pieces, unless the answer is not in the session yet. A second call does nothing."""
        if self._partial < 0:
            return
        os.close(self._partial)
        self._partial = -1
        if self._waiting:
            return
        with suppress(OSError):
            store.partial_path(self._appender.path).unlink()

    def close(self) -> None:
        """Close and unlock the files."""
        with suppress(DiskError):
            self.add([], sync=True)
        self.end_answer()
        self._appender.close()
        with suppress(OSError):
            if not self._appender.path.stat().st_size:  # the disk was full all the time
                self._appender.path.unlink()
        self._lock.release()


@dataclass
class SessionData:
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


def read_session(path: Path) -> SessionData:
    """Read the files of a session, and skip what is not valid.

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
    data.unfinished = _unfinished(path, data.conversation)
    return data


def _apply(data: SessionData, event: Mapping[str, Any]) -> None:
    kind, key = event.get("type"), str(event.get("key"))
    if kind == "message":
        _add_message(data, from_event(event))
    elif kind == "head":
        data.conversation.move(number_of(event.get("id")))
    elif kind == "set":
        key = find(key).key
        data.overrides[key] = _typed_value(key, event.get("value"))
        data.character_keys.discard(key)
    elif kind == "unset":
        data.overrides.pop(key, None)
        data.character_keys.discard(key)
    elif kind == "character":
        _set_character(data, event.get("name"), event.get("keys"))


def _set_character(data: SessionData, name: Any, keys: Any) -> None:
    if not isinstance(name, str) or not isinstance(keys, list):
        raise ValueError("a character must have a name and a list of keys")
    data.character = ellipsize(name, _MAX_NAME)
    data.character_keys = {key for key in data.overrides if key in keys}


def _typed_value(key: str, datum: Any) -> Any:
    if key in CODE_KEYS:
        raise UsageError(f"a session file cannot set {key} (it runs code)")
    value = find(key).parse_data(datum)
    if key == "preset" and value:
        from llmcli.config.presets import preset_layer

        preset_layer(value)  # raises if the preset was deleted
    return value


def _add_message(data: SessionData, message: Message) -> None:
    """Add a message of the file; if the one that it follows is lost, it follows the message before it in the file."""
    conversation = data.conversation
    if message.parent is not None and message.parent not in conversation.messages:
        data.faults.append(f"message {message.id} follows message {message.parent}, which does not exist")
        message = replace(message, parent=conversation.head)
    if conversation.messages.get(message.id) != message:  # a line may be there twice
        conversation.add(message)


def _unfinished(path: Path, conversation: Conversation) -> Message | None:
    """The answer of a chat that was killed, unless the conversation has it already."""
    message, messages = _read_partial(store.partial_path(path)), conversation.messages
    if not message or message.id in messages:
        return None
    return message if message.parent in (None, *messages) else replace(message, parent=conversation.head)


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
        if key not in CODE_KEYS:
            yield {"type": "set", "key": key, "value": to_datum(fields()[key], value)}


def unset_event(key: str) -> dict[str, Any]:
    """The event of a setting that the session does not set any more."""
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
    if role not in _ROLES or not isinstance(attachments, list):
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
        return ReplayManifest.from_data(value).to_data() if value else {}
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
    return check_integer(value, "the id of a message", 1, _MAX_ID)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # neither NaN nor beyond the range of a float


def _is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a setting can have this value: a number, a string, or a list of them."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _text(event: Mapping[str, Any], key: str) -> str:
    return check_text(event.get(key, ""), key)


def _attachment(value: Any) -> Attachment:
    if not isinstance(value, dict):
        raise ValueError("an attachment must be a JSON object")
    return Attachment(_text(value, "name"), _text(value, "text"))
