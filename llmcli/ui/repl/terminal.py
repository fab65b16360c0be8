"""Being told to end: SIGTERM, and SIGHUP of a terminal that was closed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
