"""A conversation as a tree: each retry and edit is a branch, and nothing is overwritten."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmcli.chat.attachments import Attachment, to_message_text
from llmcli.errors import UsageError

# Who wrote a message, as people read it; JSON has the roles of the OpenAI API.
SPEAKER_NAMES = {"user": "you", "assistant": "model", "summary": "summary"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `role` is user, assistant or summary (of the earlier messages).

    `params` are the settings of an answer that are not defaults, and its seed, as JSON data. `finish_reason` is empty
    for messages of the user; `edited` and `greeting` mark answers that no model gave. `replay` is the data of the
    `Circumstances` that repeat an answer.
    """

    id: int
    parent: int | None
    role: str
    content: str
    reasoning: str = ""
    attachments: tuple[Attachment, ...] = ()
    time: float = 0.0  # seconds since 1970
    model: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    replay: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the model reads: the content, and the attached files after it."""
        return f"{self.content}\n\n{to_message_text(self.attachments)}" if self.attachments else self.content


class Conversation:
    """All messages by id, and `head`: the id of the last message of the present branch."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.head: int | None = None
        self._undone: list[int] = []  # former heads, the latest undo last

    @property
    def next_id(self) -> int:
        number = len(self.messages) + 1
        while number in self.messages:  # a damaged file may have gaps
            number += 1
        return number

    def add(self, message: Message) -> None:
        """Add a message to the tree and make it the head.

        Raises:
            UsageError: if its id is taken or its parent does not exist, as in a file that was edited.
        """
        if message.id in self.messages:
            raise UsageError(f"there are two messages with the id {message.id}")
        if message.parent is not None and message.parent not in self.messages:
            raise UsageError(f"message {message.id} follows message {message.parent}, which does not exist")
        self.messages[message.id] = message
        self.head = message.id
        self._undone.clear()

    def path(self, end: int | None = None) -> list[Message]:
        """The messages from the first to `end` (None = the head)."""
        messages = []
        at = self.head if end is None else end
        while at is not None:
            messages.append(self.messages[at])
            at = self.messages[at].parent
        return messages[::-1]

    def leaves(self) -> list[int]:
        """The last message of every branch, oldest first."""
        parents = {message.parent for message in self.messages.values()}
        return [number for number in self.messages if number not in parents]

    def undo(self, turns: int) -> list[Message]:
        """Go back to before the last `turns` messages of the user; returns the messages that are left behind.

        Raises:
            UsageError: if there are fewer.
        """
        path = self.path()
        questions = [index for index, message in enumerate(path) if message.role == "user"]
        if not questions:
            raise UsageError("nothing to undo")
        if turns < 1:
            raise UsageError(f"the number of turns must be an integer of at least 1, got {str(turns)!r}")
        if turns > len(questions):
            raise UsageError(f"cannot undo {_count(turns, 'turn')}: the conversation has {len(questions)}")
        start = questions[-turns]
        self._undone.append(path[-1].id)
        self.head = path[start].parent
        return path[start:]

    def clear(self) -> None:
        """Go back to before the first message."""
        if self.head is not None:
            self._undone.append(self.head)
        self.head = None

    def redo(self) -> None:
        """Revert the last undo, unless a message was added after it.

        Raises:
            UsageError: if there is none.
        """
        if not self._undone:
            raise UsageError("nothing was undone", "for another answer, use /retry")
        self.head = self._undone.pop()

    def move(self, head: int | None) -> None:
        """Make another message the head (None = before the first).

        Raises:
            UsageError: if the message does not exist.
        """
        if head is not None and head not in self.messages:
            raise UsageError(f"message {head} does not exist")
        self.head = head
        self._undone.clear()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
