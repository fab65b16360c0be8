"""The folder of sessions: names, files and locks."""

import os
import re
import stat
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat.conversation import Message
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.files import VERSION, JsonlAppender, check_name, data_dir, encode, make_private, read_events
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from filelock import BaseFileLock

SUFFIX = ".jsonl"


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
    path = existing_path(name)
    lock = acquire_lock(name)
    try:
        path.unlink()
        with suppress(OSError):  # Windows cannot delete an open file
            for other in (partial_path(path), Path(lock.lock_file)):
                other.unlink(missing_ok=True)
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
    texts: dict[str, list[str]] = {"answer": [], "think": []}
    with suppress(LlmcliError):  # usually the file does not exist
        for event in read_events(partial_path(path)):
            if event.get("type") == "message":
                with suppress(ValueError):
                    message = Message.from_data(event)
            for kind in texts.keys() & event.keys():
                texts[kind].append(str(event[kind]))
    content, reasoning = "".join(texts["answer"]), "".join(texts["think"])
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
        self._partial: JsonlAppender | None = None  # the pieces of the unfinished answer
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
            self._partial = JsonlAppender(partial_path(self.lines.path), new=True)
        self.add_piece(event)

    def add_piece(self, event: Mapping[str, Any]) -> None:
        """Write a piece of the answer, in a few microseconds."""
        if self._partial:
            with suppress(DiskError):
                self._partial.add([event])

    def end_answer(self) -> None:
        """Delete the pieces, unless the answer is not in the session yet. A second call does nothing."""
        if self._partial:
            self._partial.close()
            self._partial = None
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


def create_file(name: str, first: str) -> SessionFile:
    """A new file with this name, or, if it is empty, with a name of the date and the first words of a message.

    Raises UsageError if a session of that name exists, DiskError if the file cannot be created.
    """
    if name:
        return SessionFile(name, new=True)
    slug = ""
    for word in re.findall(r"[A-Za-z0-9]+", first[:200]):
        if len(slug) + len(word) > 32:
            break
        slug += f"-{word.lower()}"
    name = f"{date.today().isoformat()}{slug or '-chat'}"
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    while True:
        with suppress(UsageError):
            return SessionFile(next(numbered), new=True)
