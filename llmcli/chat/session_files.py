"""The folder of sessions: names, who has one open, and finding one again."""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat.journal import lines_of, read_events
from llmcli.chat.paths import data_dir, make_private
from llmcli.errors import DiskError, UsageError
from llmcli.params.names import check_name
from llmcli.params.suggest import did_you_mean

if TYPE_CHECKING:
    from filelock import BaseFileLock

SUFFIX = ".jsonl"
_MESSAGE = b'"type":"message"'


@dataclass(frozen=True, slots=True)
class Listed:
    """A session as a list shows it; `title` is the beginning of its first message."""

    name: str
    title: str
    n_messages: int
    size: int  # bytes
    changed: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that holds a text that was looked for, with the words around it."""

    session: str
    id: int
    role: str
    excerpt: str


def folder() -> Path:
    return data_dir() / "sessions"


def path_of(name: str) -> Path:
    """The file of the session `name`, whether it exists or not.

    Raises:
        UsageError: when that is no name.
    """
    return folder() / (check_name(name, "session") + SUFFIX)


def existing(name: str) -> Path:
    """The file of a session that is there.

    Raises:
        UsageError: when there is none, with the nearest name.
    """
    path = path_of(name)
    if not path.is_file():
        raise UsageError(f"there is no session called {name}", did_you_mean(name, names()) or "see `llmcli sessions`")
    return path


def names() -> list[str]:
    """All sessions, the one that was changed last first."""
    return [path.stem for _, path in _newest_first()]


def _newest_first() -> list[tuple[float, Path]]:
    """The files that can be sessions; what else lies there (under a name that is none, say) is not ours."""
    found = []
    for path in folder().glob(f"*{SUFFIX}"):
        with suppress(OSError, UsageError):  # removed meanwhile
            about = path_of(path.stem).stat()
            if stat.S_ISREG(about.st_mode) and about.st_size:
                found.append((about.st_mtime, path))
    return sorted(found, reverse=True)


def new_name(text: str) -> str:
    """A name for a session that begins with this message: the day and its first words; the caller makes it unique."""
    words = re.findall(r"[A-Za-z0-9]+", text[:200])
    slug = ""
    for word in words:
        if len(slug) + len(word) > 32:
            break
        slug += f"-{word.lower()}"
    return f"{date.today().isoformat()}{slug or '-chat'}"


def listed(start: str = "") -> list[Listed]:
    """The sessions whose names begin so, the one that was changed last first; what cannot be read is left out."""
    result = []
    for changed, path in _newest_first():
        with suppress(OSError):
            if path.name.startswith(start):
                result.append(_look(path, changed))
    return result


def _look(path: Path, changed: float) -> Listed:
    """What a list shows of a file: its lines are counted, and only those up to the title are read."""
    title, n_messages = "", 0
    with path.open("rb") as file:
        for line in lines_of(file):
            if _MESSAGE not in line:
                continue
            n_messages += 1
            if not title and b'"role":"user"' in line:
                title = _title(line)
        return Listed(path.stem, title, n_messages, file.tell(), changed)


def _title(line: bytes) -> str:
    try:
        content = json.loads(line).get("content")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return " ".join(content[:1000].split())[:200] if isinstance(content, str) else ""


def search(text: str) -> Iterator[Hit]:
    """Every message that holds `text`, case ignored, newest session first."""
    wanted = text.casefold()
    for _, path in _newest_first():
        with suppress(DiskError, UsageError):
            for event in read_events(path):
                yield from _hits(path.stem, event, wanted)


def _hits(session: str, event: dict[str, Any], wanted: str) -> Iterator[Hit]:
    content = event.get("content")
    if event.get("type") != "message" or not isinstance(content, str):
        return
    folded = content.casefold()
    at = folded.find(wanted)
    if at >= 0 and isinstance(event.get("id"), int):
        at = at if len(folded) == len(content) else _unfolded(content, at)
        start = max(0, at - 30)
        excerpt = ("…" if start else "") + content[start : at + len(wanted) + 50]
        yield Hit(session, event["id"], str(event.get("role", "")), " ".join(excerpt.split()))


def _unfolded(text: str, place: int) -> int:
    """Where in `text` lies what is at `place` in its folded form, which may be longer."""
    for at, char in enumerate(text):
        place -= len(char.casefold())
        if place < 0:
            return at
    return 0


def taken(name: str) -> UsageError:
    """The error for a name that another session has."""
    return UsageError(f"there is a session called {name} already", "choose another name")


def must_be_free(name: str) -> None:
    """See to it that no session has this name.

    Raises:
        UsageError: when one has, or it cannot be a name.
    """
    if os.path.lexists(path_of(name)):
        raise taken(name)


def hold(name: str) -> "BaseFileLock":
    """The right to write a session, until it is released or this process ends.

    Raises:
        UsageError: when another chat has it open.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(make_private(folder() / ".open") / f"{name}.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another chat has the session {name} open", "choose another with --session NAME") from None
    except OSError as error:
        raise DiskError(f"cannot lock the session {name}: {error.strerror}") from None
    return lock


def is_open(name: str) -> bool:
    """Whether a chat has the session open at this moment."""
    try:
        hold(name).release()
    except UsageError:
        return True
    return False


def remove(name: str) -> None:
    """Delete a session for good.

    Raises:
        UsageError: when there is none, or a chat has it open.
    """
    path = existing(name)
    lock = hold(name)
    try:
        path.unlink()
        with suppress(OSError):  # Windows removes no open file
            for other in (partial_of(path), Path(lock.lock_file)):
                other.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"cannot remove {path}: {error.strerror}") from None
    finally:
        lock.release()


def rename(old: str, new: str) -> None:
    """Give a session that no chat has open another name.

    Raises:
        UsageError: when the new name is taken, or the session is open.
    """
    path, target = existing(old), path_of(new)
    if old == new:
        raise UsageError(f"this session is called {new} already")
    with ExitStack() as held:
        for name in (old, new):
            held.callback(hold(name).release)
        move_files(path, target)


def move_files(path: Path, target: Path) -> None:
    """Move the file of a session and what belongs to it; the caller holds it.

    Raises:
        UsageError: when the new name is taken.
    """
    must_be_free(target.stem)
    try:
        if partial_of(path).exists():
            partial_of(path).replace(partial_of(target))
        path.rename(target)
    except OSError as error:
        raise DiskError(f"cannot rename {path}: {error.strerror}") from None


def partial_of(path: Path) -> Path:
    """Where the unfinished answer of a session is kept."""
    return path.parent / ".open" / f"{path.stem}.partial"
