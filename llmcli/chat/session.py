"""A session: a conversation, what was set in it, and the file that both are in at every moment."""

import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcli.chat import session_files as files
from llmcli.chat.records import HEADER, all_events, set_events, to_event
from llmcli.chat.session_file import SessionFile
from llmcli.chat.session_reading import read_session
from llmcli.chat.tree import Conversation, Message
from llmcli.errors import DiskError, UsageError


class Session:
    """One conversation on disk. The file comes into being with the first message; an unfinished answer lies beside it.

    A disk that takes nothing ends no conversation: `end_answer` tells it once, and all is written when it can be.
    `overrides` are the settings changed in the chat, typed, by key. `notes` is what the user should know about the
    file that was read. `keep` False means that nothing is written (for somebody who wants no trace).
    """

    def __init__(self, name: str = "", keep: bool = True) -> None:
        self.conversation = Conversation()
        self.overrides: dict[str, Any] = {}
        self.notes: list[str] = []
        self._remembered: dict[str, Any] = {}
        self._name = name
        self._keep = keep
        self._file: SessionFile | None = None
        self._begun: Message | None = None  # the answer that is being written
        self._trouble: DiskError | None = None  # why the file lacks what was said last
        self._told = False  # the user knows

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
            path = files.path_of(name)
            session._recover(path, session._read(path))
            if not path.stat().st_size:  # a kill came before its first line
                session._save([HEADER])
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
        path = files.existing(name)
        if unfinished := session._read(path):
            session.conversation.add(unfinished)
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
        """Add a message after the head, on disk when this returns.

        Raises:
            UsageError: when it is the first, and another session has taken this one's name meanwhile.
        """
        return self._store(self.draft(role, content, **more))

    def add_copy(self, message: Message) -> Message:
        """Say again, after the head, what was said elsewhere in the tree; there it could be repeated, here not."""
        conversation = self.conversation
        return self._store(replace(message, id=conversation.next_id, parent=conversation.head, replay={}))

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
        """End the answer that was begun. One in which nothing came is not kept.

        Raises:
            DiskError: once, when the session cannot be saved. The answer is in the conversation all the same.
        """
        begun, self._begun = self._begun, None
        message = None
        if begun and (content or reasoning):
            message = self._store(replace(begun, content=content, reasoning=reasoning, **more))
        if self._file:
            self._file.end_answer()
        if self._trouble and not self._told and not sys.exc_info()[0]:  # never in place of what ended the answer
            self._told = True
            raise DiskError(str(self._trouble), "the conversation goes on, and is not saved")
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
        self._save(set_events({key: value}))

    def unset(self, key: str) -> None:
        """Forget the value that was set in this session."""
        if self.overrides.pop(key, self) is not self:
            known = key in self._remembered
            self._save(set_events({key: self._remembered[key]}) if known else [{"type": "unset", "key": key}])

    def remember(self, values: Mapping[str, Any]) -> None:
        """Keep settings that count already, those of the command line, for when the session is opened again."""
        self._remembered |= values
        self._save(set_events(values))

    # The file

    def rename(self, name: str) -> None:
        """Give the session another name; its file moves with it.

        Raises:
            UsageError: when the name is taken or cannot be one, or nothing of this session is on disk.
            DiskError: when its file cannot be moved.
        """
        self._must_keep()
        if self._file:
            self._file.rename(name)
        else:
            files.must_be_free(name)
        self._name = name

    def copy(self, name: str) -> "Session":
        """A session of its own with the same messages and settings, on disk as `name`.

        Raises:
            UsageError: when the name is taken or cannot be one, or nothing of this session is on disk.
            DiskError: when it cannot be written.
        """
        self._must_keep()
        files.must_be_free(name)
        other = Session(name)
        for message in self.conversation.messages.values():
            other.conversation.add(message)
        other.conversation.move(self.conversation.head)
        other.overrides, other._remembered = dict(self.overrides), dict(self._remembered)
        if other.conversation.messages:
            other._file = SessionFile.claim(name, "")
            try:
                other._file.add(all_events(other.conversation, other._all()), sync=True)
            except BaseException:
                other.close()
                raise
        return other

    def close(self) -> None:
        """Let go of the file, for good; harmless when done twice."""
        self._name, self._keep = self.name, False
        file, self._file = self._file, None
        if file:
            file.close()

    def _store(self, message: Message) -> Message:
        new = self._keep and not self._file
        if new:
            self._claim(message.content)
        self.conversation.add(message)
        self._save(all_events(self.conversation, self._all()) if new else [to_event(message)], sync=True)
        return message

    def _claim(self, first: str) -> None:
        try:
            self._file = SessionFile.claim(self._name, first)
        except DiskError as error:  # the next message tries again
            self._trouble = self._trouble or error

    def _save(self, events: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Add lines to the file, if there is one: before the first message there is none."""
        if not self._file:
            return
        try:
            self._file.add(events, sync)
        except DiskError as error:
            self._trouble = self._trouble or error
        else:
            self._trouble, self._told = None, False

    def _all(self) -> Mapping[str, Any]:
        return self._remembered | self.overrides

    def _must_keep(self) -> None:
        if not self._keep:
            raise UsageError("nothing of this session is on disk, as --no-save said", "/export FILE.md writes it")

    def _note_head(self) -> None:
        self._save([{"type": "head", "id": self.conversation.head}])

    def _read(self, path: Path) -> Message | None:
        """Take over what the file says; returns the answer that a kill cut off."""
        reading = read_session(path)
        self.conversation, self.overrides = reading.conversation, reading.overrides
        self.notes += reading.notes(path.name)
        return reading.unfinished

    def _recover(self, path: Path, unfinished: Message | None) -> None:
        if unfinished:
            self._store(unfinished)
            self.notes.append("the last answer was cut off; /continue goes on with it")
        if not self._trouble:
            with suppress(OSError):
                files.partial_of(path).unlink()
