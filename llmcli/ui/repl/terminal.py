"""Signals that end the program: SIGTERM, and SIGHUP of a terminal that was closed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class EndedError(SystemExit):
    """SIGTERM ended the program, or SIGHUP did (its terminal was closed); the exit status says which."""


@contextmanager
def ending() -> Iterator[None]:
    """Within this block SIGTERM and SIGHUP raise EndedError, so that everything is closed in good order."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise EndedError(128 + number)

    with _handle_signals(end):
        yield


@contextmanager
def ending_later() -> Iterator[None]:
    """Within this block the first of these signals waits for the end of the block; the second one does not.

    An exception that is raised in a callback of llama.cpp is lost.
    """
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise EndedError(128 + number)

    try:
        with _handle_signals(end):
            yield
    finally:
        if received:
            raise EndedError(128 + received[0])


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in kept.items():
            signal.signal(number, old)
