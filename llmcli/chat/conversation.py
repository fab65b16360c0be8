"""A conversation as a tree: each retry and edit is a branch, and nothing is overwritten. Messages and their files."""

import glob
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

from msgspec import Meta, to_builtins

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import convert, read_text
from llmcli.inference.request import file_block
from llmcli.params.param import is_number
from llmcli.text import plural

MessageId = Annotated[int, Meta(ge=1, le=10**9)]
_MAX_TIME = 253402300800  # the year 10000, which an ISO timestamp cannot express
# Who wrote a message, as people read it; JSON has the roles of the OpenAI API.
SPEAKER_NAMES = {"user": "you", "assistant": "model", "summary": "summary"}
_MAX_FILES = 100
_MAX_NAME = 4096  # characters; no system opens a longer path
_MENTION = re.compile(r"""(?<![\w.%+/\\@-])@(?:"([^"\n]+)"|'([^'\n]+)'|(\S+))""")
_FILE_NAME = re.compile(r"[\w ./~-]*[\w-]\.[A-Za-z]\w{0,4}|[.~]{0,2}/[\w ./-]+")  # with a suffix, or a path
_PUNCTUATION = ".,;:!?)]}>\"'`*。，；：！？）"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The text of a file at the time when it was attached; `name` is the name that the user gave."""

    name: str
    text: str


def find_mentions(text: str) -> list[str]:
    """The files mentioned behind `@` in a message, each once: `@notes.txt`, `@"my notes.txt"`, `@~/x.md`.

    An `@` inside a word, as in a mail address, or before a name that is not a file is plain text.
    """
    names: dict[str, None] = {}
    # A pasted text may have one word a hundred thousand times.
    for double, single, bare in dict.fromkeys(_MENTION.findall(text)):
        # Without the least punctuation at the end that leaves the name of a file; no name ends in more than 8.
        least = len(bare.rstrip(_PUNCTUATION))
        ends = range(min(len(bare), least + 8), least - 1, -1)
        name = next((bare[:end] for end in ends if _is_file(bare[:end])), double or single)
        if _is_file(name):
            names[name] = None
    return [*names]


def missing_mentions(text: str) -> list[str]:
    """The words behind `@` in a message that look like the name of a file that does not exist, at most three.

    In a text of several lines, which was pasted or written with care, they are most likely code: `@app.route`.
    """
    if "\n" in text.strip():
        return []
    found = (double or single or bare.rstrip(_PUNCTUATION) for double, single, bare in _MENTION.findall(text))
    names = dict.fromkeys(name for name in found if _FILE_NAME.fullmatch(name) and not _exists(name))
    return [f"@{name}" for name in islice(names, 3)]


def _exists(name: str) -> bool:
    return len(name) > _MAX_NAME or os.path.exists(os.path.expanduser(name))


def _is_file(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and os.path.isfile(os.path.expanduser(name))


def attach(path: str, encoding: str = "utf-8") -> Attachment:
    """The file as an attachment. Raises DiskError if it is not a readable text file, UsageError for an empty name."""
    full = os.path.expanduser(path)
    if os.path.exists(full) and not os.path.isfile(full) and not os.path.isdir(full):
        raise DiskError(f"{path} is a device or a pipe", "give a regular file")  # reading it might never end
    return Attachment(path, read_text(path, encoding))


def expand(pattern: str) -> list[str]:
    """The files that `pattern` matches, sorted; only itself if it has no `*`, `?` or `[`, or is the name of a file.

    As in a shell, a hidden file matches only a pattern with the dot. Raises DiskError if none or too many match.
    """
    full = os.path.expanduser(pattern)
    if not glob.has_magic(full) or os.path.lexists(full):
        return [pattern]
    try:
        found = list(islice(filter(os.path.isfile, glob.iglob(full, recursive=True)), _MAX_FILES + 1))
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot search for {pattern}: {error_text(error)}") from None
    if not found:
        raise DiskError(f"file not found: {pattern}", "give a file, or a pattern such as src/*.py")
    if len(found) > _MAX_FILES:
        raise DiskError(f"{pattern} matches more than {_MAX_FILES} files", "give a narrower pattern")
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Message:
    """One message. One that is read from a file has these types and ranges."""

    id: MessageId
    parent: MessageId | None
    role: Annotated[str, Meta(pattern=r"^(user|assistant|summary)\Z")]  # a summary is of the earlier messages
    content: str = ""
    reasoning: str = ""
    attachments: tuple[Attachment, ...] = ()
    time: float = 0.0  # seconds since 1970
    model: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)  # settings that are not defaults, and the seed, as JSON
    finish_reason: str = ""  # of an answer; "edited" and "greeting" mark those that no model gave
    timings: Mapping[str, float] = field(default_factory=dict)
    replay: Mapping[str, Any] = field(default_factory=dict)  # the JSON data of a `ReplayManifest`

    @property
    def text(self) -> str:
        """What the model reads: the content, and the attached files after it."""
        return "\n\n".join([self.content, *(file_block(one.name, one.text) for one in self.attachments)])

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Message":
        """The message of a JSON object, without values that no setting and no timing can have. Raises ValueError."""
        from llmcli.inference.replay_manifest import ReplayManifest  # which a list of sessions does not need

        cleaned = {**data, "time": _seconds_of(data.get("time"))}
        for key, is_valid in (("params", _is_plain), ("timings", _is_finite)):
            if isinstance(values := data.get(key), dict):
                cleaned[key] = {name: value for name, value in values.items() if is_valid(value)}
        try:
            ReplayManifest.from_data(data.get("replay"))
        except ValueError:
            cleaned["replay"] = {}  # the answer itself is worth more
        return convert(cleaned, cls)

    def to_data(self) -> dict[str, Any]:
        """As a JSON object without empty fields."""
        time = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        first = {"type": "message", "id": self.id, "parent": self.parent, "time": time}
        data = first | to_builtins(self) | {"time": time}
        return {key: value for key, value in data.items() if value not in ("", (), {})}


def _seconds_of(timestamp: Any) -> float:
    try:
        seconds = datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return seconds if 0 <= seconds < _MAX_TIME else 0.0


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e300  # sums of such values stay in the range of a float


def _is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a setting can have this value: a number, a string, or a list of them."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, bool | str) or _is_finite(value)


def continues(answer: Message, edited: Message) -> bool:
    """Whether an answer continues an edited one: its replay data name it; without them, by its text."""
    begun = answer.replay.get("begun", edited.id if not answer.replay else None)
    return begun == edited.id and answer.content.startswith(edited.content)


class Conversation:
    """All messages by id, and `head`: the id of the last message of the current branch (None = before the first)."""

    def __init__(self, on_move: Callable[[], None] = lambda: None) -> None:
        """`on_move` is called after each move of the head that adds no message."""
        self.messages: dict[int, Message] = {}
        self.head: int | None = None
        self.lost_id = 0  # the largest id that a damaged line of the file can have
        self.on_move = on_move
        self._undone: list[int] = []  # former heads, the latest undo last
        self._before_edit: dict[int, int | None] = {}  # the former head, by the id of the new version of a message

    @property
    def next_id(self) -> int:
        number = max(len(self.messages), self.lost_id) + 1
        while number in self.messages:  # a damaged file may have gaps
            number += 1
        return number

    def draft(self, role: str, content: str, **more: Any) -> Message:
        """A message that would follow the head, without adding it."""
        return Message(self.next_id, self.head, role, content, time=time.time(), **more)

    def add(self, message: Message) -> None:
        """Add a message to the tree and make it the head.

        Raises UsageError if its id is taken or its parent does not exist, as in a file that was edited.
        """
        if message.id in self.messages:
            raise UsageError(f"there are two messages with the id {message.id}")
        if message.parent is not None and message.parent not in self.messages:
            raise UsageError(f"message {message.id} follows message {message.parent}, which does not exist")
        self.messages[message.id] = message
        self.head = message.id
        self._undone.clear()

    def with_parent(self, message: Message) -> Message:
        """The message of a file; if the line of the one that it follows is lost, it follows the head."""
        is_lost = message.parent is not None and message.parent not in self.messages
        return replace(message, parent=self.head) if is_lost else message

    def path(self, end: int | None = None) -> list[Message]:
        """The messages from the first to `end` (None = the head)."""
        messages = []
        at = self.head if end is None else end
        while at is not None:
            messages.append(self.messages[at])
            at = self.messages[at].parent
        return messages[::-1]

    def leaves(self) -> list[int]:
        """The last message of every branch, oldest first.

        An edited answer that was continued has no text of its own, and is a branch only while it is the head.
        """
        children: dict[int | None, list[Message]] = {}
        for message in self.messages.values():
            children.setdefault(message.parent, []).append(message)

        def is_continued(edited: Message) -> bool:
            later = (other for other in children[edited.parent] if other.id > edited.id)
            return edited.finish_reason == "edited" and any(continues(other, edited) for other in later)

        ends = [message for message in self.messages.values() if message.id not in children]
        return [message.id for message in ends if message.id == self.head or not is_continued(message)]

    def mark_edit(self, before: int | None) -> None:
        """The head is a new version of a message of the branch that ends with `before`; `undo` returns there."""
        assert self.head
        self._before_edit[self.head] = before

    def undo(self, turns: int) -> list[Message]:
        """Go back to before the last `turns` messages of the user; returns the messages that are left behind.

        Where the oldest of them is a new version of a message, go back to the branch with the old one. Raises
        UsageError if there are fewer.
        """
        path = self.path()
        starts = [index for index, message in enumerate(path) if message.role == "user"]
        if path and path[-1].role == "assistant" and path[-1].id in self._before_edit:
            starts.append(len(path) - 1)  # an answer that the user has just changed
        if not starts:
            raise UsageError("nothing to undo")
        if turns < 1:
            raise UsageError(f"the number of turns must be an integer of at least 1, got {str(turns)!r}")
        if turns > len(starts):
            raise UsageError(f"cannot undo {plural(turns, 'turn')}: the conversation has {len(starts)}")
        left = path[starts[-turns] :]
        self._undone.append(path[-1].id)
        self.head = self._before_edit.get(left[0].id, left[0].parent)
        self.on_move()
        return left

    def clear(self) -> None:
        """Go back to before the first message."""
        if self.head is not None:
            self._undone.append(self.head)
        self.head = None
        self.on_move()

    def redo(self) -> None:
        """Revert the last undo, unless a message was added after it. Raises UsageError if there is none."""
        if not self._undone:
            raise UsageError("nothing to redo", "for another answer, use /retry")
        self.head = self._undone.pop()
        self.on_move()

    def move(self, head: int | None) -> None:
        """Make another message the head (None = before the first). Raises UsageError if the message does not exist."""
        if head is not None and head not in self.messages:
            raise UsageError(f"message {head} does not exist")
        self.head = head
        self._undone.clear()
        self.on_move()


def sliding_window(path: Sequence[Message], first: int | None) -> list[Message]:
    """The messages from id `first` on and the summaries before it; all messages if the id does not exist."""
    start = next((index for index, message in enumerate(path) if message.id == first), 0)
    return [message for index, message in enumerate(path) if index >= start or message.role == "summary"]
