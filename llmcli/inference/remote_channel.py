"""One connection of a command to the process of a model: calls and their results, one at a time."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TypeAlias

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages

_GONE, _AGAIN = "the warm process of the model has ended", "try again: the model is then loaded anew"
_TICK = 0.02  # seconds between two looks at a cancellation
Connect = Callable[[], messages.Wire]
_Result: TypeAlias = Any  # plain data, of which the caller knows the type


class EngineGoneError(LlmcliError):
    """The process of the model has ended."""

    def __init__(self, message: str = _GONE, hint: str = _AGAIN) -> None:
        super().__init__(message, hint)


class Channel:
    """One connection, on which one call at a time is made. Every call can raise what the engine raises."""

    def __init__(self, connection: messages.Wire, gone: Callable[[], EngineGoneError] = EngineGoneError) -> None:
        """`gone` makes the error of an end."""
        self.connection, self.notes, self._gone = connection, list[str](), gone
        self.has_ended = False
        self._sending = Lock()

    def send(self, message: Mapping[str, object]) -> None:
        try:
            with self._sending:
                messages.send(self.connection, message)
        except OSError:
            raise self.end() from None

    def end(self) -> EngineGoneError:
        self.has_ended = True
        return self._gone()

    def call(
        self,
        name: str,
        *arguments: object,
        cancellation: Cancellation | None = None,
        progress: Callable[..., object] | None = None,
    ) -> _Result:
        """The result of a call. Raises KeyboardInterrupt where the engine does, because it is cancelled."""
        self.send({"call": name, "arguments": arguments})
        is_cancelled = False
        while True:
            while cancellation and not is_cancelled and not self.is_there():
                if cancellation.is_set():
                    self.send({"cancel": None, "reason": cancellation.reason})
                    is_cancelled = True
            reply = self.receive()
            if "progress" not in reply:
                return self.result(reply)
            if progress:
                progress(*reply["progress"])

    def is_there(self) -> bool:
        """Whether a message is there, or the other side has ended; waits a little for it."""
        try:
            return self.connection.poll(_TICK)
        except OSError:
            return True

    def receive(self) -> messages.Message:
        try:
            return messages.receive(self.connection)
        except (OSError, EOFError, ValueError):
            raise self.end() from None

    def result(self, reply: messages.Message) -> _Result:
        self.notes += reply.get("notes", ())
        if "error" in reply:
            raise messages.read_error(reply["error"])
        if "interrupted" in reply:
            raise KeyboardInterrupt
        return reply.get("result")
