"""Work of a model beside its answers, such as scores and vectors: it runs between two steps of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError
from llmcli.server.errors import BusyError

_T = TypeVar("_T")


class Calls:
    """Functions that run in the thread of a model, and those who wait for their results in an event loop."""

    def __init__(self, most: int) -> None:
        """At most `most` of them run or wait."""
        self._most = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._pending: set[Cancellation] = set()
        self._ended: LlmcliError | None = None  # what ended them all

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def n_pending(self) -> int:
        """The number of those that run or wait."""
        return len(self._pending)

    def add(self, function: Callable[[Cancellation], _T]) -> tuple["Future[_T]", Cancellation]:
        """Let a function run; `wait` is for what this returns. Raises BusyError."""
        if self.n_pending >= self._most:
            raise BusyError(f"too many requests: {self.n_pending} wait already")
        future, cancellation = Future[_T](), Cancellation()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if not self._ended:
                    result = function(cancellation)
                if self._ended:  # what a function returns that was ended is not all
                    raise self._ended
                future.set_result(result)
            except (KeyboardInterrupt, SystemExit) as error:  # those would end the event loop too
                future.set_exception(self._ended or LlmcliError(f"interrupted ({type(error).__name__})"))
            except BaseException as error:  # for whoever waits
                future.set_exception(error)

        self._waiting.append(run)
        self._pending.add(cancellation)
        return future, cancellation

    async def wait(self, future: "Future[_T]", cancellation: Cancellation) -> _T:
        """The result; the function is ended early when nobody waits for it any more."""
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancellation.set()
            raise
        finally:
            self._pending.discard(cancellation)

    def run(self) -> None:
        """Run all that wait, in the thread of the model."""
        while self._waiting:
            self._waiting.popleft()()

    def end(self, error: LlmcliError) -> None:
        """End all with an error, from any thread; no other one succeeds after that."""
        self._ended = error
        for cancellation in [*self._pending]:
            cancellation.set()
