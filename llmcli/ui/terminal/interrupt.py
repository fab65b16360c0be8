"""Ctrl-C that works at once, even while llama.cpp computes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmcli.engine.llama.bindings import AbortFlag

_pending = False  # Ctrl-C was pressed where there was nothing to stop yet


def _postpone(_number: int, _frame: FrameType | None) -> None:
    global _pending
    _pending = True


@contextmanager
def postponed() -> Iterator[None]:
    """Within this block Ctrl-C raises nothing: it stops the next `interruptible` block, or `forget` drops it.

    Code between two answers must not be interrupted: an import that is interrupted half-way keeps its lock.
    """
    old = signal.signal(signal.SIGINT, _postpone)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


@contextmanager
def raising() -> Iterator[None]:
    """Within this block Ctrl-C raises KeyboardInterrupt, in a `postponed` one too: for questions and downloads."""
    old = signal.getsignal(signal.SIGINT)
    if old is not _postpone:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def forget() -> None:
    """Drop a Ctrl-C that is still pending."""
    global _pending
    _pending = False


@contextmanager
def interruptible(abort: AbortFlag, presses: int = 2) -> Iterator[None]:
    """Within this block Ctrl-C sets `abort`; the last of so many `presses` raises KeyboardInterrupt.

    Python runs a signal handler only when the main thread comes back from C, which may take seconds. Its
    low-level handler however writes to the wake-up descriptor at once, and a thread that reads there sets the
    flag that llama.cpp looks at.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the background job of a shell ignores Ctrl-C
        yield
        return
    import socket  # 3 ms that run while the model is loading

    ends = {getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
    times = 0
    reader, writer = socket.socketpair()  # Windows takes nothing but sockets here
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1):
            if number[0] in ends:
                abort.set("interrupt")

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        abort.set("interrupt")
        if times >= presses:
            raise KeyboardInterrupt

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    old_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    old_handler = signal.signal(signal.SIGINT, handle)
    if _pending:
        forget()
        abort.set("interrupt")
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old_handler)
        signal.set_wakeup_fd(old_descriptor)
        writer.close()
        thread.join(1)
        reader.close()


@contextmanager
def time_limit(abort: AbortFlag, seconds: float) -> Iterator[None]:
    """Within this block `abort` is set after `seconds` (0 = never)."""
    if not seconds:
        yield
        return
    timer = threading.Timer(seconds, abort.set, ["timeout"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
