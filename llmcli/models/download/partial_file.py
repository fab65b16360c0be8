"""Partial downloads: the bytes on disk, the lock of the process that downloads, and the list of interrupted ones."""

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import OPEN_SAFE, check_integer, check_text, read_note, write_note
from llmcli.models.download.http import Notify
from llmcli.models.hub import cache
from llmcli.models.hub.cache import models_of_repo

RECORD_INTERVAL = 512 << 10  # bytes of one segment between two records of its position
MIN_SPLIT = 8 << 20  # bytes; a smaller rest is not worth another connection
MAX_SIZE = 1 << 60  # bytes
RECORD_SUFFIX = ".ranges"
_RECORD_SIZE = 1024  # bytes, padded: each write must overwrite the one before completely
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


class PartialFile:
    """The state of one download. Segments are sorted and adjacent; all bytes before `frontier` are downloaded."""

    def __init__(self, path: Path, size: int) -> None:
        """Resume the file at `path`, or discard it if it is not valid.

        Raises:
            DiskError: there is something at `path` that is not a regular file, for example a link.
            OSError: the folder cannot be used.
        """
        self.path, self.size = path, size
        self._record = _segments_path(path)
        self._lock = threading.Lock()
        self.segments = _segments(path, size, _length(path))
        if not self.done:
            self.discard()
        elif len(self.segments) == 1:
            self.remove_record()

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
        return FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | OPEN_SAFE, 0o666), "r+b")

    def split(self) -> Segment | None:
        """Split the longest missing range and give the second half; None when no range is long enough."""
        segment = max(self.segments, key=lambda segment: segment.left)
        with segment.lock:
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


def bytes_downloaded(path: Path, size: int) -> int:
    """How many bytes of a file of `size` bytes are downloaded; read-only, because another process may be active."""
    try:
        segments = _segments(path, size, path.lstat().st_size)
    except OSError:
        return 0
    return sum(segment.position - segment.start for segment in segments)


@contextmanager
def exclusive(lock: Path, what: str, notify: Notify, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock for the time of the block. While another process has the lock, report it once and call `on_wait`.

    The lock only saves work: on a file system with broken locks, the checksum at the end still protects the file.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # imported here: 70 ms that only downloads need

    holder = lock.with_suffix(".llmcli")
    kind: type[FileLock] | type[SoftFileLock] = FileLock
    guard = kind(lock)
    reported = False
    while True:
        try:
            guard.acquire(timeout=0.5 if reported else 0)
            break
        except Timeout:
            if not reported:
                notify(f"waiting for {_holder_name(holder)} to download {what}")
            reported = True
            on_wait()
        except NotImplementedError:  # a file system without locks
            guard = SoftFileLock(lock)
    try:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
            with holder.open("x") as file:  # "x" does not follow a planted link
                file.write(f"{os.getpid()} {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        guard.release()


@contextmanager
def try_exclusive(lock: Path) -> Iterator[bool]:
    """Lock for the time of the block if no other process has the lock; gives whether it was free."""
    from filelock import FileLock, Timeout

    guard = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except NotImplementedError:  # a file system without locks
        yield True
        return
    try:
        yield True
    finally:
        guard.release()


@dataclass(frozen=True)
class InterruptedDownload:
    """An interrupted download. `name` is the reference to pull; `size` is 0 (unknown) if another program started it."""

    name: str
    path: Path
    downloaded: int
    size: int
    time: float

    @property
    def is_from_llmcli(self) -> bool:
        return ".llmcli." in self.path.name


def record_partial(data_dir: Path, partial: Path, reference: str, size: int) -> None:
    """Record the reference of a download that starts now; without the record, the download has no name."""
    with contextlib.suppress(OSError):
        write_note(_record_path(data_dir, partial), {"reference": reference, "size": size})


def discard_record(data_dir: Path, partial: Path) -> None:
    """Remove the record of a completed download."""
    with contextlib.suppress(OSError):
        _record_path(data_dir, partial).unlink(missing_ok=True)


def interrupted_downloads(hub: Path, cache_dir: Path, data_dir: Path) -> list[InterruptedDownload]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    paths = [*hub.glob("models--*/blobs/*.incomplete"), *(cache_dir / "urls").glob("*/*" + cache.PARTIAL)]
    found = [_interrupted(path, data_dir) for path in paths if path.is_file() and not path.is_symlink()]
    return sorted((item for item in found if item.downloaded), key=lambda item: -item.time)


def remove_interrupted(item: InterruptedDownload, data_dir: Path) -> bool:
    """Delete a partial download of llmcli; False if another program started it or it is active. Raises OSError."""
    if not item.is_from_llmcli:
        return False
    with try_exclusive(_lock_of(item.path)) as free:
        if free:
            item.path.unlink(missing_ok=True)
            _segments_path(item.path).unlink(missing_ok=True)
            discard_record(data_dir, item.path)
    return free


def has_complete_parts(item: InterruptedDownload) -> bool:
    """Whether the interrupted pull also left complete parts of a split model."""
    folder = item.path.parent.parent
    repo = cache.repo_of(folder.name)
    return bool(repo and models_of_repo(folder.parent, repo, whole=False))


def _segments(path: Path, size: int, have: int) -> list[Segment]:
    """The segments from the record; without a record, one from the length of the file (`have`)."""
    record = _segments_path(path)
    if not os.path.lexists(record) or record.lstat().st_size == 0:  # empty: the process was killed before any gap
        return [Segment(0, have if have <= size else 0, size)]
    return (_read_segments(record, size, have) if have <= size else None) or [Segment(0, 0, size)]


def _read_segments(record: Path, size: int, have: int) -> list[Segment] | None:
    """The segments of the record; None if it is missing, not valid, or does not match the file."""
    try:
        if not stat.S_ISREG(record.lstat().st_mode):
            return None
        with record.open("rb") as file:
            data = json.loads(file.read(_MAX_RECORD))
        segments = [Segment(int(start), int(position), int(end)) for start, position, end in data["segments"]]
        if data["size"] != size:
            return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    edges = [0, *(segment.end for segment in segments)]
    is_valid = all(
        segment.start == edge
        and edge <= segment.position <= (min(segment.end, have) if segment.position > edge else segment.end)
        for segment, edge in zip(segments, edges, strict=False)
    )
    return segments if is_valid and edges[-1] == size else None


def _segments_path(partial: Path) -> Path:
    return partial.with_name(partial.name + RECORD_SUFFIX)


def _length(path: Path) -> int:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(info.st_mode):
        raise DiskError(f"{path} is not a regular file", "inspect it and remove it")
    return info.st_size


def _holder_name(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid, host = holder.read_text()[:300].split()
        is_local = host == socket.gethostname()
        if is_local and not _is_running(int(pid)):
            return "another program"
        return f"process {int(pid)}" + ("" if is_local else f" on {host}")
    return "another program"


def _is_running(pid: int) -> bool:
    """Whether the process exists; a killed process leaves its file behind."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _lock_of(partial: Path) -> Path:
    """The lock file of this download."""
    target = partial.with_name(partial.name.removesuffix(cache.PARTIAL))
    if target.parent.name == "blobs":
        folder = target.parent.parent
        return folder.parent / ".locks" / folder.name / f"{target.name}.lock"
    return target.with_suffix(".lock")


def _interrupted(path: Path, data_dir: Path) -> InterruptedDownload:
    info, record = path.stat(), read_note(_record_path(data_dir, path))
    try:
        reference, size = (
            check_text(record["reference"], "reference"),
            check_integer(record["size"], "size", 1, MAX_SIZE),
        )
    except (KeyError, ValueError):
        reference, size = cache.repo_of(path.parent.parent.name) or path.name, 0
    downloaded = bytes_downloaded(path, size) if size else info.st_size
    return InterruptedDownload(reference, path, downloaded, size, info.st_mtime)


def _record_path(data_dir: Path, partial: Path) -> Path:
    return data_dir / "unfinished" / f"{partial.name.removesuffix(cache.PARTIAL)[:80]}.json"
