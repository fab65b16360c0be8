"""The folder of sessions: names, locks, files, and their lines beside messages: heads, settings, characters.

A file may come from others: no setting in it runs code or names a file that would be read into a prompt. So the file
has the text of a system prompt, a grammar, a schema or a template, in place of the name of its file.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct

from llmcli.chat.conversation import Message, MessageId
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.files import (
    VERSION,
    JsonlAppender,
    check_name,
    convert,
    data_dir,
    encode,
    is_inline,
    make_private,
    read_events,
    read_text,
)
from llmcli.inference.constraints import is_inline_schema
from llmcli.inference.request import is_builtin_template, system_file
from llmcli.params.settings import CODE_KEYS, fields, find, to_datum
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from filelock import BaseFileLock

SUFFIX = ".jsonl"
_TEXTS = ("system", "grammar_file", "json_schema", "chat_template")  # settings that may name a text file


def folder() -> Path:
    """The folder of all sessions."""
    return data_dir() / "sessions"


def path_of(name: str) -> Path:
    """The file of the session `name`, whether it exists or not. Raises UsageError if the name is not valid."""
    return folder() / (check_name(name, "session") + SUFFIX)


def existing_path(name: str) -> Path:
    """The file of a session that exists. Raises UsageError if there is none; the hint has similar names."""
    path = path_of(name)
    if not path.is_file():
        hint = similar_name(name) or "list the sessions with `llmcli sessions`"
        raise UsageError(f"session not found: {name!r}", hint)
    return path


def find_name(text: str) -> str:
    """The full name of a session that exists: `text`, or the one name that ends with it (`-help` of 2026-11-28-help).

    Raises UsageError if there is none, or several end with it.
    """
    name = to_name(text)
    if path_of(name).is_file():
        return name
    endings = _ending_with(name)
    return endings[0] if len(endings) == 1 else existing_path(name).stem


def to_name(text: str) -> str:
    """`text` as the name of a session: spaces become dashes."""
    return "-".join(text.split())


def similar_name(name: str) -> str:
    """The sessions that may be meant, as `did you mean 'novel'?`; empty if no name is similar."""
    start = f"{name.casefold()}-"
    if likely := _ending_with(name) or [one for one in names() if one.casefold().startswith(start)]:
        return f"did you mean {' or '.join(map(repr, likely[:3]))}?"
    return did_you_mean(name, names())


def _ending_with(name: str) -> list[str]:
    wanted = name.casefold()
    return [one for one in names() if one.casefold() == wanted or one.casefold().endswith(f"-{wanted}")]


def names() -> list[str]:
    """The names of all sessions, the one that was changed last first."""
    return [path.stem for _, path in newest_first()]


def newest_first() -> list[tuple[float, Path]]:
    """The files of sessions with the time of the last change; a file whose name is not valid is not a session."""
    found = []
    for path in folder().glob(f"*{SUFFIX}"):
        with suppress(OSError, UsageError):  # removed meanwhile
            about = path_of(path.stem).stat()
            if stat.S_ISREG(about.st_mode) and about.st_size:
                found.append((about.st_mtime, path))
    return sorted(found, reverse=True)


def require_unused(name: str) -> None:
    """Check that no session has this name. Raises UsageError if one has, or the name is not valid."""
    if os.path.lexists(path_of(name)):
        raise UsageError(f"session {name!r} already exists", "choose another name")


def acquire_lock(name: str) -> "BaseFileLock":
    """Lock a session for writing, until the lock is released or this process ends.

    Raises UsageError if another chat has it open, DiskError if the file of the lock cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(make_private(folder() / ".open") / f"{name}.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        hint = "close that chat, or choose another session with --session NAME"
        raise UsageError(f"session {name!r} is open in another chat", hint) from None
    except OSError as error:
        raise DiskError(f"cannot lock session {name!r}: {error.strerror}") from None
    return lock


def is_open(name: str) -> bool:
    """Whether a chat has the session open now."""
    try:
        acquire_lock(name).release()
    except UsageError:
        return True
    return False


def remove(name: str) -> None:
    """Delete a session permanently.

    Raises UsageError if there is none, or a chat has it open; DiskError if it cannot be deleted.
    """
    from llmcli.inference.state_store import remove_session  # a chat rarely removes or renames one
    from llmcli.inference.warm import forget_tokens

    path = existing_path(name)
    lock = acquire_lock(name)
    try:
        path.unlink()
        forget_tokens(name)
        with suppress(OSError):  # Windows cannot delete an open file
            for other in (partial_path(path), Path(lock.lock_file)):
                other.unlink(missing_ok=True)
        remove_session(name)
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror}") from None
    finally:
        lock.release()


def rename(old: str, new: str) -> None:
    """Rename a session that no chat has open. Raises as `SessionFile` and its `rename` do."""
    with closing(SessionFile(old)) as file:
        file.rename(new)


def partial_path(path: Path) -> Path:
    """The file of the unfinished answer of a session."""
    return path.parent / ".open" / f"{path.stem}.partial"


def read_partial(path: Path) -> Message | None:
    """The unfinished answer of a chat that was killed; None without text."""
    message: Message | None = None
    content = reasoning = ""
    with suppress(LlmcliError):  # usually the file does not exist
        for event in read_events(partial_path(path)):
            if event.get("type") == "message":
                with suppress(ValueError):
                    message = Message.from_data(event)
            content += str(event.get("answer", ""))
            reasoning += str(event.get("think", ""))
    if not message or not content + reasoning:
        return None
    return replace(message, content=content, reasoning=reasoning, finish_reason="interrupt")


class SessionFile:
    """The files of a session, locked until `close`: its `lines`, and the answer that is being written."""

    def __init__(self, name: str, new: bool = False) -> None:
        """Open the file of a session, or with `new` create it.

        Raises UsageError if it does not exist, or with `new` exists, or another chat has it open; DiskError if it
        cannot be opened.
        """
        path = path_of(name) if new else existing_path(name)
        self.name = name
        self.partial: JsonlAppender | None = None  # the pieces of the unfinished answer
        self._lock = acquire_lock(name)  # before the file exists, so that no `--continue` opens it
        try:
            if new:
                require_unused(name)
            self.lines = JsonlAppender(path, new)
        except BaseException:
            self._lock.release()
            raise
        if new:
            self.remove_partial()  # of a deleted session of this name
        if not path.stat().st_size:  # also if the program was killed before it wrote the first line
            self.lines.waiting.append(encode({"type": "session", "version": VERSION}))

    def rename(self, name: str) -> None:
        """Rename the session. Raises UsageError if the name is taken or not valid, DiskError if that fails."""
        from llmcli.inference.state_store import rename_session
        from llmcli.inference.warm import forget_tokens

        if name == self.name:
            raise UsageError(f"the name of the session is already {name!r}")
        lines, target = self.lines, path_of(name)
        path = lines.path
        lock = acquire_lock(name)
        lines.close()  # Windows cannot move an open file
        try:
            require_unused(name)
            if partial_path(path).exists():
                partial_path(path).replace(partial_path(target))
            path.rename(target)
            rename_session(self.name, name)
            forget_tokens(self.name)  # what is stored has the new name
            self.name, self._lock, lock, path = name, lock, self._lock, target
        except OSError as error:
            raise DiskError(f"cannot rename {path}: {error.strerror}") from None
        finally:
            lock.release()
            self.lines = JsonlAppender(path)
            self.lines.waiting = lines.waiting

    def begin_answer(self, event: Mapping[str, Any]) -> None:
        """Write what is known of an answer before its first token."""
        self.remove_partial()
        with suppress(DiskError, FileExistsError):  # a full disk is reported when the answer ends
            self.partial = JsonlAppender(partial_path(self.lines.path), new=True)
            self.partial.add([event])

    def end_answer(self) -> None:
        """Delete the pieces, unless the answer is not in the session yet. A second call does nothing."""
        if self.partial:
            self.partial.close()
            self.partial = None
            if not self.lines.waiting:
                self.remove_partial()

    def remove_partial(self) -> None:
        """Delete the file of the unfinished answer."""
        with suppress(OSError):
            partial_path(self.lines.path).unlink()

    def close(self) -> None:
        """Close and unlock the files."""
        with suppress(DiskError):
            self.lines.add([], sync=True)
        self.end_answer()
        self.lines.close()
        with suppress(OSError):
            if not self.lines.path.stat().st_size:  # the disk was full all the time
                self.lines.path.unlink()
        self._lock.release()


def create_file(name: str, first: str, is_exact: bool = False) -> SessionFile:
    """A new file with this name, or, if it is empty, with a name of the date and the first words of a message.

    If a session has that name, a number follows it; with `is_exact` that is an error. Raises UsageError if the name is
    not valid, DiskError if the file cannot be created.
    """
    if is_exact:
        return SessionFile(name, new=True)
    if not name:
        words = " ".join(re.findall(r"[A-Za-z0-9]+", first[:200])).lower()
        slug = shorten(words, 32, placeholder="", break_long_words=False).replace(" ", "-")
        name = f"{date.today().isoformat()}-{slug or 'chat'}"
    for number in count(1):
        numbered = name if number == 1 else f"{name}-{number}"
        path_of(numbered)  # raises for a name that is not valid, or has become too long
        with suppress(UsageError):
            return SessionFile(numbered, new=True)
    raise AssertionError


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


def parse_event(data: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None for the header, and for a type that this version does not know.

    Raises ValueError if it is not valid, as in a file that was edited or cut.
    """
    kind = next((kind for kind in get_args(Event) if kind.__struct_config__.tag == data.get("type")), None)
    return convert(data, kind) if kind else None


def setting_changes(values: Mapping[str, Any]) -> Iterator[SettingChange | SettingReset]:
    """The events of typed values of settings; a value that no session can have is not set."""
    encoding = str(values.get("encoding", fields()["encoding"].default))
    for key, value in values.items():
        is_refused = key in (*CODE_KEYS, "endpoint", "rpc") or _names_file(key, value)
        if is_refused and key in _TEXTS and (text := _file_text(key, value, encoding)) is not None:
            value, is_refused = text, _names_file(saved_key(key), text)
        key = saved_key(key)
        yield SettingReset(key) if is_refused else SettingChange(key, to_datum(fields()[key], value))


def _file_text(key: str, name: str, encoding: str) -> str | None:
    """The text of a file that a setting names; None if it cannot be read, which the next answer reports."""
    path = (system_file(name) or "") if key == "system" else name
    if os.path.isfile(os.path.expanduser(path)):  # not a pipe, which can be read only once
        with suppress(LlmcliError):
            text = read_text(path, encoding)
            return text.rstrip("\n") if key == "system" else text
    return None


def saved_key(key: str) -> str:
    """The key under which a session file has a setting."""
    return "grammar" if key == "grammar_file" else key


def typed_setting(change: SettingChange) -> tuple[str, Any]:
    """The key and the typed value of a setting. Raises UsageError if no session can have it."""
    field = find(change.key)
    if field.key in CODE_KEYS:
        raise UsageError(f"a session file cannot set {field.key} (it runs code)")
    if field.key == "endpoint":
        raise UsageError("a session file cannot set endpoint (it would get the conversation and the key)")
    if field.key == "rpc":
        raise UsageError("a session file cannot set rpc (its servers would get the model and the conversation)")
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
        return system_file(value) is not None
    if key == "json_schema":
        return not is_inline_schema(value)
    if key == "chat_template":
        return not is_inline(value) and not is_builtin_template(value)
    if key == "theme":
        return not re.fullmatch(r"[\w-]+", value)
    return fields()[key].path and key not in ("model", "model_folders")
