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


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session as a list shows it."""

    name: str
    title: str  # the beginning of the first message of the user
    n_messages: int  # of the current branch
    n_branches: int
    size: int  # bytes
    changed: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that contains the search text."""

    session: str
    id: int
    role: str
    excerpt: str
    number: int  # its place in its branch, as /history counts


class _Line(msgspec.Struct, gc=False):  # it lives shortly, and a list has many
    """What a message is to its tree; the `id` of a line of type "head" is the new head."""

    type: str = ""
    id: MessageId | None = None
    parent: MessageId | None = None
    role: str = ""
    content: str = ""
    finish_reason: object = None
    replay: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Line).decode


class _Outline:
    """The tree of a session, without its texts."""

    def __init__(self) -> None:
        self.numbers: dict[int | None, int] = {None: 0}  # the place of each message in its branch, by id
        self.followed: set[int | None] = {None}  # the messages that another one follows
        self.edited: dict[int | None, list[tuple[int | None, str]]] = {}  # edited answers, by parent
        self.continued: set[int | None] = set()  # those that a later answer starts with: see Conversation.leaves
        self.head: int | None = None

    def read(self, path: Path) -> Iterator[_Line]:
        """Each message of a file, after it was added to the tree; damaged lines are skipped. Raises OSError."""
        numbers = self.numbers
        with path.open("rb") as file:
            for data in lines_of(file):
                try:
                    line = _decode(data)
                except (ValueError, RecursionError):
                    continue
                if line.type == "message" and line.id not in numbers:
                    parent = line.parent if line.parent in numbers else self.head
                    self.followed.add(parent)
                    numbers[line.id] = numbers[parent] + 1
                    for edited, text in self.edited.get(parent, ()):
                        replay = msgspec.json.decode(line.replay) if line.replay else None
                        begun = replay.get("begun") if isinstance(replay, dict) and replay else edited
                        if line.content.startswith(text) and begun == edited:
                            self.continued.add(edited)
                    if line.finish_reason == "edited":
                        self.edited.setdefault(parent, []).append((line.id, line.content))
                    self.head = line.id
                    yield line
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
            for line in outline.read(path):
                if not title and line.role == "user":
                    title = " ".join(line.content[:1000].split())[:200]
            n_branches = len(outline.numbers.keys() - outline.followed - (outline.continued - {outline.head}))
            size, n_messages = path.stat().st_size, outline.numbers[outline.head]
            result.append(SessionSummary(path.stem, title, n_messages, n_branches, size, changed))
    return result


def search(text: str) -> Iterator[SearchHit]:
    """Every message that contains `text`, case ignored, newest session first."""
    needle = text.casefold()
    for _, path in newest_first():
        with suppress(OSError):
            outline = _Outline()
            for line in outline.read(path):
                if line.id and (excerpt := _excerpt(line.content, needle)):
                    yield SearchHit(path.stem, line.id, line.role, excerpt, outline.numbers[line.id])


def _excerpt(content: str, needle: str) -> str:
    """The text around the first place of `needle`, which is case-folded; empty if there is none."""
    at = content.casefold().find(needle)
    if at < 0:
        return ""
    # The index before case folding, which makes some characters longer.
    at = bisect_right(list(accumulate(len(char.casefold()) for char in content)), at)
    start = max(0, at - 30)
    excerpt = ("…" if start else "") + content[start : at + len(needle) + 50]
    return " ".join(excerpt.split())
