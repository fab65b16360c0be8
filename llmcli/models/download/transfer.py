"""Download one file over one or more connections, and compute its checksum at the same time.

Each connection is a thread. Another thread reads the file back from the disk cache in order and hashes it, so that
one connection, several connections and a resumed download all work the same way.
"""

import errno
import hashlib
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from time import monotonic

from llmcli.models.download.partial_file import WRITTEN_DOWN, Partial, Segment
from llmcli.models.hub.ramp import Ramp
from llmcli.models.hub.retries import PassingError, Patience, Say
from llmcli.models.hub.source import Source
from llmcli.models.starter import Progress

_TICK = 0.1  # seconds between two updates of progress and connections
_PAUSE = 0.02  # seconds until the hasher checks for more bytes
_BLOCK = 4 << 20  # bytes hashed at a time


class Transfer:
    """One run of a download; `run` returns when the file is complete, or raises."""

    def __init__(self, source: Source, partial: Partial, progress: Progress, say: Say) -> None:
        self._source, self._partial, self._progress, self._say = source, partial, progress, say
        self._stop = threading.Event()
        self._moved = threading.Event()  # a connection has ended or failed
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
        hasher = threading.Thread(target=self._guarded, args=(self._hash,), daemon=True)
        hasher.start()
        try:
            for segment in [one for one in self._partial.segments if one.left > 0]:
                self._start(segment)
            self._watch(hasher)
        finally:
            self._stop.set()
            for thread in (*self._workers, hasher):
                thread.join(_TICK)  # a thread that waits for the network ends by itself and writes nothing more
            self._partial.note()
        if self._error:
            raise self._error
        return self._digest

    def _watch(self, hasher: threading.Thread) -> None:
        """Report progress and add connections as long as they pay, until everything is done."""
        ramp = Ramp(monotonic(), self._partial.done, max(1, len(self._workers)))
        while hasher.is_alive() and not self._error:
            self._progress(self._partial.done, self._partial.size)
            hasher.join(_TICK)
            ramp.look(monotonic(), self._partial.done)
            alive = sum(worker.is_alive() for worker in self._workers)
            if self._source.takes_ranges and 0 < alive < ramp.connections:
                segment = self._partial.split()
                if segment:
                    self._start(segment)
        self._progress(self._partial.done, self._partial.size)

    def _start(self, segment: Segment) -> None:
        thread = threading.Thread(target=self._guarded, args=(self._fetch, segment), daemon=True)
        self._workers.append(thread)
        thread.start()

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in this thread; the first error in any thread ends the download."""
        try:
            work(*arguments)
        except BaseException as error:
            self._error = self._error or error
            self._stop.set()
        finally:
            self._moved.set()

    def _fetch(self, segment: Segment) -> None:
        """Download one segment, with as many requests as necessary."""
        patience = Patience(self._say, stop=self._stop)
        with self._partial.open() as file:
            while segment.left > 0 and not self._stop.is_set():
                try:
                    self._stream(segment, file, patience)
                except PassingError as fault:
                    patience.wait(fault)

    def _stream(self, segment: Segment, file: FileIO, patience: Patience) -> None:
        unrecorded = 0
        file.seek(segment.position)
        with self._source.open(segment.position, segment.end) as pieces:
            for piece in pieces:
                if self._stop.is_set():
                    return
                n_bytes = self._write(segment, file, piece)
                patience.progressed(n_bytes)
                unrecorded += n_bytes
                if unrecorded >= WRITTEN_DOWN:
                    unrecorded = 0
                    self._partial.note()
                if segment.left <= 0:
                    return
        if segment.left > 0:
            raise PassingError("the connection was closed early")

    def _write(self, segment: Segment, file: FileIO, piece: bytes) -> int:
        with segment.lock:  # a split must not change the end during the write
            rest = memoryview(piece)[: segment.left]
            n_bytes = len(rest)
            while rest:  # an almost full disk takes only a part
                written = file.write(rest)
                segment.position += written
                rest = rest[written:]
        return n_bytes

    def _hash(self) -> None:
        """Hash the file up to the frontier; return when the whole file is hashed."""
        digest, offset = hashlib.sha256(), 0
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        with Path(self._partial.path).open("rb", buffering=0) as file:
            while offset < self._partial.size:
                ahead = min(self._partial.frontier - offset, _BLOCK)
                if ahead <= 0:
                    if self._stop.is_set():
                        return
                    # Not woken for each piece: threads that pass Python's lock back and forth halve the speed.
                    self._moved.wait(_PAUSE)
                    self._moved.clear()
                    continue
                n_bytes = file.readinto(view[:ahead]) or 0
                if not n_bytes:
                    raise OSError(errno.EIO, "the partial file was truncated", str(self._partial.path))
                digest.update(view[:n_bytes])
                offset += n_bytes
        self._digest = digest.hexdigest()
