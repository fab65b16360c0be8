"""Type-ahead: keys that are typed while the program works wait, without an echo, for the next prompt."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"


class _Terminal:
    """The two states of the terminal: as before, and without echo; Ctrl-Z restores the first one for the shell."""

    def __init__(self, descriptor: int) -> None:
        import termios

        self._descriptor = descriptor
        self.before = termios.tcgetattr(descriptor)
        self.silent = [*self.before]
        self.silent[0] &= ~termios.ICRNL
        self.silent[3] &= ~(termios.ECHO | termios.ICANON)
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


_silenced: _Terminal | None = None


@contextmanager
def silent_keys(live: bool) -> Iterator[None]:
    """Within this block keys are not echoed, Enter stays the key it is, and pastes keep their brackets.

    Ctrl-C and Ctrl-Z work as usual. A prompt inside sets its own state, and restores this one; a block inside another
    only turns bracketed paste on again, which a prompt turns off.
    """
    global _silenced
    if _silenced:
        _silenced.bracket()
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
    terminal.apply(terminal.silent)
    _silenced = terminal
    try:
        yield
    finally:
        _silenced = None
        terminal.apply(terminal.before)
        signal.signal(signal.SIGTSTP, old)


def is_silent() -> bool:
    """Whether this is inside `silent_keys`, on a terminal without echo."""
    return _silenced is not None


@contextmanager
def heard_keys() -> Iterator[None]:
    """Within this block, inside a silent one, the terminal is as it was: for questions and editors."""
    terminal = _silenced
    if not terminal:
        yield
        return
    terminal.apply(terminal.before)
    try:
        yield
    finally:
        terminal.apply(terminal.silent)
