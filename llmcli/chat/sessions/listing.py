"""The list of sessions, and the search in their messages."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmcli.chat.conversation import Conversation, Message
from llmcli.chat.sessions.store import newest_first
from llmcli.errors import UsageError
from llmcli.files import lines_of


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


class _Line(msgspec.Struct):
    """What a list and a search need of a line; to read it takes a third of the time."""

    type: str
    id: int | None = None
    parent: int | None = None
    role: str = ""
    content: str = ""


def session_summaries(start: str = "") -> list[SessionSummary]:
    """The sessions whose names start with `start`, the one that was changed last first, without unreadable files."""
    result = []
    for changed, path in newest_first():
        if not path.name.startswith(start):
            continue
        with suppress(OSError):
            conversation, size = _read_texts(path), path.stat().st_size
            asked = (message.content for message in conversation.messages.values() if message.role == "user")
            title = next(filter(None, (" ".join(text[:1000].split())[:200] for text in asked)), "")
            n_messages, n_branches = len(conversation.path()), len(conversation.leaves())
            result.append(SessionSummary(path.stem, title, n_messages, n_branches, size, changed))
    return result


def search(text: str) -> Iterator[SearchHit]:
    """Every message that contains `text`, case ignored, newest session first."""
    needle = text.casefold()
    for _, path in newest_first():
        with suppress(OSError):
            numbers: dict[int | None, int] = {}  # the place of each message in its branch, by id
            for message in _read_texts(path).messages.values():
                numbers[message.id] = number = numbers.get(message.parent, 0) + 1
                if excerpt := _excerpt(message.content, needle):
                    yield SearchHit(path.stem, message.id, message.role, excerpt, number)


def _read_texts(path: Path) -> Conversation:
    """The messages of a session with their texts only. Raises OSError."""
    conversation, decoder = Conversation(), msgspec.json.Decoder(_Line)
    with path.open("rb") as file:
        for data in lines_of(file):
            with suppress(ValueError, RecursionError, UsageError):  # a damaged line
                line = decoder.decode(data)
                if line.type == "head":
                    conversation.move(line.id)
                elif line.type == "message" and line.id:
                    message = Message(line.id, line.parent, line.role, line.content)
                    conversation.add(conversation.with_parent(message))
    return conversation


def _excerpt(content: str, needle: str) -> str:
    """The text around the first place of `needle`, which is case-folded; empty if there is none."""
    folded = content.casefold()
    at = folded.find(needle)
    if at < 0:
        return ""
    at = at if len(folded) == len(content) else _index_before_folding(content, at)
    start = max(0, at - 30)
    excerpt = ("…" if start else "") + content[start : at + len(needle) + 50]
    return " ".join(excerpt.split())


def _index_before_folding(text: str, index: int) -> int:
    """The index in `text` of what is at `index` in its case-folded form, which may be longer."""
    for at, char in enumerate(text):
        index -= len(char.casefold())
        if index < 0:
            return at
    return 0
