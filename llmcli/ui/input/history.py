"""The history of the input line, in a private file."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from prompt_toolkit.history import History

from llmcli.files import BINARY, make_private_folder, replace_private

KEPT = 5000  # entries
LONGEST = 64 << 10  # bytes of one entry
_MOST_READ = 32 << 20  # bytes at the end of the file


class PrivateHistory(History):
    """One JSON string a line. A file that cannot be read or written is an empty history, not an error.

    `fold` shortens an entry for the input line.
    """

    def __init__(self, path: Path, fold: Callable[[str], str] = str) -> None:
        super().__init__()
        self._path = path
        self._fold = fold

    def append_string(self, string: str) -> None:
        if not self._loaded:
            self._loaded_strings = list(self.load_history_strings())
            self._loaded = True
        shown = self._fold(string)
        if len(string.encode("utf-8", "replace")) > LONGEST or self._loaded_strings[:1] == [shown]:
            return
        self._loaded_strings.insert(0, shown)
        self.store_string(string)

    def load_history_strings(self) -> Iterable[str]:
        """The newest entry first."""
        if not os.path.isfile(self._path):  # to open a pipe would wait
            return []
        lines: list[bytes] = []
        with suppress(OSError), self._path.open("rb") as file:
            lines = _read_lines(file)
            if len(lines) >= 2 * KEPT:
                _trim(self._path)
        # Without damaged lines and repetitions.
        entries = [entry for entry, _ in groupby(filter(None, map(_entry, lines)))]
        return map(self._fold, entries[: -KEPT - 1 : -1])

    def store_string(self, string: str) -> None:
        line = json.dumps(string, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with suppress(OSError):
            make_private_folder(self._path.parent)
            _append(self._path, line)


def _append(path: Path, line: bytes) -> None:
    """Append a line in one write, so that lines of two chats never mix."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        if os.lseek(file, 0, os.SEEK_END) and os.lseek(file, -1, os.SEEK_END) >= 0 and os.read(file, 1) != b"\n":
            line = b"\n" + line  # the disk was full, or the machine stopped, in the middle of a line
        os.write(file, line)
    finally:
        os.close(file)


def _read_lines(file: BinaryIO) -> list[bytes]:
    start = max(0, file.seek(0, os.SEEK_END) - _MOST_READ)
    file.seek(start)
    lines = file.read().split(b"\n")
    return [line for line in lines[bool(start) :] if line]  # the first may be cut


def _entry(line: bytes) -> str:
    if len(line) > 6 * LONGEST + 2:  # the longest entry, with each byte as an escape
        return ""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return entry if isinstance(entry, str) else ""


def _trim(path: Path) -> None:
    """Keep the newest entries, and those that another chat adds meanwhile; one chat at a time trims."""
    from filelock import FileLock, Timeout  # 70 ms, only once in thousands of messages

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, mode=0o600)
    with suppress(Timeout), lock, path.open("rb") as old:
        lines = _read_lines(old)
        if len(lines) < 2 * KEPT:
            return  # another chat was faster
        replace_private(path, b"\n".join(lines[-KEPT:]) + b"\n")
        if late := old.read():
            _append(path, late)
