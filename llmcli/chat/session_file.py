"""The files of one open session: its journal, the answer that is being written, and the right to write them."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat import session_files as files
from llmcli.chat.journal import Journal, encode, read_events
from llmcli.chat.records import from_event
from llmcli.chat.tree import Message
from llmcli.errors import DiskError, LlmcliError, UsageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_PARTIAL = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class SessionFile:
    """Open from its making to `close`. No other process writes the session meanwhile."""

    def __init__(self, name: str, journal: Journal, lock: "BaseFileLock") -> None:
        self.name = name
        self._journal = journal
        self._lock = lock
        self._partial = -1  # descriptor of the file of the unfinished answer
        self._waiting: list[Mapping[str, Any]] = []  # lines that the disk did not take

    @classmethod
    def claim(cls, name: str, first: str) -> "SessionFile":
        """A new file: under `name`, or where that is empty under one made from the `first` message.

        Raises:
            UsageError: when there is a session of that name.
            DiskError: when no file can be made.
        """
        if name:
            return cls._make(name)
        wanted = files.new_name(first)
        for number in count(1):
            with suppress(UsageError):
                return cls._make(wanted if number == 1 else f"{wanted}-{number}")
        raise AssertionError  # the numbers do not end

    @classmethod
    def _make(cls, name: str) -> "SessionFile":
        path = files.path_of(name)
        lock = files.hold(name)  # before there is a file that `--continue` could take
        try:
            journal = Journal(path, new=True)
        except FileExistsError:
            lock.release()
            raise files.taken(name) from None
        except BaseException:
            lock.release()
            raise
        with suppress(OSError):
            files.partial_of(path).unlink()  # of a session of this name that is gone
        return cls(name, journal, lock)

    @classmethod
    def open(cls, name: str) -> "SessionFile":
        """The file of a session that is there.

        Raises:
            UsageError: when there is none, or another chat has it.
        """
        path = files.existing(name)
        lock = files.hold(name)
        try:
            return cls(name, Journal(path), lock)
        except BaseException:
            lock.release()
            raise

    def add(self, events: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Add lines, after those that the disk did not take before; `sync` makes them survive a power cut too.

        Raises:
            DiskError: when it does not take them; they wait for the next time.
        """
        self._waiting += events
        self._journal.add(self._waiting)
        self._waiting.clear()
        if sync:
            self._journal.sync()

    def rename(self, name: str) -> None:
        """Move the session to another name.

        Raises:
            UsageError: when the name is taken or cannot be one.
        """
        if name == self.name:
            raise UsageError(f"this session is called {name} already")
        path, target = self._journal.path, files.path_of(name)
        lock = files.hold(name)
        self._journal.close()  # Windows moves no open file
        try:
            files.move_files(path, target)
            self.name, self._lock, lock, path = name, lock, self._lock, target
        finally:
            lock.release()
            self._journal = Journal(path)

    def begin_answer(self, event: Mapping[str, Any]) -> None:
        """Keep what is known of an answer before its first word."""
        with suppress(OSError):  # a full disk is told when the answer ends
            self._partial = os.open(files.partial_of(self._journal.path), _PARTIAL, 0o600)
            os.write(self._partial, encode(event))

    def grow(self, event: Mapping[str, Any]) -> None:
        """Keep a piece of the answer: one write of a few microseconds."""
        if self._partial >= 0:
            with suppress(OSError):
                os.write(self._partial, encode(event))

    def end_answer(self) -> None:
        """Forget the pieces, if the answer is in the journal or nothing came. Harmless when done twice."""
        if self._partial < 0:
            return
        os.close(self._partial)
        self._partial = -1
        if self._waiting:
            return
        with suppress(OSError):
            files.partial_of(self._journal.path).unlink()

    def close(self) -> None:
        """Let go of the files."""
        with suppress(DiskError):
            self.add([], sync=True)
        self.end_answer()
        self._journal.close()
        with suppress(OSError):
            if not self._journal.path.stat().st_size:  # the disk took nothing at all
                self._journal.path.unlink()
        self._lock.release()


def read_partial(path: Path) -> Message | None:
    """The unfinished answer that a kill left in this file; None where nothing of it came."""
    begun: Message | None = None
    texts: dict[str, list[str]] = {"answer": [], "think": []}
    with suppress(LlmcliError):  # mostly there is no such file
        for event in read_events(path):
            if event.get("type") == "message":
                with suppress(ValueError):
                    begun = from_event(event)
            for kind in texts.keys() & event.keys():
                texts[kind].append(str(event[kind]))
    content, reasoning = "".join(texts["answer"]), "".join(texts["think"])
    if not begun or not content + reasoning:
        return None
    return replace(begun, content=content, reasoning=reasoning, finish_reason="interrupt")
