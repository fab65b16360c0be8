"""What one command uses of a model in another process: an engine, or a model for vectors; one call at a time."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

import msgspec

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages
from llmcli.inference.embedding import EmbeddingModel, Evaluation
from llmcli.inference.engine import TokenInspector
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import find as find_setting
from llmcli.params.settings import to_datum


class _Caller(Protocol):
    def leave(self) -> None: ...


class Session:
    """What one command uses of the model."""

    def __init__(self, used: LocalEngine | EmbeddingModel) -> None:
        self.used, self.id = used, secrets.token_hex(8)
        self._working = Lock()  # held while its context is used
        self._caller: _Caller | None = None  # which uses it
        self._inspector: tuple[bytes, TokenInspector] | None = None
        self.is_closed = self._is_free = False

    @property
    def engine(self) -> LocalEngine:
        """Its engine. Raises LlmcliError where it computes vectors."""
        if not isinstance(self.used, LocalEngine):
            raise LlmcliError("the session computes vectors only")
        return self.used

    @property
    def vectors(self) -> EmbeddingModel:
        """Its model for vectors. Raises LlmcliError where it generates text."""
        if not isinstance(self.used, EmbeddingModel):
            raise LlmcliError("the session computes no vectors")
        return self.used

    def close(self) -> None:
        """End what runs, and free its context; a second call waits for the first one."""
        self.is_closed = True
        if caller := self._caller:
            caller.leave()
        with self._working:
            if not self._is_free:
                self._is_free = True
                self.used.close()

    @contextmanager
    def working(self, caller: _Caller) -> Iterator[None]:
        """The time in which a call uses its context. Raises KeyboardInterrupt when it has ended."""
        with self._working:
            self._caller = caller
            try:
                if self.is_closed:
                    raise KeyboardInterrupt
                yield
            finally:
                self._caller = None

    def inspector(self, request: messages.Message, tokens: Sequence[int]) -> TokenInspector:
        """That of the last call, if it was for the same answer."""
        key = msgspec.msgpack.encode([request, tokens])
        if not self._inspector or self._inspector[0] != key:
            self._inspector = key, self.engine.inspector(messages.read_request(request), tokens)
        return self._inspector[1]

    def evaluate(
        self, name: str, query: str, texts: Iterable[str], options: dict[str, bool], cancellation: Cancellation
    ) -> Iterator[Evaluation]:
        """The vectors of texts (`embed`), or their scores for a query (`rank`)."""
        model = self.vectors
        model.cancellation = cancellation
        return model.rank(query, texts, **options) if name == "rank" else model.embed(texts, **options)

    def facts(self) -> messages.Message:
        """What does not change while it is open."""
        if isinstance(self.used, EmbeddingModel):
            model = self.used
            facts = {"pooling": model.pooling, "n_dims": model.n_dims, "n_ctx": model.n_ctx}
            return {"session": self.id, "name": model.name, "facts": [*model.facts], **facts}
        engine, vocab = self.engine, self.engine.tokenizer
        defaults = {key: to_datum(find_setting(key), value) for key, value in engine.defaults.values.items()}
        return {
            "session": self.id,
            "name": engine.name,
            "chat_template": engine.chat_template,
            "n_ctx_train": engine.n_ctx_train,
            "defaults": defaults,
            "facts": [*engine.facts],
            "placement": engine.placement,
            "remark": engine.remark,
            "vocab": [vocab.n_tokens, vocab.bos, vocab.eos, vocab.adds_bos],
        }
