"""One connection of a command to an `EngineHost`: its calls, in a thread each, and what it says of them meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, astuple
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Protocol, TypeAlias

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages
from llmcli.inference.engine import RequestSource, TemplateOptions
from llmcli.inference.engine_session import Session
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings

_Call = Callable[..., Any]
_Arguments: TypeAlias = Sequence[Any]  # plain data, of which the function called knows the types
PROGRESS_STEP = 0.05  # seconds between two messages of a progress


class _Host(Protocol):
    on_unwanted: Callable[[], object]

    def open(self, settings: Settings, report: Callable[[float], object], pooling: str | None = None) -> Session: ...
    def wait(self, report: Callable[[float], object]) -> object: ...
    def join(self, session_id: str) -> Session: ...
    def leave(self, session: Session) -> None: ...


class HostConnection:
    """One connection. A thread reads its messages, another one makes the call that it asks for."""

    def __init__(self, host: _Host, connection: messages.Wire) -> None:
        self._host, self._connection = host, connection
        self._session: Session | None = None
        self._is_owner = False
        self._requests: list[Request] = []  # of the call that runs
        self._early: list[messages.Message] = []  # what is said of requests before the call has read them
        self._unended: set[int] = set()  # indexes of the requests whose answers have not ended
        self._naming = Lock()  # held while one of the three is used
        self._cancellation = Cancellation()  # likewise, for all that has no request
        self._given: SimpleQueue[Any] = SimpleQueue()  # the answers to "next"
        self._is_left = False  # nobody wants the other events of the call
        self._sent_at = 0.0  # the last progress

    def serve(self) -> None:
        working: Thread | None = None
        try:
            while True:
                message = messages.receive(self._connection)
                if "call" in message:
                    if working:  # it has sent its result
                        working.join()
                    self._requests, self._early, self._unended, self._given = [], [], set(), SimpleQueue()
                    self._cancellation, self._is_left = Cancellation(), False
                    working = Thread(target=self._call, args=(message["call"], message["arguments"]), daemon=True)
                    working.start()
                else:
                    self._control(message)
        except (EOFError, OSError, ValueError, LookupError, TypeError):  # it has ended, or is not one of ours
            self.leave()
        finally:
            if self._session and self._is_owner:
                self._host.leave(self._session)
            if working:
                working.join()

    def _control(self, message: messages.Message) -> None:
        if "leave" in message:
            self.leave()
        elif "request" in message:
            self._given.put(message["request"])
        elif "text" in message:
            self._given.put(message["text"])
        elif "cancel" in message and message["cancel"] is None:
            self._cancellation.set(message["reason"])
            self._host.on_unwanted()
        else:
            with self._naming:
                self._apply(message)

    def _apply(self, message: messages.Message) -> None:
        """Do what is said of a request; one that the call has not read yet does it then."""
        index: int = message["shift" if "shift" in message else "cancel"]
        if index >= len(self._requests):
            self._early.append(message)
        elif "cancel" in message:
            self._requests[index].cancellation.set(message["reason"])
            self._tell_unwanted()
        elif shift := self._requests[index].live_shift:
            shift.shift = message["by"]

    def _tell_unwanted(self) -> None:
        """Tell it if no answer is wanted any more: a step of llama.cpp is for all of them."""
        n_read = len(self._requests)
        if self._unended and all(at < n_read and self._requests[at].cancellation.is_set() for at in self._unended):
            self._host.on_unwanted()

    def leave(self) -> None:
        """End the call that runs: nobody wants its result."""
        self._is_left = True
        self._cancellation.set()
        for one in self._requests:
            one.cancellation.set()
        self._given.put(None)
        self._host.on_unwanted()

    # In the thread of a call

    def _call(self, name: str, arguments: Sequence[Any]) -> None:
        reply: messages.Message = {"done": True}
        try:
            if name not in _CALLS:
                raise LlmcliError(f"unknown call: {name}")
            reply["result"] = _CALLS[name](self, *arguments)
        except LlmcliError as error:
            reply["error"] = messages.error_data(error)
        except KeyboardInterrupt:
            reply["interrupted"] = True
        except OSError:
            return  # nobody reads the result
        except Exception as error:  # a fault of the program must not end it for the others
            reply["error"] = messages.error_data(fault(error))
        if self._session:
            notes = self._session.used.notes
            reply["notes"], notes[:] = [*notes], []
        with suppress(OSError):
            messages.send(self._connection, reply)

    @property
    def session(self) -> Session:
        """That of this connection. Raises LlmcliError before there is one."""
        if not self._session:
            raise LlmcliError("no session is open")
        return self._session

    def _progress(self, *values: float) -> None:
        now = monotonic()
        if now - self._sent_at >= PROGRESS_STEP or values[0] == values[-1]:
            self._sent_at = now
            messages.send(self._connection, {"progress": values})

    def open(self, settings: messages.Message) -> messages.Message:
        self._session = self._host.open(messages.read_settings(settings), self._progress)
        self._is_owner = True
        return self._session.facts()

    def open_vectors(self, settings: messages.Message, pooling: str) -> messages.Message:
        self._session = self._host.open(messages.read_settings(settings), self._progress, pooling)
        self._is_owner = True
        return self._session.facts()

    def wait(self) -> None:
        self._host.wait(self._progress)

    def join(self, session_id: str) -> None:
        self._session = self._host.join(session_id)

    def keep_context(self, session: str) -> Sequence[str]:
        with self.session.working(self):
            return self.session.engine.keep_context(session)

    def sha256(self) -> str:
        model = self.session.vectors
        model.cancellation = self._cancellation
        return model.sha256(self._progress)

    def evaluate(self, name: str, query: str, options: dict[str, bool]) -> None:
        def texts() -> Iterator[str]:
            while not self._is_left:
                messages.send(self._connection, {"next": True})
                if (text := self._given.get()) is None:
                    return
                yield text

        with self.session.working(self):
            for one in self.session.evaluate(name, query, texts(), options, self._cancellation):
                messages.send(self._connection, {"evaluation": messages.evaluation_data(one)})

    def identity(self, patience: float) -> Sequence[object]:
        return astuple(self.session.engine.identity(patience))

    def identify(self) -> None:
        self.session.engine.identify(self._progress, self._cancellation)

    def count_tokens(self, text: str) -> int:
        return self.session.engine.count_tokens(text)

    def context_size(self, settings: messages.Message) -> int:
        return self.session.engine.context_size(messages.read_settings(settings))

    def render(self, request: Sequence[messages.Message] | str, options: _Arguments) -> messages.Message:
        data = messages.prompt_data(self.session.engine.render(request, TemplateOptions(*options)))
        return {key: value for key, value in data.items() if key not in ("request", "arguments")}  # known there

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        return self.session.engine.n_evaluated(tokens)

    def vocab(self, name: str, arguments: _Arguments, options: dict[str, bool]) -> object:
        if name not in _OF_VOCAB:
            raise LlmcliError(f"unknown call: {name}")
        found = getattr(self.session.engine.tokenizer, name)
        return found(*arguments, **options) if callable(found) else found

    def n_ctx(self) -> int:
        return self.session.engine.n_ctx

    def open_context(self, settings: messages.Message) -> None:
        with self.session.working(self):
            self.session.engine.open_context(messages.read_settings(settings))

    def warm(self, tokens: Sequence[int]) -> None:
        with self.session.working(self):
            self.session.engine.warm(tokens, self._cancellation)

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        with self.session.working(self):
            return self.session.engine.score(prefix, continuations, self._cancellation)

    def score_prompt(self, tokens: Sequence[int], n_top: int) -> object:
        with self.session.working(self):
            return asdict(self.session.engine.score_prompt(tokens, n_top, self._cancellation))

    def inspector(
        self, request: messages.Message, tokens: Sequence[int], name: str, arguments: Sequence[int]
    ) -> object:
        if name not in ("inspect", "entropies", "token_at_rank"):
            raise LlmcliError(f"unknown call: {name}")
        with self.session.working(self):
            inspector = self.session.inspector(request, tokens)
            return getattr(inspector, name)(*arguments, self._cancellation, self._progress)

    def check(self, requests: Sequence[messages.Message]) -> None:
        """Raise UsageError for a request that is not valid, before any of them is begun."""
        for index, data in enumerate(requests):
            self.session.engine.start(messages.read_request(data), index).close()

    def generate(self, requests: Sequence[messages.Message]) -> None:
        with self._naming:  # all are wanted, also those that are not read yet
            self._unended.update(range(len(requests)))
        read = [self._read_request(one) for one in requests]
        self._send_events(lambda engine: engine.generate(read))

    def generate_batch(self, _none: Sequence[messages.Message], n_parallel: int) -> None:
        def next_request(is_idle: bool) -> Request | None:
            if self._is_left:
                return None
            messages.send(self._connection, {"next": is_idle})
            given = self._given.get()
            return self._read_request(given) if given else None

        source: RequestSource = next_request
        self._send_events(lambda engine: engine.generate_batch(source, n_parallel))

    def _read_request(self, data: messages.Message) -> Request:
        """The next request of this call, whose progress is sent. Raises UsageError."""
        request, index = messages.read_request(data), len(self._requests)

        def progress(done: int, total: int) -> None:
            now = monotonic()
            if now - self._sent_at >= PROGRESS_STEP:
                self._sent_at = now
                messages.send(self._connection, {"progress": [index, done, total]})

        request.progress = progress
        with self._naming:
            self._requests.append(request)
            self._unended.add(index)
            early, self._early = self._early, []
            for message in early:
                self._apply(message)
        if self._is_left:  # meanwhile
            request.cancellation.set()
        return request

    def _send_events(self, generate: Callable[[LocalEngine], Any]) -> None:
        sent: dict[int, messages.SentRecord] = {}
        with self.session.working(self), closing(generate(self.session.engine)) as events:
            for event in events:
                if self._is_left:
                    return
                record = sent.setdefault(event.index, messages.SentRecord(self._requests[event.index]))
                messages.send(self._connection, {"event": record.message(event)})
                if event.finish_reason:
                    with self._naming:
                        self._unended.discard(event.index)
                        self._tell_unwanted()


def fault(error: Exception) -> LlmcliError:
    """The error for what no command should see."""
    return LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it")


_OF_VOCAB = (
    *("tokenize", "tokenize_exactly", "piece", "label", "detokenize", "show_control", "ends", "is_control"),
    *("strips_left", "all_pieces", "end_tokens", "special", "suppressed"),
)
_NAMES = (
    *("open", "open_vectors", "wait", "join", "identity", "identify", "count_tokens", "context_size", "render"),
    *("n_evaluated", "vocab", "n_ctx", "open_context", "keep_context", "warm", "score", "score_prompt", "inspector"),
    *("check", "sha256", "evaluate"),
    *("generate", "generate_batch"),
)
_CALLS: dict[str, _Call] = {name: getattr(HostConnection, name) for name in _NAMES}
