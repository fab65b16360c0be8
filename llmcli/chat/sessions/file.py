"""The files of one open session: its journal, its unfinished answer, and its lock."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat.conversation import Message
from llmcli.chat.sessions import store as files
from llmcli.chat.sessions.format import from_event
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.files import Journal, encode, read_events

if TYPE_CHECKING:
    from filelock import BaseFileLock

_PARTIAL = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class SessionFile:
    """The files of a session, locked until `close`."""

    def __init__(self, name: str, journal: Journal, lock: "BaseFileLock") -> None:
        self.name = name
        self._journal = journal
        self._lock = lock
        self._partial = -1  # descriptor of the file of the unfinished answer
        self._waiting: list[Mapping[str, Any]] = []  # events that are not written yet, because the disk was full

    @classmethod
    def claim(cls, name: str, first: str) -> "SessionFile":
        """A new file with this name, or, if it is empty, with a name from the `first` message.

        Raises:
            UsageError: if a session of that name exists.
            DiskError: if the file cannot be created.
        """
        if name:
            return cls._create(name)
        name = files.new_name(first)
        for number in count(1):
            with suppress(UsageError):
                return cls._create(name if number == 1 else f"{name}-{number}")
        raise AssertionError  # `count` does not end

    @classmethod
    def _create(cls, name: str) -> "SessionFile":
        path = files.path_of(name)
        lock = files.hold(name)  # before the file exists, so that no `--continue` opens it
        try:
            journal = Journal(path, new=True)
        except FileExistsError:
            lock.release()
            raise files.taken(name) from None
        except BaseException:
            lock.release()
            raise
        with suppress(OSError):
            files.partial_of(path).unlink()  # of a deleted session of this name
        return cls(name, journal, lock)

    @classmethod
    def open(cls, name: str) -> "SessionFile":
        """The file of a session that exists.

        Raises:
            UsageError: if there is none, or another chat has it open.
        """
        path = files.existing(name)
        lock = files.hold(name)
        try:
            return cls(name, Journal(path), lock)
        except BaseException:
            lock.release()
            raise

    def add(self, events: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Write events, after those that could not be written before; with `sync` they survive a power cut.

        Raises:
            DiskError: if they cannot be written; the next call tries again.
        """
        self._waiting += events
        self._journal.add(self._waiting)
        self._waiting.clear()
        if sync:
            self._journal.sync()

    def rename(self, name: str) -> None:
        """Rename the session.

        Raises:
            UsageError: if the name is taken or not valid.
        """
        if name == self.name:
            raise UsageError(f"the name of this session is already {name!r}")
        path, target = self._journal.path, files.path_of(name)
        lock = files.hold(name)
        self._journal.close()  # Windows cannot move an open file
        try:
            files.move_files(path, target)
            self.name, self._lock, lock, path = name, lock, self._lock, target
        finally:
            lock.release()
            self._journal = Journal(path)

    def begin_answer(self, event: Mapping[str, Any]) -> None:
        """Write what is known of an answer before its first token."""
        with suppress(OSError):  # a full disk is reported when the answer ends
            self._partial = os.open(files.partial_of(self._journal.path), _PARTIAL, 0o600)
            os.write(self._partial, encode(event))

    def grow(self, event: Mapping[str, Any]) -> None:
        """Write a piece of the answer, in a few microseconds."""
        if self._partial >= 0:
            with suppress(OSError):
                os.write(self._partial, encode(event))

    def end_answer(self) -> None:
        """Delete the pieces, unless the answer is not in the journal yet. A second call does nothing."""
        if self._partial < 0:
            return
        os.close(self._partial)
        self._partial = -1
        if self._waiting:
            return
        with suppress(OSError):
            files.partial_of(self._journal.path).unlink()

    def close(self) -> None:
        """Close and unlock the files."""
        with suppress(DiskError):
            self.add([], sync=True)
        self.end_answer()
        self._journal.close()
        with suppress(OSError):
            if not self._journal.path.stat().st_size:  # the disk was full all the time
                self._journal.path.unlink()
        self._lock.release()


def read_partial(path: Path) -> Message | None:
    """The unfinished answer in this file, left by a chat that was killed; None if it is empty."""
    message: Message | None = None
    texts: dict[str, list[str]] = {"answer": [], "think": []}
    with suppress(LlmcliError):  # usually there is no such file
        for event in read_events(path):
            if event.get("type") == "message":
                with suppress(ValueError):
                    message = from_event(event)
            for kind in texts.keys() & event.keys():
                texts[kind].append(str(event[kind]))
    content, reasoning = "".join(texts["answer"]), "".join(texts["think"])
    if not message or not content + reasoning:
        return None
    return replace(message, content=content, reasoning=reasoning, finish_reason="interrupt")
