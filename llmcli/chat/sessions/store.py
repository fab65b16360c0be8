"""The folder of sessions: names, locks, lists and search."""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import DiskError, UsageError
from llmcli.files import check_name, data_dir, lines_of, make_private, read_events
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from filelock import BaseFileLock

SUFFIX = ".jsonl"
_MAX_NAME = 64  # characters
_NAME_HINT = "start with a letter or a digit; use letters from a to z, digits, dots, dashes and underscores"
_MESSAGE, _HEAD = b'"type":"message"', b'"type":"head"'
# As llmcli writes them; a line of another program is read as JSON.
_MESSAGE_LINK = re.compile(rb'\{"type":"message","id":(\d{1,10}),"parent":(\d{1,10}|null)[,}]')


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session as a list shows it; `title` is the beginning of the first message of the user."""

    name: str
    title: str
    n_messages: int  # of the current branch
    n_branches: int
    size: int  # bytes
    changed: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that contains the search text; `number` is its place in its branch, as /history counts."""

    session: str
    id: int
    role: str
    excerpt: str
    number: int


def folder() -> Path:
    """The folder of all sessions."""
    return data_dir() / "sessions"


def path_of(name: str) -> Path:
    """The file of the session `name`, whether it exists or not.

    Raises:
        UsageError: if the name is not valid.
    """
    try:
        return folder() / (check_name(name, "session") + SUFFIX)
    except UsageError:
        reason = _why_not_valid(name)
    raise UsageError(f"{name[:80]!r} is not a valid name for a session: {reason}", _NAME_HINT)


def _why_not_valid(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > _MAX_NAME:
        return f"it has more than {_MAX_NAME} characters"
    if other := re.search(r"[^A-Za-z0-9._-]", name):
        return f"it contains {other[0]!r}"
    if not name[0].isalnum():
        return f"it starts with {name[0]!r}"
    if name[-1] == ".":
        return "it ends with a dot"
    return "Windows reserves it for a device"


def existing_path(name: str) -> Path:
    """The file of a session that exists.

    Raises:
        UsageError: if there is none; the hint has similar names.
    """
    path = path_of(name)
    if not path.is_file():
        raise UsageError(
            f"session not found: {name!r}", similar_name(name) or "list the sessions with `llmcli sessions`"
        )
    return path


def find_name(text: str) -> str:
    """The full name of a session that exists: `text`, or the one name that ends with it (`-help` of 2026-11-28-help).

    Raises:
        UsageError: if there is none, or several end with it.
    """
    name = to_name(text)
    if path_of(name).is_file():
        return name
    endings = _ending_with(name)
    if len(endings) == 1:
        return endings[0]
    return existing_path(name).stem


def to_name(text: str) -> str:
    """`text` as the name of a session: spaces become dashes."""
    return "-".join(text.split())


def similar_name(name: str) -> str:
    """The sessions that may be meant, as `did you mean 'novel'?`; empty if no name is similar."""
    if endings := _ending_with(name):
        return f"did you mean {' or '.join(map(repr, endings[:3]))}?"
    return did_you_mean(name, names())


def _ending_with(name: str) -> list[str]:
    wanted = name.casefold()
    return [one for one in names() if one.casefold() == wanted or one.casefold().endswith(f"-{wanted}")]


def names() -> list[str]:
    """The names of all sessions, the one that was changed last first."""
    return [path.stem for _, path in _newest_first()]


def _newest_first() -> list[tuple[float, Path]]:
    """The files of sessions with the time of the last change; a file whose name is not valid is not a session."""
    found = []
    for path in folder().glob(f"*{SUFFIX}"):
        with suppress(OSError, UsageError):  # removed meanwhile
            about = path_of(path.stem).stat()
            if stat.S_ISREG(about.st_mode) and about.st_size:
                found.append((about.st_mtime, path))
    return sorted(found, reverse=True)


def new_name(text: str) -> str:
    """A name for a session that begins with this message: the date and its first words; the caller makes it unique."""
    words = re.findall(r"[A-Za-z0-9]+", text[:200])
    slug = ""
    for word in words:
        if len(slug) + len(word) > 32:
            break
        slug += f"-{word.lower()}"
    return f"{date.today().isoformat()}{slug or '-chat'}"


def session_summaries(start: str = "") -> list[SessionSummary]:
    """The sessions whose names start with `start`, the one that was changed last first, without unreadable files."""
    result = []
    for changed, path in _newest_first():
        with suppress(OSError):
            if path.name.startswith(start):
                title, n_messages, n_branches, size = read_outline(path)
                result.append(SessionSummary(path.stem, title, n_messages, n_branches, size, changed))
    return result


def search(text: str) -> Iterator[SearchHit]:
    """Every message that contains `text`, case ignored, newest session first."""
    needle = text.casefold()
    for _, path in _newest_first():
        with suppress(DiskError, UsageError):
            numbers: dict[Any, int] = {}  # the place of each message in its branch, by id
            for event in read_events(path):
                if event.get("type") == "message" and isinstance(event.get("id"), int):
                    parent = event.get("parent") if isinstance(event.get("parent"), int) else None
                    numbers[event["id"]] = numbers.get(parent, 0) + 1
                    yield from _hits(path.stem, event, needle, numbers[event["id"]])


def _hits(session: str, event: dict[str, Any], needle: str, number: int) -> Iterator[SearchHit]:
    content = event.get("content")
    if not isinstance(content, str):
        return
    folded = content.casefold()
    at = folded.find(needle)
    if at < 0:
        return
    at = at if len(folded) == len(content) else _index_before_folding(content, at)
    start = max(0, at - 30)
    excerpt = ("…" if start else "") + content[start : at + len(needle) + 50]
    yield SearchHit(session, event["id"], str(event.get("role", "")), " ".join(excerpt.split()), number)


def _index_before_folding(text: str, index: int) -> int:
    """The index in `text` of what is at `index` in its case-folded form, which may be longer."""
    for at, char in enumerate(text):
        index -= len(char.casefold())
        if index < 0:
            return at
    return 0


def name_taken_error(name: str) -> UsageError:
    """The error for a name that another session has."""
    return UsageError(f"session {name!r} already exists", "choose another name")


def require_unused(name: str) -> None:
    """Check that no session has this name.

    Raises:
        UsageError: if one has, or the name is not valid.
    """
    if os.path.lexists(path_of(name)):
        raise name_taken_error(name)


def acquire_lock(name: str) -> "BaseFileLock":
    """Lock a session for writing, until the lock is released or this process ends.

    Raises:
        UsageError: if another chat has it open.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(make_private(folder() / ".open") / f"{name}.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"session {name!r} is open in another chat",
            "close that chat, or choose another session with --session NAME",
        ) from None
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

    Raises:
        UsageError: if there is none, or a chat has it open.
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
    """Rename a session that no chat has open.

    Raises:
        UsageError: if the new name is taken, or the session is open.
    """
    path, target = existing_path(old), path_of(new)
    if old == new:
        raise UsageError(f"the name of the session is already {new!r}")
    with ExitStack() as locks:
        for name in (old, new):
            locks.callback(acquire_lock(name).release)
        move_files(path, target)


def move_files(path: Path, target: Path) -> None:
    """Move the files of a session, which the caller has locked.

    Raises:
        UsageError: if the new name is taken.
    """
    require_unused(target.stem)
    try:
        if partial_path(path).exists():
            partial_path(path).replace(partial_path(target))
        path.rename(target)
    except OSError as error:
        raise DiskError(f"cannot rename {path}: {error.strerror}") from None


def partial_path(path: Path) -> Path:
    """The file of the unfinished answer of a session."""
    return path.parent / ".open" / f"{path.stem}.partial"


def read_outline(path: Path) -> tuple[str, int, int, int]:
    """Title, messages of the current branch, branches, and size in bytes.

    Raises:
        OSError: if the file cannot be read.
    """
    title, parents, head = "", dict[int, int | None](), None
    with path.open("rb") as file:
        for line in lines_of(file):
            link = _link(line)
            if link is None or link[0] in parents:
                continue
            number, parent = link
            if number is None:
                head = parent if parent in parents else None
                continue
            parents[number] = parent if parent is None or parent in parents else head
            head = number
            if not title and b'"role":"user"' in line:
                title = _title(line)
        n_branches = len(parents.keys() - parents.values())
        return title, _depth(parents, head), n_branches, file.tell()


def _link(line: bytes) -> tuple[int | None, int | None] | None:
    """The id and the parent of a message, or None and the new head; None for any other line."""
    if match := _MESSAGE_LINK.match(line):
        return int(match[1]), None if match[2] == b"null" else int(match[2])
    if _MESSAGE not in line and _HEAD not in line:
        return None
    try:
        event = json.loads(line)
        is_message = event.get("type") == "message"
        number, parent = (event["id"], event.get("parent")) if is_message else (None, event.get("id"))
    except (ValueError, RecursionError, AttributeError, KeyError):
        return None
    is_valid = isinstance(parent, int | None) and (isinstance(number, int) or not is_message)
    return (number, parent) if is_valid else None


def _depth(parents: Mapping[int, int | None], head: int | None) -> int:
    depth = 0
    while head is not None:
        depth, head = depth + 1, parents[head]
    return depth


def _title(line: bytes) -> str:
    try:
        content = json.loads(line).get("content")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return " ".join(content[:1000].split())[:200] if isinstance(content, str) else ""
