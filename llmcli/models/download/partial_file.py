"""Partial downloads: which bytes of a file are on disk, also after a crash."""

import json
import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import OPEN_SAFE

PARTIAL = ".llmcli.incomplete"  # the Hub's own tools list and prune files that end in .incomplete
RECORD_INTERVAL = 512 << 10  # bytes of one segment between two records of its position
MIN_SPLIT = 8 << 20  # bytes; a smaller rest is not worth another connection
RECORD_SUFFIX = ".ranges"
_RECORD_SIZE = 1024  # bytes, padded: each write must overwrite the one before completely
_MAX_RECORD = 1 << 20  # bytes


@dataclass
class Segment:
    """Bytes `position` to `end` (exclusive) are missing; a split can decrease `end`."""

    start: int
    position: int
    end: int

    @property
    def left(self) -> int:
        return self.end - self.position


@dataclass
class _Record:
    """The file beside a partial file with several segments: start, position and end of each."""

    size: int
    segments: list[tuple[int, int, int]]


class PartialFile:
    """The state of one download. Segments are sorted and adjacent; all bytes before `frontier` are downloaded."""

    def __init__(self, path: Path, size: int) -> None:
        """Resume the file at `path`, or discard it if it is not valid.

        Raises:
            DiskError: there is something at `path` that is not a regular file, for example a link.
            OSError: the folder cannot be used.
        """
        self.path, self.size = path, size
        self._record = _record_path(path)
        self._lock = threading.Lock()
        self.segments = _read_segments(path, size)
        if not self.done:
            self.discard()
        elif len(self.segments) == 1:
            self.remove_record()

    @property
    def done(self) -> int:
        """Bytes downloaded so far."""
        return _done(self.segments)

    @property
    def frontier(self) -> int:
        """The position of the first missing byte; the size when the file is complete."""
        return next((segment.position for segment in self.segments if segment.left > 0), self.size)

    def open(self) -> FileIO:
        """Open the file for writing, without a buffer; it is created if missing, and links are not followed."""
        return FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | OPEN_SAFE, 0o666), "r+b")

    def split(self) -> Segment | None:
        """Split the longest missing range and give the second half; None when no range is long enough.

        The first half keeps at least MIN_SPLIT bytes: its connection can finish the piece that it writes now.
        """
        segment = max(self.segments, key=lambda segment: segment.left)
        if segment.left < 2 * MIN_SPLIT:
            return None
        middle = segment.position + segment.left // 2
        new = Segment(middle, middle, segment.end)
        with self._lock:  # another connection must not record half of the change
            self.segments.insert(self.segments.index(segment) + 1, new)
            segment.end = middle
        self.record()  # before the first byte of `new`: from then on the length of the file is not the progress
        return new

    def record(self) -> None:
        """Record the positions of the segments, if there are several."""
        if len(self.segments) < 2:
            return
        with self._lock:
            table = [[segment.start, segment.position, segment.end] for segment in self.segments]
            record = json.dumps({"size": self.size, "segments": table}).encode().ljust(_RECORD_SIZE)
            # In place: an atomic replacement several times a second would slow down the download.
            flags = os.O_WRONLY | os.O_CREAT | OPEN_SAFE
            with FileIO(os.open(self._record, flags, 0o666), "wb") as file:
                file.write(record)

    def remove_record(self) -> None:
        """Remove the record: the file is complete or deleted."""
        self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete everything and start from the beginning."""
        self.path.unlink(missing_ok=True)
        self.remove_record()
        self.segments = [Segment(0, 0, self.size)]


def partial_path(target: Path) -> Path:
    """The path of a file while it is downloaded."""
    return target.with_name(target.name + PARTIAL)


def bytes_downloaded(path: Path, size: int) -> int:
    """How many bytes of a file of `size` bytes are downloaded; read-only, because another process may be active."""
    try:
        return _done(_read_segments(path, size))
    except (OSError, DiskError):
        return 0


def _done(segments: Iterable[Segment]) -> int:
    return sum(segment.position - segment.start for segment in segments)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)


def _read_segments(path: Path, size: int) -> list[Segment]:
    """The segments in the record; without a record, one that the length of the file tells."""
    length, record = 0, _record_path(path)
    with suppress(FileNotFoundError):
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise DiskError(f"{path} is not a regular file", "inspect it and remove it")
        length = info.st_size
    if length > size:
        return [Segment(0, 0, size)]
    if not os.path.lexists(record) or record.lstat().st_size == 0:  # empty: the process was killed before any gap
        return [Segment(0, length, size)]
    return _recorded_segments(record, size, length) or [Segment(0, 0, size)]


def _recorded_segments(record: Path, size: int, length: int) -> list[Segment] | None:
    """The segments of the record; None if it is not valid, or does not match a file of `length` bytes."""
    import msgspec  # imported here: the lookup of a model needs only the paths

    try:
        with FileIO(os.open(record, os.O_RDONLY | OPEN_SAFE)) as file:
            data = msgspec.json.decode(file.read(_MAX_RECORD), type=_Record)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    segments = [Segment(*row) for row in data.segments]
    edge = 0
    for segment in segments:
        limit = min(segment.end, length) if segment.position > segment.start else segment.end
        if segment.start != edge or not edge <= segment.position <= limit:
            return None
        edge = segment.end
    return segments if edge == size == data.size else None
