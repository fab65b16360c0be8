"""Ctrl-C, SIGTERM, and keys that are typed while the program works."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation

_ENDS = ("SIGTERM", "SIGHUP")  # SIGHUP: the terminal was closed; Windows does not have it
_pending = False  # Ctrl-C was pressed where there was nothing to stop yet
_without_echo: "_Terminal | None" = None  # the terminal, inside `disable_echo`
_JOIN, _MOST_JOINS = 0.05, 20  # seconds that the end of a thread is waited for, and how often
_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"


@contextmanager
def interruptible(cancellation: "Cancellation", presses: int = 2) -> Iterator[None]:
    """Within this block Ctrl-C sets `cancellation`; the last of `presses` presses raises KeyboardInterrupt.

    Python runs a signal handler only when the main thread comes back from C, which may take seconds. Its
    low-level handler however writes to the wake-up descriptor at once, and a thread that reads there sets the
    flag that llama.cpp looks at.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the background job of a shell ignores Ctrl-C
        yield
        return
    import socket  # 3 ms that run while the model is loading

    ends = {getattr(signal, name, None) for name in ("SIGINT", *_ENDS)}
    quits = getattr(signal, "SIGQUIT", None)
    count = 0
    reader, writer = socket.socketpair()  # on Windows only a socket can be the wake-up descriptor
    writer.setblocking(False)

    def watch() -> None:
        with suppress(OSError):  # closed, where a Ctrl-C came before `in_background` was ready
            while number := reader.recv(1):
                if number[0] in ends:
                    cancellation.set("interrupt")
                elif number[0] == quits and _without_echo:
                    _without_echo.quit(number[0], None)

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        cancellation.set("interrupt")
        if count >= presses:
            raise KeyboardInterrupt

    with reader, in_background(watch, writer.close):
        old_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            with _handling(handle, "SIGINT"):
                if _pending:
                    clear_pending()
                    cancellation.set("interrupt")
                yield
        finally:
            signal.set_wakeup_fd(old_descriptor)


@contextmanager
def in_background(run: Callable[[], None], stop: Callable[[], object]) -> Iterator[None]:
    """Within this block `run` runs in a thread; `stop`, called at the end of the block, lets it return."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        for _ in range(_MOST_JOINS):  # a process that is stopped meanwhile misses one of them
            if thread.is_alive():
                thread.join(_JOIN)


def time_limit(cancellation: "Cancellation", seconds: float) -> AbstractContextManager[None]:
    """Within this block `cancellation` is set after `seconds` (0 = never)."""
    ended = threading.Event()

    def wait() -> None:
        if not ended.wait(min(seconds, threading.TIMEOUT_MAX)):
            cancellation.set("timeout")

    return in_background(wait, ended.set) if seconds else nullcontext()


def defer_interrupt() -> AbstractContextManager[None]:
    """Within this block Ctrl-C raises nothing: it stops the next `interruptible` block, or `clear_pending` drops it.

    Code between two answers must not be interrupted: an import that is interrupted half-way keeps its lock.
    """
    return _handling(_postpone, "SIGINT")


def allow_interrupt() -> AbstractContextManager[None]:
    """Within this block Ctrl-C raises KeyboardInterrupt, also inside `defer_interrupt`: for questions and downloads."""
    deferred = signal.getsignal(signal.SIGINT) is _postpone
    return _handling(signal.default_int_handler, "SIGINT") if deferred else nullcontext()


def clear_pending() -> None:
    """Drop a Ctrl-C that is still pending."""
    global _pending
    _pending = False


def _postpone(_number: int, _frame: FrameType | None) -> None:
    global _pending
    _pending = True


@contextmanager
def exit_on_signal(defer: bool = False) -> Iterator[None]:
    """Within this block SIGTERM and SIGHUP raise SystemExit, so that everything is closed in good order.

    With `defer` the first of them waits for the end of the block, and the second one does not: an exception that is
    raised in a callback of llama.cpp is lost.
    """
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > defer:
            raise SystemExit(128 + number)

    try:
        with _handling(end, *_ENDS):
            yield
    finally:
        if received:
            raise SystemExit(128 + received[0])


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Within this block `handler` gets these signals, apart from those that the program ignores."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    kept = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in kept.items():
            signal.signal(number, old)


@contextmanager
def disable_echo(live: bool) -> Iterator[None]:
    """Within this block keys are not echoed, Enter stays the key it is, and pastes keep their brackets.

    Ctrl-C, Ctrl-Z and Ctrl-\\ work as usual. A prompt inside sets its own state, and restores this one.
    """
    global _without_echo
    if not live or sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    terminal = _Terminal(sys.stdin.fileno())
    with _handling(terminal.stop, "SIGTSTP"), _handling(terminal.quit, "SIGQUIT"):
        terminal.apply(terminal.quiet)
        _without_echo = terminal
        try:
            yield
        finally:
            _without_echo = None
            terminal.apply(terminal.before)


@contextmanager
def enable_echo() -> Iterator[None]:
    """Within this block, inside `disable_echo`, the terminal is as it was before: for questions and editors."""
    terminal = _without_echo
    if terminal:
        terminal.apply(terminal.before)
    try:
        yield
    finally:
        if terminal:
            terminal.apply(terminal.quiet)


def bracket_pastes() -> None:
    """Inside `disable_echo`: let pastes keep their brackets again, which a prompt has turned off."""
    if _without_echo:
        _without_echo.bracket()


def echo_is_off() -> bool:
    """Whether this is inside `disable_echo`, on a terminal."""
    return _without_echo is not None


class _Terminal:
    """The terminal as before, and without echo; Ctrl-Z and Ctrl-\\ restore the first state for the shell."""

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

    def quit(self, number: int, _frame: FrameType | None) -> None:
        """End the process at once, with the status of the signal: its own action would leave the shell without echo."""
        self.apply(self.before)
        with suppress(OSError):
            os.write(sys.stdout.fileno(), b"\n")
        os._exit(128 + number)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        state = self._state
        self.apply(self.before)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # delivered when the handler is over; the next line runs after `fg`
        signal.signal(signal.SIGTSTP, self.stop)
        self.apply(state)
