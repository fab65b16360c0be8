"""The partial file of a download, which any later process can resume.

With one connection, the length of the file is the progress. With several connections the file has gaps, so their
positions are in `<name>.ranges`, written after the data: a killed process loses only what it had not recorded
yet. The checksum at the end proves that the bytes are correct.
"""

import json
import os
import stat
import threading
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from llmcli.errors import DiskError

WRITTEN_DOWN = 512 << 10  # bytes of one segment between two records of its position
SMALLEST = 8 << 20  # bytes; a smaller rest is not worth another connection
NOTES = ".ranges"
_RECORD = 1024  # bytes, padded: each write must overwrite the one before completely
_MAX_RECORD = 1 << 20  # bytes


@dataclass
class Segment:
    """Bytes `position` to `end` (exclusive) are missing; a split can decrease `end`."""

    start: int
    position: int
    end: int
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def left(self) -> int:
        return self.end - self.position


class Partial:
    """The state of one download. Segments are sorted and adjacent; all bytes before `frontier` are downloaded."""

    def __init__(self, path: Path, size: int) -> None:
        """Resume the file at `path`, or discard it if it is not valid.

        Raises:
            DiskError: there is something at `path` that is not a regular file, for example a link.
            OSError: the folder cannot be used.
        """
        self.path, self.size = path, size
        self._notes = path.with_name(path.name + NOTES)
        self._lock = threading.Lock()
        self.segments = _segments(path, size, _length(path))
        if not self.done:
            self.discard()
        elif len(self.segments) == 1:
            self.forget_notes()

    @property
    def done(self) -> int:
        """Bytes downloaded so far."""
        return sum(segment.position - segment.start for segment in self.segments)

    @property
    def frontier(self) -> int:
        """The position of the first missing byte; the size when the file is complete."""
        return next((segment.position for segment in self.segments if segment.left > 0), self.size)

    def open(self) -> FileIO:
        """Open the file for writing, without a buffer; it is created if missing, and links are not followed."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return FileIO(os.open(self.path, flags, 0o666), "r+b")

    def split(self) -> Segment | None:
        """Split the longest missing range and give the second half; None when no range is long enough."""
        segment = max(self.segments, key=lambda one: one.left)
        with segment.lock:
            if segment.left < 2 * SMALLEST:
                return None
            middle = segment.position + segment.left // 2
            new = Segment(middle, middle, segment.end)
            with self._lock:  # another connection must not record half of the change
                self.segments.insert(self.segments.index(segment) + 1, new)
                segment.end = middle
            self.note()  # before the first byte of `new`: from then on the length of the file is not the progress
        return new

    def note(self) -> None:
        """Record the positions of the segments, if there are several."""
        if len(self.segments) < 2:
            return
        with self._lock:
            table = [[one.start, one.position, one.end] for one in self.segments]
            record = json.dumps({"size": self.size, "segments": table}).encode().ljust(_RECORD)
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            with FileIO(os.open(self._notes, flags, 0o666), "wb") as file:
                file.write(record)

    def forget_notes(self) -> None:
        """Remove the record: the file is complete or deleted."""
        self._notes.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete everything and start from the beginning."""
        self.path.unlink(missing_ok=True)
        self.forget_notes()
        self.segments = [Segment(0, 0, self.size)]


def bytes_here(path: Path, size: int) -> int:
    """How many bytes of a file of `size` bytes are downloaded; read-only, because another process may be active."""
    try:
        segments = _segments(path, size, path.lstat().st_size)
    except OSError:
        return 0
    return sum(one.position - one.start for one in segments)


def _segments(path: Path, size: int, have: int) -> list[Segment]:
    """The segments from the record; without a record, one from the length of the file (`have`)."""
    notes = path.with_name(path.name + NOTES)
    if not os.path.lexists(notes) or notes.lstat().st_size == 0:  # empty: the process was killed before any gap
        return [Segment(0, have if have <= size else 0, size)]
    return (_recorded(notes, size, have) if have <= size else None) or [Segment(0, 0, size)]


def _recorded(notes: Path, size: int, have: int) -> list[Segment] | None:
    """The segments of the record; None if it is missing, not valid, or does not match the file."""
    try:
        if not stat.S_ISREG(notes.lstat().st_mode):
            return None
        with notes.open("rb") as file:
            data = json.loads(file.read(_MAX_RECORD))
        segments = [Segment(int(start), int(position), int(end)) for start, position, end in data["segments"]]
        if data["size"] != size:
            return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    edges = [0, *(segment.end for segment in segments)]
    is_valid = all(
        one.start == edge and edge <= one.position <= (min(one.end, have) if one.position > edge else one.end)
        for one, edge in zip(segments, edges, strict=False)
    )
    return segments if is_valid and edges[-1] == size else None


def _length(path: Path) -> int:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(info.st_mode):
        raise DiskError(f"{path} is not a regular file", "inspect it and remove it")
    return info.st_size
