"""Download one file: lock, transfer over one or more connections, verify, publish.

Each connection is a thread. Another thread reads the file back from the disk cache in order and hashes it, so that
one connection, several connections and a resumed download all work the same way.
"""

import contextlib
import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from time import monotonic

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError
from llmcli.models.download.http import RemoteFile, RetryPolicy, TransientError
from llmcli.models.download.partial_file import PartialFile, Segment, partial_path
from llmcli.models.locations import Notify, Progress

WINDOW = 2.0  # seconds of one measurement
MIN_GAIN = 1.15  # minimal speed-up by one more connection
MAX_CONNECTIONS = 8
FAST_ENOUGH = 100e6  # bytes per second; above it this machine is the limit, and more connections only cost
RECORD_INTERVAL = 512 << 10  # bytes of one segment between two records of its position
_TICK = 0.1  # seconds between two updates of progress and connections
_PAUSE = 0.02  # seconds until the hasher checks for more bytes
_BLOCK = 4 << 20  # bytes hashed at a time
_MAX_RESTORED = 4  # runs of one download


def download_file(
    remote: RemoteFile,
    target: Path,
    name: str,
    progress: Progress,
    notify: Notify,
    check: Callable[[Path], object] = lambda _path: None,
) -> str:
    """Download the missing bytes, publish the file at `target` if it is sound, and give its sha256 in hex.

    A partial download that another program deletes meanwhile (`hf cache prune`) is restored where the system can.

    It must have the sha256 of `remote`, if that is known; `check` can raise for another fault, and the file is
    deleted then. `name` is for errors. Raises LlmcliError (also if the server refuses or fails), OSError or
    KeyboardInterrupt. The partial download is kept.
    """
    partial = PartialFile(partial_path(target), remote.size)
    digest = ""
    for _ in range(_MAX_RESTORED):
        if digest := Transfer(remote, partial, progress, notify).run():
            break
        notify("another program deleted the partial download; it is restored")
    if not digest:
        raise DiskError(
            f"another program deletes {partial.path} again and again", "stop it, then run the command again"
        )
    try:
        if remote.sha256 not in ("", digest):
            raise ModelInvalidError(
                f"checksum mismatch for {name}: got {digest}, expected {remote.sha256}",
                "try again later, or from another network",
            )
        check(partial.path)
    except LlmcliError:
        partial.discard()
        raise
    partial.publish(target)
    return digest


@contextmanager
def exclusive(lock: Path, what: str, notify: Notify, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock for the time of the block. While another process has the lock, report it once and call `on_wait`.

    The lock only saves work: on a file system with broken locks, the checksum at the end still protects the file.
    """
    from filelock import FileLock, Timeout  # imported here: 70 ms that only downloads need

    guard = FileLock(lock)
    try:
        guard.acquire(blocking=False)
    except Timeout:
        notify(f"waiting for another program to download {what}")
        while not guard.is_locked:
            on_wait()
            with contextlib.suppress(Timeout):
                guard.acquire(timeout=0.5)
    try:
        yield
    finally:
        guard.release()


class Transfer:
    """One run of a download; `run` returns when the file is complete or another program deleted it, or raises."""

    def __init__(self, remote: RemoteFile, partial: PartialFile, progress: Progress, notify: Notify) -> None:
        self._remote, self._partial, self._progress, self._notify = remote, partial, progress, notify
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._workers: list[threading.Thread] = []
        self._digest = ""

    def run(self) -> str:
        """Download the missing bytes and give the sha256 of the whole file, in hex. Raises as `download_file`.

        It is "" if another program deleted the file: its bytes are restored, and the next run downloads the rest.
        """
        with self._partial.open() as file:
            hasher = self._start(self._hash)
            try:
                for segment in [segment for segment in self._partial.segments if segment.left > 0]:
                    self._workers.append(self._start(self._download, segment))
                self._supervise(hasher, file)
            except FileNotFoundError:  # deleted between a look at it and the record of a new segment
                if not self._partial.is_deleted(file):
                    raise
            finally:
                self._stop.set()
                for thread in (*self._workers, hasher):
                    thread.join(_TICK)  # a thread that waits for the network ends by itself and writes nothing more
                if self._partial.is_deleted(file):
                    self._digest, self._error = "", None
                    self._partial.restore(file)
                self._partial.record()
        if self._error:
            raise self._error
        return self._digest

    def _supervise(self, hasher: threading.Thread, file: FileIO) -> None:
        """Report progress and add connections as long as they pay, until everything is done or the file is deleted."""
        ramp = ConnectionRamp(monotonic(), self._partial.done, max(1, len(self._workers)))
        while hasher.is_alive() and not self._error and not self._partial.is_deleted(file):
            self._progress(self._partial.done, self._partial.size)
            hasher.join(_TICK)
            ramp.update(monotonic(), self._partial.done)
            alive = sum(worker.is_alive() for worker in self._workers)
            if self._remote.supports_ranges and 0 < alive < ramp.connections:
                segment = self._partial.split()
                if segment:
                    self._workers.append(self._start(self._download, segment))
        self._progress(self._partial.done, self._partial.size)

    def _start(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        """Run `work` in a thread; the first error in any thread ends the download."""

        def run_guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self._error = self._error or error
                self._stop.set()

        thread = threading.Thread(target=run_guarded, daemon=True)
        thread.start()
        return thread

    def _download(self, segment: Segment) -> None:
        """Download one segment, with as many requests as necessary."""
        retries = RetryPolicy(self._notify, stop=self._stop)
        with self._partial.open(create=False) as file:  # a deleted one is restored with its bytes, not created empty
            retries.run(lambda: self._stream(segment, file, retries))

    def _stream(self, segment: Segment, file: FileIO, retries: RetryPolicy) -> None:
        """Download with one request. Raises TransientError when it ends early."""
        if segment.left <= 0 or self._stop.is_set():
            return
        unrecorded = 0
        file.seek(segment.position)
        with self._remote.open(segment.position, segment.end) as pieces:
            for piece in pieces:
                if self._stop.is_set():
                    return
                rest = memoryview(piece)[: segment.left]
                retries.progressed(len(rest))
                unrecorded += len(rest)
                while rest:  # an almost full disk takes only a part
                    written = file.write(rest)
                    segment.position += written
                    rest = rest[written:]
                if unrecorded >= RECORD_INTERVAL:
                    unrecorded = 0
                    self._partial.record()
                if segment.left <= 0:
                    return
        if segment.left > 0:
            raise TransientError("the connection was closed early")

    def _hash(self) -> None:
        """Hash the file up to the frontier; return when the whole file is hashed."""
        digest, offset = hashlib.sha256(), 0
        view = memoryview(bytearray(_BLOCK))
        with self._partial.path.open("rb", buffering=0) as file:
            while offset < self._partial.size:
                ahead = min(self._partial.frontier - offset, _BLOCK)
                if ahead <= 0:
                    # Not woken for each piece: threads that pass Python's lock back and forth halve the speed.
                    if self._stop.wait(_PAUSE):
                        return
                    continue
                n_bytes = file.readinto(view[:ahead]) or 0
                if not n_bytes:
                    raise OSError(errno.EIO, "the partial file was truncated", str(self._partial.path))
                digest.update(view[:n_bytes])
                offset += n_bytes
        self._digest = digest.hexdigest()


class ConnectionRamp:
    """The number of connections of one download; `now` is in monotonic seconds, `done` in bytes."""

    def __init__(self, now: float, done: int, connections: int = 1) -> None:
        self.connections = connections  # the target
        self._start, self._done = now, done
        self._best = 0.0
        self._is_final = False

    def update(self, now: float, done: int) -> None:
        """Compare the speed of the last window with the best speed so far, and add a connection if it pays."""
        if self._is_final or now - self._start < WINDOW:
            return
        speed = (done - self._done) / (now - self._start)
        self._start, self._done = now, done
        self._is_final = self.connections >= MAX_CONNECTIONS or speed < self._best * MIN_GAIN or speed > FAST_ENOUGH
        self._best = max(self._best, speed)
        if not self._is_final and speed > 0:
            self.connections += 1
