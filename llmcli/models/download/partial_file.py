"""Partial downloads: which bytes of a file are on disk, also after a crash; the space and the errors of the disk."""

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from llmcli.errors import DiskError, error_text
from llmcli.files import OPEN_SAFE
from llmcli.text import format_size

PARTIAL = ".llmcli.incomplete"  # the Hub's own tools list and prune files that end in .incomplete
RECORD_SUFFIX = ".ranges"
MIN_SPLIT = 8 << 20  # bytes; a smaller rest is not worth another connection
RESERVE = 64 << 20  # bytes of disk space that stay free
_RECORD_SIZE = 1024  # bytes, padded: each write must overwrite the one before completely
_MAX_RECORD = 1 << 20  # bytes
_BLOCK = 4 << 20  # bytes copied at a time
_FULL = errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)  # Windows has no EDQUOT


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

        Raises DiskError (something at `path` is not a regular file, for example a link) or OSError.
        """
        self.path, self.size = path, size
        self._lock = threading.Lock()
        self.segments = _read_segments(path, size)
        if not self.done:
            self.discard()
        elif len(self.segments) == 1:
            _record_path(path).unlink(missing_ok=True)

    @property
    def done(self) -> int:
        """Bytes downloaded so far."""
        return sum(segment.position - segment.start for segment in self.segments)

    @property
    def frontier(self) -> int:
        """The position of the first missing byte; the size when the file is complete."""
        return next((segment.position for segment in self.segments if segment.left > 0), self.size)

    def open(self, create: bool = True) -> FileIO:
        """Open the file for writing, without a buffer; links are not followed."""
        flags = os.O_RDWR | OPEN_SAFE | (os.O_CREAT if create else 0)
        return FileIO(os.open(self.path, flags, 0o666), "r+b")

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
            with FileIO(os.open(_record_path(self.path), flags, 0o666), "wb") as file:
                file.write(record)

    def discard(self) -> None:
        """Delete everything and start from the beginning."""
        delete_partial(self.path)
        self.segments = [Segment(0, 0, self.size)]

    def is_deleted(self, file: FileIO) -> bool:
        """Whether another program deleted or replaced the file, which is open as `file`."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return True

    def restore(self, file: FileIO) -> None:
        """Copy the deleted file, whose bytes are on disk as long as it is open as `file`. Raises OSError."""
        # New segments: a thread that still waits for the network can only move the old ones.
        segments = [Segment(old.start, old.position, old.end) for old in self.segments]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            file.seek(0)
            with self.open() as copy:
                shutil.copyfileobj(file, copy, _BLOCK)
        except OSError:
            self.discard()
            raise
        self.segments = segments
        self.record()

    def publish(self, target: Path) -> None:
        """Make the complete file the file `target`, in one step that survives a power cut. Raises OSError."""
        _sync_to_disk(self.path)
        os.replace(self.path, target)
        _record_path(self.path).unlink(missing_ok=True)
        _sync_to_disk(target.parent)


def partial_path(target: Path) -> Path:
    """The path of a file while it is downloaded."""
    return target.with_name(target.name + PARTIAL)


def bytes_downloaded(path: Path, size: int) -> int:
    """How many bytes of a file of `size` bytes are downloaded; read-only, because another process may be active."""
    try:
        return sum(segment.position - segment.start for segment in _read_segments(path, size))
    except (OSError, DiskError):
        return 0


def delete_partial(path: Path) -> None:
    """Delete a partial file and its record. Raises OSError."""
    path.unlink(missing_ok=True)
    _record_path(path).unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, needed: int, hint: str) -> Iterator[None]:
    """Raise DiskError if the disk of `folder` does not have `needed` bytes, and for an OSError in the block."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise DiskError(f"cannot use {folder}: {error_text(error)}", hint) from None
    if needed and free < needed + RESERVE:
        missing = format_size(max(needed + RESERVE - free, 1000))
        raise DiskError(
            f"the download needs {format_size(needed)}, and {format_size(RESERVE)} must stay free: {existing} has "
            f"{format_size(free)}, {missing} too little",
            f"free some disk space (`llmcli models rm`), or {hint}",
        )
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            again = "free some disk space, then run the command again to resume"
            raise DiskError(f"the disk is full: {folder}", again) from None
        raise DiskError(f"cannot write {error.filename or folder}: {error_text(error)}", hint) from None


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)


def _read_segments(path: Path, size: int) -> list[Segment]:
    """The segments in the record, if it is valid and fits the file; without one, the length of the file tells it."""
    length, record = 0, _record_path(path)
    with suppress(FileNotFoundError):
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise DiskError(f"{path} is not a regular file", "inspect it and remove it")
        length = info.st_size
    nothing = [Segment(0, 0, size)]
    if length > size:
        return nothing
    if not os.path.lexists(record) or record.lstat().st_size == 0:  # empty: the process was killed before any gap
        return [Segment(0, length, size)]
    import msgspec  # imported here: the lookup of a model needs only the paths

    try:
        with FileIO(os.open(record, os.O_RDONLY | OPEN_SAFE)) as file:
            data = msgspec.json.decode(file.read(_MAX_RECORD), type=_Record)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return nothing
    segments, edge = [Segment(*row) for row in data.segments], 0
    for segment in segments:
        limit = min(segment.end, length) if segment.position > segment.start else segment.end
        if segment.start != edge or not edge <= segment.position <= limit:
            return nothing
        edge = segment.end
    return segments if edge == size == data.size else nothing


def _sync_to_disk(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            raise
    finally:
        os.close(descriptor)
