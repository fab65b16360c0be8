"""Which bytes of a file have come already? A partial file on disk, which any later process can take up again.

While one connection fills it, its length says how far it is. With several there are gaps, so their positions are
kept beside it in `<name>.ranges`, one short write after the data it speaks of: a killed process loses no more than
what it had not written down. Whether the bytes are right is for the checksum at the end.
"""

import json
import os
import stat
import threading
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from llmcli.errors import DiskError

WRITTEN_DOWN = 512 << 10  # bytes of one segment between two notes of its position
SMALLEST = 8 << 20  # bytes; a shorter rest is not worth another connection
NOTES = ".ranges"
_RECORD = 1024  # bytes; a note has this length or, of many segments, more: one write covers the one before
_LONGEST = 1 << 20  # bytes of a note


@dataclass
class Segment:
    """Bytes `position` to `end` (exclusive) are missing; a split may bring `end` nearer."""

    start: int
    position: int
    end: int
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def left(self) -> int:
        return self.end - self.position


class Partial:
    """The state of one download. Segments are in order and touch; everything before `frontier` is there."""

    def __init__(self, path: Path, size: int) -> None:
        """Take up what lies at `path`; what cannot be right is thrown away.

        Raises:
            DiskError: when something else than a file lies there, a link for instance.
            OSError: when the folder cannot be used.
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
        """Bytes that are there."""
        return sum(segment.position - segment.start for segment in self.segments)

    @property
    def frontier(self) -> int:
        """The first byte that is missing; the size when none is."""
        return next((segment.position for segment in self.segments if segment.left > 0), self.size)

    def open(self) -> FileIO:
        """The file for writing, without a buffer; made when it is not there, never through a link."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return FileIO(os.open(self.path, flags, 0o666), "r+b")

    def split(self) -> Segment | None:
        """Cut the longest missing range in two and give the second half; None when none is long enough."""
        segment = max(self.segments, key=lambda one: one.left)
        with segment.lock:
            if segment.left < 2 * SMALLEST:
                return None
            middle = segment.position + segment.left // 2
            new = Segment(middle, middle, segment.end)
            with self._lock:  # another connection must not note the half of it
                self.segments.insert(self.segments.index(segment) + 1, new)
                segment.end = middle
            self.note()  # before its first byte: from here on the length of the file says nothing
        return new

    def note(self) -> None:
        """Write the positions down, if there are several."""
        if len(self.segments) < 2:
            return
        with self._lock:
            table = [[one.start, one.position, one.end] for one in self.segments]
            record = json.dumps({"size": self.size, "segments": table}).encode().ljust(_RECORD)
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            with FileIO(os.open(self._notes, flags, 0o666), "wb") as file:
                file.write(record)

    def forget_notes(self) -> None:
        """Remove the note: the file is whole, or gone."""
        self._notes.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw everything away and begin anew."""
        self.path.unlink(missing_ok=True)
        self.forget_notes()
        self.segments = [Segment(0, 0, self.size)]


def bytes_here(path: Path, size: int) -> int:
    """How much of a file of `size` bytes lies at `path`; nothing is changed, for another process may be at it."""
    try:
        segments = _segments(path, size, path.lstat().st_size)
    except OSError:
        return 0
    return sum(one.position - one.start for one in segments)


def _segments(path: Path, size: int, have: int) -> list[Segment]:
    """What is there, by the note or else by the length of the file: a file that had a note may have gaps."""
    notes = path.with_name(path.name + NOTES)
    if not os.path.lexists(notes) or notes.lstat().st_size == 0:  # 0: killed when it was begun, before any gap
        return [Segment(0, have if have <= size else 0, size)]
    return (_noted(notes, size, have) if have <= size else None) or [Segment(0, 0, size)]


def _noted(notes: Path, size: int, have: int) -> list[Segment] | None:
    """The segments of the note, if there is one and it fits the file."""
    try:
        if not stat.S_ISREG(notes.lstat().st_mode):
            return None
        with notes.open("rb") as file:
            data = json.loads(file.read(_LONGEST))
        segments = [Segment(int(start), int(position), int(end)) for start, position, end in data["segments"]]
        if data["size"] != size:
            return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    edges = [0, *(segment.end for segment in segments)]
    sound = all(
        one.start == edge and edge <= one.position <= (min(one.end, have) if one.position > edge else one.end)
        for one, edge in zip(segments, edges, strict=False)
    )
    return segments if sound and edges[-1] == size else None


def _length(path: Path) -> int:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(info.st_mode):
        raise DiskError(f"{path} is no file but a link or folder that llmcli did not make", "Look at it and remove it.")
    return info.st_size
