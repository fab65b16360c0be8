"""The list of sessions, and the search in their messages."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import msgspec

from llmcli.chat.conversation import MessageId
from llmcli.chat.sessions.store import newest_first
from llmcli.files import lines_of

_CONTENT = b',"content":"'  # a string of JSON cannot contain it: its quotes would be escaped


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


class _Line(msgspec.Struct, gc=False):  # it lives shortly, and a list has many
    """What a message is to its tree; the `id` of a line of type "head" is the new head."""

    type: str = ""
    id: MessageId | None = None
    parent: MessageId | None = None
    role: str = ""


class _Text(msgspec.Struct):
    content: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_text = msgspec.json.Decoder(_Text).decode


class _Outline:
    """The tree of a session, without its texts."""

    def __init__(self) -> None:
        self.numbers: dict[int | None, int] = {None: 0}  # the place of each message in its branch, by id
        self.followed: set[int | None] = {None}  # the messages that another one follows
        self.head: int | None = None

    def read(self, path: Path) -> Iterator[tuple[_Line, bytes]]:
        """Each message of a file, with its JSON, after it was added to the tree. Raises OSError."""
        numbers = self.numbers
        with path.open("rb") as file:
            for data in lines_of(file):
                line = _read_line(data)
                if line.type == "message" and line.id not in numbers:
                    parent = line.parent if line.parent in numbers else self.head
                    self.followed.add(parent)
                    numbers[line.id] = numbers[parent] + 1
                    self.head = line.id
                    yield line, data
                elif line.type == "head" and line.id in numbers:
                    self.head = line.id


def session_summaries(start: str = "") -> list[SessionSummary]:
    """The sessions whose names start with `start`, the one that was changed last first, without unreadable files."""
    result = []
    for changed, path in newest_first():
        if not path.name.startswith(start):
            continue
        with suppress(OSError):
            outline, title = _Outline(), ""
            for line, data in outline.read(path):
                if not title and line.role == "user":
                    title = " ".join(_content(data)[:1000].split())[:200]
            n_branches = len(outline.numbers.keys() - outline.followed)
            size, n_messages = path.stat().st_size, outline.numbers[outline.head]
            result.append(SessionSummary(path.stem, title, n_messages, n_branches, size, changed))
    return result


def search(text: str) -> Iterator[SearchHit]:
    """Every message that contains `text`, case ignored, newest session first."""
    needle = text.casefold()
    for _, path in newest_first():
        with suppress(OSError):
            outline = _Outline()
            for line, data in outline.read(path):
                if line.id and (excerpt := _excerpt(_content(data), needle)):
                    yield SearchHit(path.stem, line.id, line.role, excerpt, outline.numbers[line.id])


def _read_line(data: bytes) -> _Line:
    """A line of a session; without a type if it is damaged."""
    end = data.find(_CONTENT) if data.endswith(b"}\n") else -1
    try:
        if end > 0:  # llmcli writes all that a tree needs before the content, which is long; other programs may not
            line = _decode_line(data[:end] + b"}")
            if line.role and line.parent and line.id and line.type:
                return line
        return _decode_line(data)
    except (ValueError, RecursionError):
        return _Line()


def _content(data: bytes) -> str:
    """The text of a message; empty if it is damaged."""
    try:
        return _decode_text(data).content
    except (ValueError, RecursionError):
        return ""


def _excerpt(content: str, needle: str) -> str:
    """The text around the first place of `needle`, which is case-folded; empty if there is none."""
    folded = content.casefold()
    at = folded.find(needle)
    if at < 0:
        return ""
    # The index before case folding, which makes some characters longer.
    at = bisect_right(list(accumulate(len(char.casefold()) for char in content)), at)
    start = max(0, at - 30)
    excerpt = ("…" if start else "") + content[start : at + len(needle) + 50]
    return " ".join(excerpt.split())
