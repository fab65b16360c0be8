"""A session: a conversation, what was set in it, and the file that both are in at every moment."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcli.chat import session_files as files
from llmcli.chat.journal import VERSION, read_events
from llmcli.chat.records import from_event, to_event
from llmcli.chat.session_file import SessionFile
from llmcli.chat.tree import Conversation, Message
from llmcli.errors import UsageError
from llmcli.params.settings import fields, to_datum


class Session:
    """One conversation on disk. The file comes into being with the first message; an unfinished answer lies beside it.

    `overrides` are the settings changed in the chat, typed, by key. `notes` is what the user should know about the
    file that was read. `keep` False means that nothing is written (for somebody who wants no trace).
    """

    def __init__(self, name: str = "", keep: bool = True) -> None:
        self.conversation = Conversation()
        self.overrides: dict[str, Any] = {}
        self.notes: list[str] = []
        self._name = name
        self._keep = keep
        self._file: SessionFile | None = None
        self._begun: Message | None = None  # the answer that is being written

    @classmethod
    def load(cls, name: str) -> "Session":
        """Open a session that is there, and take the right to write it.

        Raises:
            UsageError: when there is none, another chat has it, or a newer version wrote it.
            DiskError: when it cannot be read.
        """
        session = cls(name)
        session._file = SessionFile.open(name)
        try:
            session._read(files.path_of(name))
            session._recover(files.partial_of(files.path_of(name)))
        except BaseException:
            session.close()
            raise
        return session

    @classmethod
    def read(cls, name: str) -> "Session":
        """A session to look at, which another chat may have open; nothing is written.

        Raises:
            UsageError: when there is none, or a newer version wrote it.
        """
        session = cls(name, keep=False)
        session._read(files.existing(name))
        return session

    @property
    def name(self) -> str:
        """Its name; empty before the first message, unless somebody gave it one."""
        return self._file.name if self._file else self._name

    @property
    def saved(self) -> bool:
        """Whether it is on disk."""
        return self._file is not None

    @property
    def named(self) -> bool:
        """Whether somebody gave it its name, rather than the program."""
        return bool(self.name) and not re.match(r"\d{4}-\d\d-\d\d-", self.name)

    # The conversation

    def draft(self, role: str, content: str, **more: Any) -> Message:
        """A message that would follow the head, without adding it."""
        conversation = self.conversation
        return Message(conversation.next_id, conversation.head, role, content, time=time.time(), **more)

    def prepare(self, role: str, content: str, **more: Any) -> None:
        """Add a message that nobody said yet (a character's greeting): it is on disk from the first real one on."""
        self.conversation.add(self.draft(role, content, **more))

    def say(self, role: str, content: str, **more: Any) -> Message:
        """Add a message after the head, on disk when this returns."""
        return self._store(self.draft(role, content, **more))

    def add_copy(self, message: Message) -> Message:
        """Say again, after the head, what was said elsewhere in the tree."""
        conversation = self.conversation
        return self._store(replace(message, id=conversation.next_id, parent=conversation.head))

    def begin_answer(self, parent: int | None, **more: Any) -> None:
        """Begin an answer that follows `parent`; it joins the conversation when it ends."""
        self._begun = replace(self.draft("assistant", "", **more), parent=parent)
        if self._file:
            self._file.begin_answer(to_event(self._begun))

    def grow(self, kind: str, text: str) -> None:
        """Put the next piece of the answer ("answer" or "think") on disk as it comes, so that no kill loses it."""
        if self._file:
            self._file.grow({kind: text})

    def end_answer(self, content: str, reasoning: str = "", **more: Any) -> Message | None:
        """End the answer that was begun. One in which nothing came is not kept."""
        begun, self._begun = self._begun, None
        message = None
        if begun and (content or reasoning):
            message = self._store(replace(begun, content=content, reasoning=reasoning, **more))
        if self._file:
            self._file.end_answer()
        return message

    def move(self, head: int | None) -> None:
        """See `Conversation.move`."""
        self.conversation.move(head)
        self._note_head()

    def undo(self, turns: int) -> list[Message]:
        """See `Conversation.undo`."""
        gone = self.conversation.undo(turns)
        self._note_head()
        return gone

    def clear(self) -> None:
        """See `Conversation.clear`."""
        self.conversation.clear()
        self._note_head()

    def redo(self) -> None:
        """See `Conversation.redo`."""
        self.conversation.redo()
        self._note_head()

    # The settings

    def set(self, key: str, value: Any) -> None:
        """Keep a typed value for a setting from now on."""
        self.overrides[key] = value
        if self._file:
            self._file.add([_set_event(key, value)])

    def unset(self, key: str) -> None:
        """Forget the value that was set in this session."""
        if self.overrides.pop(key, self) is not self and self._file:
            self._file.add([{"type": "unset", "key": key}])

    # The file

    def rename(self, name: str) -> None:
        """Give the session another name; its file moves with it.

        Raises:
            UsageError: when the name is taken or cannot be one.
        """
        if self._file:
            self._file.rename(name)
        elif files.path_of(name).exists():
            raise UsageError(f"there is a session called {name} already", "choose another name")
        self._name = name

    def copy(self, name: str) -> "Session":
        """A session of its own with the same messages and settings, on disk as `name`.

        Raises:
            UsageError: when the name is taken or cannot be one.
        """
        other = Session(name, self._keep)
        if files.path_of(name).exists():
            raise UsageError(f"there is a session called {name} already", "choose another name")
        for message in self.conversation.messages.values():
            other.conversation.add(message)
        other.conversation.move(self.conversation.head)
        other.overrides = dict(self.overrides)
        if other.conversation.messages and other._keep:
            other._create("")
        return other

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        self._name = self.name
        file, self._file = self._file, None
        if file:
            file.close()

    def _store(self, message: Message) -> Message:
        self.conversation.add(message)
        if self._file:
            self._file.add([to_event(message)], sync=True)
        elif self._keep:
            self._create(message.content)
        return message

    def _create(self, first: str) -> None:
        """Make the file, with all that was said and set before there was one."""
        self._file = SessionFile.claim(self._name, first)
        self._file.add(self._events(), sync=True)

    def _events(self) -> Iterator[Mapping[str, Any]]:
        yield {"type": "session", "version": VERSION}
        yield from map(to_event, self.conversation.messages.values())
        yield from (_set_event(key, value) for key, value in self.overrides.items())
        if self.conversation.head != max(self.conversation.messages, default=None):
            yield {"type": "head", "id": self.conversation.head}

    def _note_head(self) -> None:
        if self._file:
            self._file.add([{"type": "head", "id": self.conversation.head}])

    def _read(self, path: Path) -> None:
        damaged: list[int] = []
        for event in read_events(path, damaged):
            try:
                self._apply(event)
            except (UsageError, ValueError, TypeError) as error:
                self.notes.append(f"{path.name}: a line was left out: {error}")
        if damaged:
            lines = ", ".join(map(str, damaged[:5]))
            self.notes.append(f"{path.name}: line {lines} cannot be read and was left out; the rest is here")

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, key = event.get("type"), str(event.get("key"))
        if kind == "message":
            self.conversation.add(from_event(event))
        elif kind == "head":
            self.conversation.move(event.get("id"))
        elif kind == "set" and key in fields():
            self.overrides[key] = fields()[key].parse_data(event.get("value"))
        elif kind == "unset":
            self.overrides.pop(key, None)

    def _recover(self, partial: Path) -> None:
        """Take in the answer that a kill left unfinished."""
        if not partial.exists():
            return
        begun: Message | None = None
        texts: dict[str, list[str]] = {"answer": [], "think": []}
        for event in read_events(partial):
            if event.get("type") == "message":
                with suppress(ValueError):
                    begun = from_event(event)
            for kind in texts.keys() & event.keys():
                texts[kind].append(str(event[kind]))
        content, reasoning = "".join(texts["answer"]), "".join(texts["think"])
        known = self.conversation.messages
        if begun and begun.id not in known and (begun.parent in known or begun.parent is None) and content + reasoning:
            self._store(replace(begun, content=content, reasoning=reasoning, finish_reason="interrupt"))
            self.notes.append("the last answer was cut off; /continue goes on with it")
        with suppress(OSError):
            partial.unlink()


def _set_event(key: str, value: Any) -> Mapping[str, Any]:
    return {"type": "set", "key": key, "value": to_datum(fields()[key], value)}
