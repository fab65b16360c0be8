"""Whether llama.cpp waits for an RPC server in vain: its connections, and the calls that last."""

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, process_time, thread_time
from typing import Any

from llmcli.engine.llama import bindings, hardware

_TICK = 0.25  # seconds between two looks at a call
HURRY = 10.0  # seconds that a call may go on whose result nobody wants
_LEAST_CPU = 0.01  # share of a core: a call that computes uses more, one that waits uses less
_ACKNOWLEDGED = 120  # offset of the bytes that were acknowledged, then received: linux/tcp.h, `tcp_info`
_TCP_INFO = 11  # linux/tcp.h
# The functions of llama.cpp that can wait for a server, also where it is only asked for its free memory.
_REMOTE = (
    *("llama_model_load_from_splits", "llama_model_free", "llama_init_from_model", "llama_free"),
    *("llama_decode", "llama_encode", "llama_synchronize", "llama_get_logits", "llama_get_logits_ith"),
    *("llama_get_embeddings", "llama_get_embeddings_ith", "llama_get_embeddings_seq", "llama_memory_clear"),
    *("llama_memory_seq_rm", "llama_memory_seq_cp", "llama_state_seq_get_size", "llama_state_seq_get_data"),
    *("llama_state_seq_set_data", "llama_state_seq_save_file", "llama_state_seq_load_file"),
)
_REMOTE_OF_GGML = ("ggml_backend_dev_memory",)


def connections() -> list[tuple[tuple[str, int], int]]:
    """Address and port at the other ends of the TCP connections of this process; none on Windows.

    With each the bytes in both directions, where the system tells them (Linux); else 0.
    """
    found = []
    for one in open_connections():
        with suppress(OSError), one:
            found.append((one.getpeername()[:2], bytes_moved(one)))
    return found


def open_connections() -> Iterator[socket.socket]:
    """The TCP connections of this process, each as a socket that the caller closes; none on Windows."""
    if sys.platform == "win32" or not os.path.isdir("/dev/fd"):
        return
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            number = os.dup(int(name))  # ggml may close its own at any time
            try:
                one = socket.socket(fileno=number)
            except OSError:  # another file
                os.close(number)
                continue
            if one.family == socket.AF_INET and one.type == socket.SOCK_STREAM and _is_connected(one):
                yield one
            else:
                one.close()


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:  # it listens, or its end has come
        return False
    return True


def bytes_moved(one: socket.socket) -> int:
    """The bytes in both directions, where the system tells them (Linux); else 0."""
    if not sys.platform.startswith("linux"):
        return 0
    data = one.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
    return sum(struct.unpack_from("=QQ", data, _ACKNOWLEDGED)) if len(data) >= _ACKNOWLEDGED + 16 else 0


class Watch:
    """Calls `on_stall` when a call of llama.cpp goes on for `seconds` without a sign of life.

    A call whose result nobody wants may do that for `HURRY` only, and ends after `seconds` with signs of life too: a
    server may send a byte now and then without an end. `on_stall` gets the seconds, and whether it was not wanted.

    A sign of life is a byte on a connection, or work of this process: then the call computes here. Time in which this
    process is stopped, as by a laptop that sleeps, does not count.
    """

    def __init__(self, seconds: float, on_stall: Callable[[float, bool], object]) -> None:
        self._seconds, self._on_stall = seconds, on_stall
        self._calls: set[object] = set()
        self._unwanted: set[object] = set()  # those whose result nobody wants
        self._known: set[object] = set()  # those of the last look
        # Seconds without a sign of life, seconds in which they were not wanted, and the last signs: work, and bytes.
        self._waited, self._waited_unwanted, self._signs = 0.0, 0.0, (0.0, 0)

    def start(self) -> None:
        """Watch all calls from now on."""
        hardware.device_handles()  # sets the types of the functions of ggml, once
        libraries: tuple[tuple[object, Sequence[str]], ...] = (
            (bindings.load(), _REMOTE),
            (bindings.ggml(), _REMOTE_OF_GGML),
        )
        for library, names in libraries:
            for name in names:
                if hasattr(library, name):
                    setattr(library, name, self._watched(getattr(library, name)))
        threading.Thread(target=self._run, daemon=True).start()

    def hurry(self) -> None:
        """Nobody wants the result of the calls that go on: wait for a short time only."""
        self._unwanted = self._calls.copy()

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call that can wait for a server."""
        mark = object()
        self._calls.add(mark)
        try:
            yield
        finally:
            self._calls.discard(mark)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self.call():
                return function(*arguments)

        return call

    def _run(self) -> None:
        pause, is_over = threading.Event(), False
        while not is_over:
            begin = monotonic()
            pause.wait(_TICK)
            is_over = self.look(monotonic() - begin)

    def look(self, elapsed: float) -> bool:
        """See what goes on, so many seconds after the last look. Whether it has told of a call that waits in vain."""
        calls = self._calls.copy()
        if not calls & self._known:
            self._known, self._waited, self._waited_unwanted = calls, 0.0, 0.0
            return False
        self._known &= calls
        moved = sum(n for _, n in connections())
        work = process_time() - thread_time()  # without what this look itself takes
        is_alive = moved != self._signs[1] or work - self._signs[0] > _LEAST_CPU * elapsed
        self._signs = work, moved
        counted = min(elapsed, 2 * _TICK)
        self._waited = 0.0 if is_alive else self._waited + counted
        self._waited_unwanted = self._waited_unwanted + counted if self._known & self._unwanted else 0.0
        is_unwanted = self._waited_unwanted > 0
        is_over = self._waited >= (min(self._seconds, HURRY) if is_unwanted else self._seconds)
        if is_over or self._waited_unwanted >= max(self._seconds, HURRY):
            self._on_stall(max(self._waited, self._waited_unwanted), is_unwanted)
            return True
        return False
