"""Download one file over one or more connections, and compute its checksum at the same time.

Each connection is a thread. Another thread reads the file back from the disk cache in order and hashes it, so that
one connection, several connections and a resumed download all work the same way.
"""

import errno
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from time import monotonic
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, NetworkError
from llmcli.models.download.http import RetryPolicy, TransientError, host_of, request, same_origin
from llmcli.models.download.partial_file import RECORD_INTERVAL, PartialFile, Segment
from llmcli.models.locations import Notify, Progress

if TYPE_CHECKING:
    import httpx2

WINDOW = 2.0  # seconds of one measurement
MIN_GAIN = 1.15  # minimal speed-up by one more connection
MAX_CONNECTIONS = 8
FAST_ENOUGH = 100e6  # bytes per second; above it this machine is the limit, and more connections only cost
MAX_RANGE = 32 << 30  # bytes of one request: content delivery networks cut longer responses (at 50 GB)
_TICK = 0.1  # seconds between two updates of progress and connections
_PAUSE = 0.02  # seconds until the hasher checks for more bytes
_BLOCK = 4 << 20  # bytes hashed at a time
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RemoteFile:
    """A file of `size` bytes on a server; a subclass knows more of what its server sends."""

    def __init__(self, url: str, headers: Mapping[str, str], size: int) -> None:
        self.url, self.headers, self.size = url, headers, size
        self.supports_ranges = False  # known after the first response
        self._signed = ""  # the URL of the last redirect; it expires

    @contextmanager
    def open(self, first: int, end: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `first` to `end` (exclusive), in pieces; the server can send fewer or more.

        Raises:
            TransientError: a transient error.
            LlmcliError: a permanent error.
        """
        last = min(end, first + MAX_RANGE) - 1
        url, headers = (self._signed, {}) if self._signed else (self.url, self.headers)
        with request(url, {**headers, "range": f"bytes={first}-{last}"}, to_other_hosts=True) as response:
            is_redirected = not same_origin(str(response.url), self.url)
            if response.status_code not in (200, 206):
                self._signed = ""
                raise self._refusal(response, is_redirected)
            for own in (*response.history, response):
                if same_origin(str(own.url), self.url):
                    self.check(own)
            skip = self._check_range(response, first)
            self._signed = str(response.url) if is_redirected else ""
            yield _skip_bytes(response.iter_raw(), skip)

    def read(self, first: int, end: int, retries: RetryPolicy) -> bytes:
        """The bytes from `first` to `end` (exclusive), with as many requests as necessary. Raises LlmcliError."""
        data = bytearray()

        def attempt() -> None:
            with self.open(first + len(data), end) as pieces:
                for piece in pieces:
                    data.extend(piece[: end - first - len(data)])
                    if len(data) == end - first:
                        return
            raise TransientError("the connection was closed early")

        retries.run(attempt)
        return bytes(data)

    def check(self, response: "httpx2.Response") -> None:
        """Raise NetworkError when a response of this server tells of another file."""

    def error(self, response: "httpx2.Response") -> LlmcliError:
        """The error for a permanent refusal of this server."""
        return NetworkError(f"{host_of(self.url)} returned status {response.status_code}", "try again later")

    def _refusal(self, response: "httpx2.Response", is_redirected: bool) -> Exception:
        host = host_of(str(response.url))
        if response.status_code == 416:
            return TransientError(f"{host} rejected the byte range")
        if is_redirected:  # an expired URL; the server gives a new one
            return TransientError(f"{host} rejected the signed URL (status {response.status_code})")
        return self.error(response)

    def _check_range(self, response: "httpx2.Response", first: int) -> int:
        """How many bytes of the response to skip before `first`; TransientError when it is not the file."""
        host, headers = host_of(str(response.url)), response.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise TransientError(f"{host} sent an unexpected Content-Encoding")
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            if not match or (int(match[1]), int(match[3])) != (first, self.size):
                raise TransientError(f"{host} returned the wrong byte range")
            self.supports_ranges = True
            return 0
        length = headers.get("content-length", "")
        if "text/html" in headers.get("content-type", "") or (length.isdigit() and int(length) != self.size):
            raise TransientError(f"{host} returned something other than the file")
        return first


def _skip_bytes(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without their first `skip` bytes: a server without ranges starts from the beginning each time."""
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:] if skip else piece
        skip = 0


class Transfer:
    """One run of a download; `run` returns when the file is complete, or raises."""

    def __init__(self, remote: RemoteFile, partial: PartialFile, progress: Progress, notify: Notify) -> None:
        self._remote, self._partial, self._progress, self._notify = remote, partial, progress, notify
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._workers: list[threading.Thread] = []
        self._digest = ""

    def run(self) -> str:
        """Download the missing bytes and give the sha256 of the whole file, in hex.

        Raises:
            LlmcliError: the server refuses, or fails too often.
            OSError: the disk fails.
            KeyboardInterrupt: on Ctrl-C. In all cases the partial download is kept.
        """
        self._partial.open().close()
        hasher = threading.Thread(target=self._run_guarded, args=(self._hash,), daemon=True)
        hasher.start()
        try:
            for segment in [segment for segment in self._partial.segments if segment.left > 0]:
                self._start(segment)
            self._supervise(hasher)
        finally:
            self._stop.set()
            for thread in (*self._workers, hasher):
                thread.join(_TICK)  # a thread that waits for the network ends by itself and writes nothing more
            self._partial.record()
        if self._error:
            raise self._error
        return self._digest

    def _supervise(self, hasher: threading.Thread) -> None:
        """Report progress and add connections as long as they pay, until everything is done."""
        ramp = ConnectionRamp(monotonic(), self._partial.done, max(1, len(self._workers)))
        while hasher.is_alive() and not self._error:
            self._progress(self._partial.done, self._partial.size)
            hasher.join(_TICK)
            ramp.update(monotonic(), self._partial.done)
            alive = sum(worker.is_alive() for worker in self._workers)
            if self._remote.supports_ranges and 0 < alive < ramp.connections:
                segment = self._partial.split()
                if segment:
                    self._start(segment)
        self._progress(self._partial.done, self._partial.size)

    def _start(self, segment: Segment) -> None:
        thread = threading.Thread(target=self._run_guarded, args=(self._fetch, segment), daemon=True)
        self._workers.append(thread)
        thread.start()

    def _run_guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in this thread; the first error in any thread ends the download."""
        try:
            work(*arguments)
        except BaseException as error:
            self._error = self._error or error
            self._stop.set()

    def _fetch(self, segment: Segment) -> None:
        """Download one segment, with as many requests as necessary."""
        retries = RetryPolicy(self._notify, stop=self._stop)
        with self._partial.open() as file:
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
