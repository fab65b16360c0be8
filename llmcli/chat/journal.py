"""The file of a session: one JSON object a line, only ever added to."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmcli.chat.paths import make_private
from llmcli.errors import DiskError, UsageError

VERSION = 1
_MOST_LINE = 64 << 20  # bytes; a longer line is none of ours
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Journal:
    """Adds lines to a file; each is one write, so that a kill leaves whole lines and at most one cut one.

    Raises:
        DiskError: when the file cannot be opened or written.
    """

    def __init__(self, path: Path, new: bool = False) -> None:
        """Open the file of a session; `new` refuses one that is there already (FileExistsError)."""
        make_private(path.parent)
        self.path = path
        try:
            self._descriptor = os.open(path, _APPEND | (os.O_EXCL if new else 0), 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror}") from None
        if not new and not _ends_whole(path):
            self._write(b"\n")  # what a kill cut off stays a line of its own

    def add(self, event: Mapping[str, Any]) -> None:
        """Add one line."""
        self._write(encode(event))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise DiskError(f"cannot write {self.path}: {error.strerror}", "the session is not saved") from None

    def sync(self) -> None:
        """Make the lines survive a power cut too."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise DiskError(f"cannot write {self.path}: {error.strerror}", "the session is not saved") from None

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def encode(event: Mapping[str, Any]) -> bytes:
    """One line of the file; lone surrogates, which UTF-8 cannot hold, become U+FFFD."""
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def read_events(path: Path, damaged: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a file; the numbers of lines that hold none (cut, say) go into `damaged`.

    Raises:
        DiskError: when it cannot be read.
        UsageError: when it was written by a newer version of the program.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE), b""), 1):
                event = _decode(line)
                if event is None:
                    if damaged is not None and line.strip():
                        damaged.append(number)
                    continue
                if event.get("type") == "session" and _newer(event.get("version")):
                    raise UsageError(f"{path.name} was written by a newer llmcli", "update llmcli")
                yield event
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error.strerror}") from None


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _newer(version: Any) -> bool:
    return not isinstance(version, int) or version > VERSION


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
