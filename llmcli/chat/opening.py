"""A model that is loaded in a thread of its own while the user types already."""

import threading
from collections.abc import Callable

from llmcli.chat.local import LocalModel
from llmcli.engine.abort import AbortFlag

# Told the share that is read (0 to 1); returns the model with its context made.
Load = Callable[[AbortFlag, Callable[[float], None]], LocalModel]
_TICK = 0.1  # seconds


class Opening:
    """One load. `share` grows from 0 to 1 meanwhile; `on_end` is called in its thread at the end, good or bad."""

    def __init__(self, load: Load, on_end: Callable[[], None] | None = None) -> None:
        self.share = 0.0
        self._load = load
        self._on_end = on_end
        self._abort = AbortFlag()
        self._local: LocalModel | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._local = self._load(self._abort, self._progress)
        except BaseException as error:  # told where the model is wanted, in the main thread
            self._fault = error
        if self._on_end:
            self._on_end()

    def _progress(self, share: float) -> None:
        self.share = share

    @property
    def local(self) -> LocalModel | None:
        """The model once it is loaded."""
        return self._local

    @property
    def ended(self) -> bool:
        return self._local is not None or self._fault is not None

    def wait(self, tick: Callable[[float], bool]) -> LocalModel | None:
        """The model, as soon as it is loaded. `tick(share)` is called meanwhile; False from it gives up waiting (None).

        Raises:
            LlmcliError: whatever the load failed with.
        """
        while self._thread.is_alive():
            self._thread.join(_TICK)
            if self._thread.is_alive() and not tick(self.share):
                return None
        if self._fault:
            raise self._fault
        return self._local

    def close(self) -> None:
        """Stop the load, or free the model; harmless when done twice."""
        self._abort.set()
        self._thread.join()
        if self._local:
            self._local.close()
            self._local = None
