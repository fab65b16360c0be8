"""Load a model in a thread while the user types."""

import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation

if TYPE_CHECKING:
    from llmcli.inference.engine import Engine

# Gets what stops it and a function to report progress to; returns a model that is ready to answer.
Load = Callable[[Cancellation, Callable[[str], None]], "Engine"]
_TICK = 0.02  # seconds; a Ctrl-C waits for the next one
CHECKING = "checking the file"


class BackgroundLoad:
    """One load; `on_end` is called in its thread at the end, also after an error."""

    def __init__(self, load: Load, on_end: Callable[[], None] = lambda: None) -> None:
        self.status = CHECKING  # its progress
        self._load, self._on_end = load, on_end
        self._cancellation = Cancellation()
        self.engine: Engine | None = None  # the model, once it is loaded
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            engine = self._load(self._cancellation, partial(setattr, self, "status"))
            engine.waited_ms = 0.0  # the user typed meanwhile
            self.engine = engine
        except BaseException as error:  # raised in the main thread, by `wait`
            self.error = error
        self._on_end()

    def wait(self, tick: Callable[[str], bool]) -> "Engine | None":
        """The model, once it is loaded. Raises the error of the load.

        `tick(status)` is called meanwhile; if it returns False, the result is None.
        """
        begin = perf_counter()
        while self._thread.is_alive():
            self._thread.join(_TICK)
            if self._thread.is_alive() and not tick(self.status):
                return None
        if self.error:
            raise self.error
        if self.engine:
            self.engine.waited_ms += (perf_counter() - begin) * 1e3
        return self.engine

    def close(self) -> None:
        """Stop the load, or free the model. A second call does nothing."""
        self._cancellation.set()
        while self._thread.is_alive() and self.status != CHECKING:  # it runs in another process, and may take long
            self._thread.join(_TICK)
        engine, self.engine = self.engine, None
        if engine:
            engine.close()
