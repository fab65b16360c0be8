"""The other side of `RemoteEngine`: one loaded model, which commands of this user use, several at a time.

Each command has a session, with a context and a vocabulary of its own, so that its answers are those of a process of
its own. Its first connection opens it, and its end closes it, whatever is computed then.
"""

import copy
from collections.abc import Callable
from contextlib import closing
from threading import Event, Lock
from time import monotonic

from llmcli.engine.llama.model import Model
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages
from llmcli.inference.embedding import EmbeddingModel
from llmcli.inference.engine_session import Session
from llmcli.inference.host_connection import PROGRESS_STEP, HostConnection, fault
from llmcli.inference.kept_contexts import KeptContexts, KeptEngine
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Settings


class EngineHost:
    """A model that is loaded, and those who use it."""

    def __init__(
        self,
        target: ResolvedModel,
        on_abandoned: Callable[[], object] = lambda: None,
        on_unwanted: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_abandoned` is called when all who have waited for the load have left before its end.

        `on_unwanted` is called when nobody wants any more what a connection lets llama.cpp compute.
        """
        self._target, self._notes, self._on_abandoned = target, [*target.notes], on_abandoned
        self.on_unwanted = on_unwanted
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
        except Exception as error:
            self._failure = error if isinstance(error, LlmcliError) else fault(error)
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
            HostConnection(self, connection).serve()
        finally:
            connection.close()
            with self._lock:
                self._n_connections -= 1
                self.used_at = monotonic()
            if self.is_idle and not self._loaded.is_set():
                self._on_abandoned()

    def wait(self, report: Callable[[float], object]) -> Model:
        """The model; `report` gets the share that is loaded meanwhile. Raises what the load has raised."""
        while not self._loaded.wait(PROGRESS_STEP):
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
        """The connection that has opened it has ended: it counts as used until its context is back."""
        try:
            session.close()
        finally:
            with self._lock:
                self._sessions.pop(session.id, None)

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
