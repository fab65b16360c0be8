"""The terminal while an answer streams: keys are not echoed into it, and every way to end gives it back."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"


@contextmanager
def silent_keys(live: bool) -> Iterator[None]:
    """Within this block typed keys wait for the next prompt unseen; Ctrl-C and Ctrl-Z work as ever.

    They wait as they came: Enter as the key it is, and what is pasted in its brackets. A stop by Ctrl-Z gives the
    shell its terminal back as it was, and `fg` takes the echo away again.
    """
    if not live or sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        yield
        return
    silent = [*before]
    silent[0] &= ~termios.ICRNL
    silent[3] &= ~(termios.ECHO | termios.ICANON)

    def apply(state: list[Any]) -> None:
        with suppress(termios.error, OSError):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, state)
            os.write(sys.stdout.fileno(), _PASTE_OFF if state is before else _PASTE_ON)

    def stop(_number: int, _frame: FrameType | None) -> None:
        apply(before)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # delivered when the handler is over; the next line runs after `fg`
        signal.signal(signal.SIGTSTP, stop)
        apply(silent)

    old = signal.signal(signal.SIGTSTP, stop)
    apply(silent)
    try:
        yield
    finally:
        apply(before)
        signal.signal(signal.SIGTSTP, old)


class EndedError(SystemExit):
    """The program was told to end (SIGTERM) or its terminal was closed (SIGHUP); the exit status says which."""


@contextmanager
def ending() -> Iterator[None]:
    """Within this block SIGTERM and SIGHUP raise EndedError, so that everything is closed in good order."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise EndedError(128 + number)

    with _on_end(end):
        yield


@contextmanager
def ending_later() -> Iterator[None]:
    """Within this block the first of them waits for its end: what is raised in a callback of llama.cpp is lost."""
    asked: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise EndedError(128 + number)

    try:
        with _on_end(end):
            yield
    finally:
        if asked:
            raise EndedError(128 + asked[0])


@contextmanager
def _on_end(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in kept.items():
            signal.signal(number, old)
