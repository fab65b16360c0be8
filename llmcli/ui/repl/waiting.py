"""A text about the work at hand until the first word of an answer comes, updated ten times a second."""

import threading
from collections.abc import Callable

_DELAY = 0.2  # seconds; shorter work is not worth a text
_TICK = 0.1


class Waiting:
    """Within its block it calls `show(text)` from a thread while `text` is set; after `end` nothing more is shown."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.text = ""
        self._show = show
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.end()

    def _run(self) -> None:
        self._ended.wait(_DELAY)
        while not self._ended.is_set():
            if self.text:
                self._show(self.text)
            self._ended.wait(_TICK)

    def reading(self, done: int, total: int) -> None:
        self.text = f"reading the prompt {done / max(total, 1):.0%}"

    @property
    def ended(self) -> bool:
        """Whether the wait is over."""
        return self._ended.is_set()

    def end(self) -> None:
        """Stop; harmless when done twice."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
