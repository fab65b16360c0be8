"""Ctrl-C, SIGTERM, and keys that are typed while the program works."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from llmcli.engine.events import Cancellation

_pending = False  # Ctrl-C was pressed where there was nothing to stop yet
_without_echo: "_Terminal | None" = None  # the terminal, inside `disable_echo`
_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"


@contextmanager
def interruptible(abort: Cancellation, presses: int = 2) -> Iterator[None]:
    """Within this block Ctrl-C sets `abort`; the last of `presses` presses raises KeyboardInterrupt.

    Python runs a signal handler only when the main thread comes back from C, which may take seconds. Its
    low-level handler however writes to the wake-up descriptor at once, and a thread that reads there sets the
    flag that llama.cpp looks at.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the background job of a shell ignores Ctrl-C
        yield
        return
    import socket  # 3 ms that run while the model is loading

    ends = {getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
    count = 0
    reader, writer = socket.socketpair()  # on Windows only a socket can be the wake-up descriptor
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1):
            if number[0] in ends:
                abort.set("interrupt")

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        abort.set("interrupt")
        if count >= presses:
            raise KeyboardInterrupt

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    old_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    old_handler = signal.signal(signal.SIGINT, handle)
    if _pending:
        clear_pending()
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
def time_limit(abort: Cancellation, seconds: float) -> Iterator[None]:
    """Within this block `abort` is set after `seconds` (0 = never)."""
    if not seconds:
        yield
        return
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), abort.set, ["timeout"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Within this block Ctrl-C raises nothing: it stops the next `interruptible` block, or `clear_pending` drops it.

    Code between two answers must not be interrupted: an import that is interrupted half-way keeps its lock.
    """
    old = signal.signal(signal.SIGINT, _postpone)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


@contextmanager
def allow_interrupt() -> Iterator[None]:
    """Within this block Ctrl-C raises KeyboardInterrupt, also inside `defer_interrupt`: for questions and downloads."""
    old = signal.getsignal(signal.SIGINT)
    if old is not _postpone:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def clear_pending() -> None:
    """Drop a Ctrl-C that is still pending."""
    global _pending
    _pending = False


def _postpone(_number: int, _frame: FrameType | None) -> None:
    global _pending
    _pending = True


class TerminatedError(SystemExit):
    """SIGTERM ended the program, or SIGHUP did (its terminal was closed); the exit status says which."""


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Within this block SIGTERM and SIGHUP raise TerminatedError, so that everything is closed in good order."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise TerminatedError(128 + number)

    with _handle_signals(end):
        yield


@contextmanager
def defer_exit() -> Iterator[None]:
    """Within this block the first of these signals waits for the end of the block; the second one does not.

    An exception that is raised in a callback of llama.cpp is lost.
    """
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise TerminatedError(128 + number)

    try:
        with _handle_signals(end):
            yield
    finally:
        if received:
            raise TerminatedError(128 + received[0])


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in kept.items():
            signal.signal(number, old)


@contextmanager
def disable_echo(live: bool) -> Iterator[None]:
    """Within this block keys are not echoed, Enter stays the key it is, and pastes keep their brackets.

    Ctrl-C and Ctrl-Z work as usual. A prompt inside sets its own state, and restores this one; a block inside another
    only turns bracketed paste on again, which a prompt turns off.
    """
    global _without_echo
    if _without_echo:
        _without_echo.bracket()
        yield
        return
    if not live or sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    try:
        terminal = _Terminal(sys.stdin.fileno())
    except termios.error:
        yield
        return
    can_stop = signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN
    old = signal.signal(signal.SIGTSTP, terminal.stop if can_stop else signal.SIG_IGN)
    terminal.apply(terminal.quiet)
    _without_echo = terminal
    try:
        yield
    finally:
        _without_echo = None
        terminal.apply(terminal.before)
        signal.signal(signal.SIGTSTP, old)


@contextmanager
def enable_echo() -> Iterator[None]:
    """Within this block, inside `disable_echo`, the terminal is as it was before: for questions and editors."""
    terminal = _without_echo
    if not terminal:
        yield
        return
    terminal.apply(terminal.before)
    try:
        yield
    finally:
        terminal.apply(terminal.quiet)


def echo_is_off() -> bool:
    """Whether this is inside `disable_echo`, on a terminal."""
    return _without_echo is not None


class _Terminal:
    """The two states of the terminal: as before, and without echo. Ctrl-Z restores the first one for the shell."""

    def __init__(self, descriptor: int) -> None:
        import termios

        self._descriptor = descriptor
        self.before = termios.tcgetattr(descriptor)
        self.quiet = [*self.before]
        self.quiet[0] &= ~termios.ICRNL
        self.quiet[3] &= ~(termios.ECHO | termios.ICANON)
        self._state: list[Any] = self.before

    def apply(self, state: list[Any]) -> None:
        import termios

        self._state = state
        with suppress(termios.error, OSError):  # the terminal is gone
            termios.tcsetattr(self._descriptor, termios.TCSANOW, state)
            self.bracket()

    def bracket(self) -> None:
        """Turn bracketed paste on while nothing is echoed, and off otherwise."""
        with suppress(OSError):
            os.write(sys.stdout.fileno(), _PASTE_OFF if self._state is self.before else _PASTE_ON)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        state = self._state
        self.apply(self.before)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # delivered when the handler is over; the next line runs after `fg`
        signal.signal(signal.SIGTSTP, self.stop)
        self.apply(state)
