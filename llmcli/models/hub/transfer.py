"""Fetching one file: connections that fill it, a reader behind them that computes its checksum, and their end.

Each connection is a thread that waits for the network; the checksum is read back from the disk's cache, in order,
so that one connection, several, and a download taken up again are the same work.
"""

import errno
import hashlib
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from time import monotonic

from llmcli.models.hub.partial import WRITTEN_DOWN, Partial, Segment
from llmcli.models.hub.ramp import Ramp
from llmcli.models.hub.retries import PassingError, Patience, Say
from llmcli.models.hub.source import Source
from llmcli.models.starter import Progress

_TICK = 0.1  # seconds between two looks at the work
_PAUSE = 0.02  # seconds until the checksum looks for more bytes
_BLOCK = 4 << 20  # bytes hashed at a time


class Transfer:
    """One run of a download; `run` returns when every byte is there, or raises."""

    def __init__(self, source: Source, partial: Partial, progress: Progress, say: Say) -> None:
        self._source, self._partial, self._progress, self._say = source, partial, progress, say
        self._stop = threading.Event()
        self._moved = threading.Event()  # a connection has ended or failed
        self._fault: BaseException | None = None
        self._workers: list[threading.Thread] = []
        self._digest = ""

    def run(self) -> str:
        """Fetch what is missing and give the sha256 of the whole file, in hex.

        Raises:
            LlmcliError: when the source refuses, or fails too often.
            OSError: when the disk does.
            KeyboardInterrupt: on Ctrl-C; what has come stays in every case.
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
                thread.join(_TICK)  # one that waits for the network ends by itself, and writes nothing more
            self._partial.note()
        if self._fault:
            raise self._fault
        return self._digest

    def _watch(self, hasher: threading.Thread) -> None:
        """Until all is done: progress, and more connections as long as they pay."""
        ramp = Ramp(monotonic(), self._partial.done, max(1, len(self._workers)))
        while hasher.is_alive() and not self._fault:
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
        """Run `work` in this thread; the first fault of any ends all."""
        try:
            work(*arguments)
        except BaseException as error:
            self._fault = self._fault or error
            self._stop.set()
        finally:
            self._moved.set()

    def _fetch(self, segment: Segment) -> None:
        """Fill one segment, through as many requests as it takes."""
        patience = Patience(self._say, stop=self._stop)
        with self._partial.open() as file:
            while segment.left > 0 and not self._stop.is_set():
                try:
                    self._stream(segment, file, patience)
                except PassingError as fault:
                    patience.wait(fault)

    def _stream(self, segment: Segment, file: FileIO, patience: Patience) -> None:
        unnoted = 0
        file.seek(segment.position)
        with self._source.open(segment.position, segment.end) as pieces:
            for piece in pieces:
                if self._stop.is_set():
                    return
                n_bytes = self._write(segment, file, piece)
                patience.progressed(n_bytes)
                unnoted += n_bytes
                if unnoted >= WRITTEN_DOWN:
                    unnoted = 0
                    self._partial.note()
                if segment.left <= 0:
                    return
        if segment.left > 0:
            raise PassingError("the connection ended too early")

    def _write(self, segment: Segment, file: FileIO, piece: bytes) -> int:
        with segment.lock:  # a split must not move the end while we write up to it
            rest = memoryview(piece)[: segment.left]
            n_bytes = len(rest)
            while rest:  # a disk that fills up takes a part first
                written = file.write(rest)
                segment.position += written
                rest = rest[written:]
        return n_bytes

    def _hash(self) -> None:
        """Follow the frontier; the thread ends when the whole file is hashed."""
        digest, offset = hashlib.sha256(), 0
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        with Path(self._partial.path).open("rb", buffering=0) as file:
            while offset < self._partial.size:
                ahead = min(self._partial.frontier - offset, _BLOCK)
                if ahead <= 0:
                    if self._stop.is_set():
                        return
                    # Not woken for each piece: threads that hand Python's lock to and fro cost half the speed.
                    self._moved.wait(_PAUSE)
                    self._moved.clear()
                    continue
                n_bytes = file.readinto(view[:ahead]) or 0
                if not n_bytes:
                    raise OSError(errno.EIO, "the partial file became shorter", str(self._partial.path))
                digest.update(view[:n_bytes])
                offset += n_bytes
        self._digest = digest.hexdigest()
