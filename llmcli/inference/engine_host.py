"""The other side of `RemoteEngine`: one loaded model, which commands of this user use, several at a time.

Each command has a session, with a context and a vocabulary of its own, so that its answers are those of a process of
its own. Its first connection opens it, and its end closes it, whatever is computed then.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, astuple
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from llmcli.engine.events import Cancellation, Request
from llmcli.engine.llama.model import Model
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages
from llmcli.inference.embedding import EmbeddingModel
from llmcli.inference.engine import RequestSource, TemplateOptions
from llmcli.inference.engine_session import Session
from llmcli.inference.kept_contexts import KeptContexts, KeptEngine
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Settings

_Call = Callable[..., Any]
_PROGRESS_STEP = 0.05  # seconds between two messages of a progress


class EngineHost:
    """A model that is loaded, and those who use it."""

    def __init__(self, target: ResolvedModel, on_abandoned: Callable[[], object] = lambda: None) -> None:
        """`on_abandoned` is called when all who have waited for the load have left before its end."""
        self._target, self._notes, self._on_abandoned = target, [*target.notes], on_abandoned
        self._model: Model | None = None
        self.contexts: KeptContexts | None = None
        self._failure: LlmcliError | None = None
        self._loaded = Event()
        self.share_loaded = 0.0
        self._lock = Lock()
        self._sessions: dict[str, Session] = {}
        self._n_connections = 0
        self.used_at = monotonic()

    def load(self, settings: Settings) -> None:
        """Load the model, and make a context for the next command; who wants it meanwhile waits. Raises LlmcliError."""

        def progress(share: float) -> None:
            self.share_loaded = share

        try:
            target, kind = copy.copy(self._target), self._target.kind
            target.notes = []
            if kind.generates:
                with closing(LocalEngine(target, settings, progress=progress)) as engine:
                    self._model, engine.model = engine.model, engine.model.share()
            else:
                pooling = "rank" if kind.name == "reranker" else ""
                with closing(EmbeddingModel(target, settings, pooling, progress=progress)) as vectors:
                    self._model = vectors.keep_model()
            self.contexts = KeptContexts(self._model, self._target)
        except LlmcliError as error:
            self._failure = error
            raise
        finally:
            self._loaded.set()
        if self.is_idle and self._target.kind.generates:
            self.contexts.prepare(settings)

    @property
    def placement(self) -> str:
        """The layers of each device, once it is loaded."""
        return self._model.placement if self._model else ""

    @property
    def n_sessions(self) -> int:
        """The number of commands that use the model."""
        return len(self._sessions)

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it."""
        return not self._n_connections

    def serve(self, connection: messages.Wire) -> None:
        """Answer the calls of a connection, until it ends."""
        with self._lock:
            self._n_connections += 1
        try:
            _Caller(self, connection).serve()
        finally:
            connection.close()
            with self._lock:
                self._n_connections -= 1
                self.used_at = monotonic()
            if self.is_idle and not self._loaded.is_set():
                self._on_abandoned()

    def wait(self, report: Callable[[float], object]) -> Model:
        """The model; `report` gets the share that is loaded meanwhile. Raises what the load has raised."""
        while not self._loaded.wait(_PROGRESS_STEP):
            report(self.share_loaded)
        if self._failure or not self._model:
            raise self._failure or LlmcliError("the model is not loaded")
        return self._model

    def open(self, settings: Settings, report: Callable[[float], object], pooling: str | None = None) -> Session:
        """A session with these settings, for answers or, with a `pooling`, for vectors. `report` as of `wait`."""
        model = self.wait(report).share()
        target = copy.copy(self._target)  # with what it has read of its header
        target.notes = [*self._notes]
        if pooling is None:
            assert self.contexts
            self.contexts.limit()  # what is kept takes little of the memory that the command counts on
            session = Session(KeptEngine(target, settings, model, self.contexts))
        else:
            session = Session(EmbeddingModel(target, settings, pooling, shared=model))
        with self._lock:
            self._sessions[session.id] = session
        return session

    def join(self, session_id: str) -> Session:
        """A session that another connection has opened."""
        if session_id not in self._sessions:
            raise LlmcliError("the session has ended")
        return self._sessions[session_id]

    def leave(self, session: Session) -> None:
        """The connection that has opened it has ended."""
        with self._lock:
            self._sessions.pop(session.id, None)
        session.close()

    def counts(self) -> dict[str, float]:
        """Of the contexts that are kept: see `KeptContexts.counts`."""
        return self.contexts.counts() if self.contexts else {"contexts": 0, "tokens": 0, "bytes": 0}

    def tend(self) -> None:
        """Do what waits until nobody uses the model."""
        if self.contexts and self.is_idle:
            self.contexts.limit()
            self.contexts.check_rounding()

    def close(self) -> None:
        """End what runs, and free the model, unless llama.cpp still computes."""
        for session in [*self._sessions.values()]:
            self.leave(session)
        if self.contexts:
            self.contexts.close()
        if self._model:
            self._model.close()


class _Caller:
    """One connection. A thread reads its messages, another one makes the call that it asks for."""

    def __init__(self, host: EngineHost, connection: messages.Wire) -> None:
        self._host, self._connection = host, connection
        self._session: Session | None = None
        self._is_owner = False
        self._requests: list[Request] = []  # of the call that runs
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
                    self._requests, self._cancellation, self._is_left = [], Cancellation(), False
                    self._given = SimpleQueue()
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
            given = message["request"]
            self._given.put(given and messages.read_request(given))
        elif "text" in message:
            self._given.put(message["text"])
        elif "shift" in message:
            if shift := self._requests[message["shift"]].live_shift:
                shift.shift = message["by"]
        elif message["cancel"] is None:
            self._cancellation.set(message["reason"])
        else:
            self._requests[message["cancel"]].cancellation.set(message["reason"])

    def leave(self) -> None:
        """End the call that runs: nobody wants its result."""
        self._is_left = True
        self._cancellation.set()
        for one in self._requests:
            one.cancellation.set()
        self._given.put(None)

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
            fault = LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it")
            reply["error"] = messages.error_data(fault)
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
        if now - self._sent_at >= _PROGRESS_STEP or values[0] == values[-1]:
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

    def render(self, request: Sequence[messages.Message] | str, options: Sequence[Any]) -> messages.Message:
        data = messages.prompt_data(self.session.engine.render(request, TemplateOptions(*options)))
        return {key: value for key, value in data.items() if key not in ("request", "arguments")}  # known there

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        return self.session.engine.n_evaluated(tokens)

    def vocab(self, name: str, arguments: Sequence[Any], options: dict[str, bool]) -> object:
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
        self._requests = [self._watched(index, messages.read_request(one)) for index, one in enumerate(requests)]
        self._send_events(lambda engine: engine.generate(self._requests))

    def generate_batch(self, _none: Sequence[messages.Message], n_parallel: int) -> None:
        def next_request(is_idle: bool) -> Request | None:
            if self._is_left:
                return None
            messages.send(self._connection, {"next": is_idle})
            request: Request | None = self._given.get()
            if request:
                self._requests.append(self._watched(len(self._requests), request))
            return request

        source: RequestSource = next_request
        self._send_events(lambda engine: engine.generate_batch(source, n_parallel))

    def _watched(self, index: int, request: Request) -> Request:
        def progress(done: int, total: int) -> None:
            now = monotonic()
            if now - self._sent_at >= _PROGRESS_STEP:
                self._sent_at = now
                messages.send(self._connection, {"progress": [index, done, total]})

        request.progress = progress
        return request

    def _send_events(self, generate: Callable[[LocalEngine], Any]) -> None:
        sent: dict[int, messages.SentRecord] = {}
        with self.session.working(self), closing(generate(self.session.engine)) as events:
            for event in events:
                if self._is_left:
                    return
                record = sent.setdefault(event.index, messages.SentRecord(self._requests[event.index]))
                messages.send(self._connection, {"event": record.message(event)})


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
_CALLS: dict[str, _Call] = {name: getattr(_Caller, name) for name in _NAMES}
