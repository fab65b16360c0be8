"""The engine behind a URL: a server with OpenAI's API generates the answers, several at a time."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from llmcli.engine.events import (
    Batches,
    Cancellation,
    FinishReason,
    GenerationRecord,
    Message,
    Progress,
    Prompt,
    Request,
    ScoredPrompt,
    TextChunk,
    TokenEvent,
    now_ms,
)
from llmcli.errors import LlmcliError, NetworkError, UsageError
from llmcli.inference.endpoint_answer import Delta, read_delta
from llmcli.inference.endpoint_client import (
    TICK,
    ConnectionPool,
    as_network_error,
    error_of,
    raise_for_error,
    with_retries,
)
from llmcli.inference.endpoint_server import Notify, ServedEndpoint
from llmcli.inference.endpoint_tokens import EndpointVocab
from llmcli.inference.engine import Capabilities, EngineIdentity, RequestSource, TemplateOptions
from llmcli.models.download.http import TransientError
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.engine.token_inspection import TokenInspector

N_PARALLEL = 4  # answers at a time, where nobody says how many
_ASSUMED_CTX = 8192  # tokens, where the server does not tell
_BYTES_PER_TOKEN = 3.0  # of an estimate that is rather too high
_PER_MESSAGE = 8  # tokens of a chat template
_THE_SERVERS = "{# the chat template of the server #}"


class EndpointEngine:
    """A model at an endpoint. Nothing of it is on this machine: no file, and no llama.cpp."""

    def __init__(
        self, served: ServedEndpoint, notify: Notify | None = None, cancellation: Cancellation | None = None
    ) -> None:
        """`notify` gets what the user should know while he waits; without it, it is one of the notes.

        `cancellation` ends what does not belong to an answer, such as the tokens of a text.
        """
        self._cancellation = cancellation
        self.served, self.dialect = served, served.dialect
        self.name, self.notes, self.defaults = served.model, served.notes, served.layer
        self.remark = served.remark
        self.chat_template = served.chat_template or _THE_SERVERS
        self.capabilities = Capabilities(
            traces=False,
            live_temperature=False,
            replay=False,
            inspection=False,
            scores=self.dialect.scores,
            tokens=False,
            own_defaults=True,
            tells_defaults=served.tells_defaults,
            unsupported=self.dialect.unsupported,
        )
        self.n_ctx_train = served.n_ctx or _ASSUMED_CTX
        self.load_ms = self.waited_ms = 0.0
        self.pool = ConnectionPool(served.endpoint, notify or self._note)
        self.tokenizer = EndpointVocab(self.name, self._post if self.dialect.counts else None)
        self._told: set[str] = set()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # The server

    @property
    def facts(self) -> Sequence[str]:
        served = self.served
        version = f" {served.version}" if served.version else ""
        size = f", context {served.n_ctx} tokens" if served.n_ctx else ""
        return (f"endpoint: {served.endpoint.base} ({self.dialect.title}{version})", f"model: {self.name}{size}")

    @property
    def n_ctx(self) -> int:
        return self.served.n_ctx

    def identity(self, patience: float = 0.0) -> EngineIdentity:  # noqa: ARG002
        return EngineIdentity()

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        """Nothing is known of the file of the model."""

    def context_size(self, settings: Settings) -> int:
        return settings.n_ctx or self.n_ctx_train

    def close(self) -> None:
        self.pool.close()

    # Prompts

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        """The prompt as the server gets it: it renders the messages itself."""
        tokenize = partial(self._tokenize, options.arguments) if self.dialect.scores else None
        text = request + options.prefill if isinstance(request, str) else ""
        return Prompt(text, (TextChunk(request, options.prefill, tokenize),), request)

    def prompt_text(self, prompt: Prompt) -> str:
        (chunk,) = prompt.chunks
        if prompt.text or not isinstance(chunk, TextChunk):
            return prompt.text
        if self.dialect.counts == "template":
            data = self._post("/apply-template", self._messages(chunk))
            return str(data.get("prompt", "")) if isinstance(data, dict) else ""
        if self.dialect.scores:
            return self.tokenizer.detokenize([*chunk.tokens])
        raise UsageError(f"{self.name} does not show its prompts", "use a model on this machine")

    def count_tokens(self, text: str) -> int:
        return int(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN) + 1

    def count_prompt(self, prompt: Prompt) -> int:
        messages = [] if isinstance(prompt.request, str) else prompt.request
        texts = [prompt.request] if isinstance(prompt.request, str) else [str(one["content"]) for one in messages]
        return sum(map(self.count_tokens, texts)) + _PER_MESSAGE * (len(messages) + 1)

    def _tokenize(self, arguments: Mapping[str, object], chunk: TextChunk) -> Sequence[int]:
        if isinstance(chunk.request, str):
            return self.tokenizer.tokenize(chunk.request + chunk.prefill, add_special=True)
        return self.tokenizer.tokenize_messages({**self._messages(chunk), "chat_template_kwargs": dict(arguments)})

    def _messages(self, chunk: TextChunk) -> dict[str, object]:
        """The messages of a body, with the beginning of the answer as the last one."""
        if chunk.prefill and self.dialect.has_prefill:
            return {"messages": list(chunk.request), "prefill": chunk.prefill}
        if not chunk.prefill or self.dialect.continues is None:
            return {"messages": list(chunk.request)}
        begun = {"role": "assistant", "content": chunk.prefill}
        return {"messages": [*chunk.request, begun], **self.dialect.continues}

    def open_context(self, settings: Settings) -> None:
        """Nothing: the server has a context of its own."""

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        """Nothing: the server has a cache of its own."""

    def n_evaluated(self, tokens: Sequence[int]) -> int:  # noqa: ARG002
        return 0

    def evaluate_batches(self, request: Request, layout: Batches) -> None:  # noqa: ARG002
        raise UsageError(f"{self.name} does not support a replay", "use a model on this machine")

    def inspector(self, request: Request, tokens: Sequence[int]) -> "TokenInspector":  # noqa: ARG002
        raise UsageError(f"{self.name} does not support /why", "use a model on this machine")

    # Answers

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        waiting = list(reversed(requests))
        return self._events(lambda _is_idle: waiting.pop() if waiting else None, N_PARALLEL)

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        return self._events(requests, n_parallel or N_PARALLEL)

    def _events(self, source: RequestSource, n_parallel: int) -> Generator[TokenEvent, None, None]:
        inbox: SimpleQueue[tuple[_Exchange, Delta | LlmcliError | None]] = SimpleQueue()
        running: dict[_Exchange, None] = {}
        n_begun = 0
        try:
            while True:
                while len(running) < n_parallel and (request := source(not running)):
                    running[_Exchange(self, request, n_begun, n_parallel, inbox.put)] = None
                    n_begun += 1
                if not running:
                    return
                try:
                    exchange, item = inbox.get(timeout=TICK)
                except Empty:
                    exchange, item = None, None
                for one in [one for one in running if one.request.cancellation.is_set()]:
                    del running[one]
                    one.connection.abort()
                    yield one.end(one.request.cancellation.reason)
                if exchange in running:
                    assert exchange
                    event = exchange.event(item)
                    if event and event.finish_reason:
                        del running[exchange]
                    if event:
                        yield event
        finally:
            for one in running:
                one.connection.abort()

    def body(self, request: Request) -> tuple[str, dict[str, object]]:
        """The URL and the body of a request."""
        (chunk,) = request.prompt.chunks
        assert isinstance(chunk, TextChunk)
        settings, base = request.settings, self.served.endpoint.base
        body: dict[str, object] = {"model": self.name, "stream": True, "stream_options": {"include_usage": True}}
        body |= self.dialect.body(settings, request.constraint, self.defaults.values)
        if isinstance(chunk.request, str):
            if settings.max_tokens < 0:
                body[self.dialect.max_tokens] = self._room(request)
            body |= {"prompt": chunk.request + chunk.prefill}
            body |= {"logprobs": settings.logprobs} if settings.logprobs else {}
            return f"{base}/completions", body
        body |= self._messages(chunk)
        body |= {"logprobs": True, "top_logprobs": settings.logprobs} if settings.logprobs else {}
        return f"{base}/chat/completions", body

    def _room(self, request: Request) -> int | None:
        """A limit for a raw text without one: for many servers that means 16 tokens."""
        if self.dialect.kind in ("llama-server", "llmcli"):
            return -1
        if self.dialect.kind == "vllm" or not self.n_ctx:
            return None
        return max(self.n_ctx - self.count_prompt(request.prompt), 1)

    def _post(self, route: str, body: Mapping[str, object]) -> object:
        """The JSON data of a route of the server's own."""
        return self.pool.post(self.served.endpoint.root + route, {"model": self.name, **body}, self._cancellation)

    def check_answer(self, delta: Delta) -> None:
        """Note what the user should know of an answer: another model, or a text that the server removed."""
        said, asked = delta.model, self.name
        if said and not said.startswith(asked) and said not in self._told:
            self._told.add(said)
            self._note(f"{self.served.host} answered with the model {said[:100]}, not with {asked}")
        if delta.is_filtered:
            self._note(f"{self.served.host} removed the rest of an answer (content filter)")

    # Scores

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:  # noqa: ARG002
        raise UsageError(f"{self.name} does not support scores of a whole prompt", "use a model on this machine")

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None = None
    ) -> list[list[float]]:
        if not self.dialect.scores:
            raise UsageError(f"{self.name} does not support scores", "use a model on this machine")
        from llmcli.inference.endpoint_score import score  # few servers can do that

        def ask(body: Mapping[str, object]) -> object:
            url = f"{self.served.endpoint.base}/completions"
            return self.pool.post(url, {"model": self.name, **body}, cancellation or self._cancellation)

        return score(ask, prefix, continuations, self.served.host)


class _Exchange:
    """One request on its way: a thread reads what comes, and `event` makes it a part of the answer."""

    def __init__(
        self,
        engine: EndpointEngine,
        request: Request,
        index: int,
        n_parallel: int,
        put: Callable[[tuple["_Exchange", Delta | LlmcliError | None]], None],
    ) -> None:
        self.request, self.connection = request, engine.pool.take()
        self._engine, self._index, self._put = engine, index, put
        self._record = GenerationRecord(beside=n_parallel - 1)
        self._begin, self._first = now_ms(), 0.0
        self._finish_reason: FinishReason | None = None
        self._has_text = False
        self._n_answer: int | None = None
        self._body = engine.body(request)
        self._repeated = len(str(self._body[1].get("prefill", "")))  # characters of the answer that are here already
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        """Read the answer, in a thread of its own; the last item says how it ended."""
        end: LlmcliError | None = None
        try:
            with_retries(self.connection, self._engine.pool.notify, self._read)
        except LlmcliError as error:
            end = error
        except KeyboardInterrupt:  # it was ended while it waited
            end = NetworkError("the connection was closed")
        except Exception as error:  # a fault of the program must not leave others waiting
            end = LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it")
        self._engine.pool.release(self.connection)
        self._put((self, end))

    def _read(self) -> None:
        try:
            for delta in self._deltas():
                self._has_text |= bool(delta.text or delta.reasoning)
                self._finish_reason = delta.finish_reason or self._finish_reason
                self._put((self, delta))
        except TransientError as error:
            if self._has_text:
                raise as_network_error(error) from None
            raise
        if not self._finish_reason and not self.connection.is_done:
            problem = TransientError(f"{self.connection.endpoint.host} ended the connection in the middle")
            raise as_network_error(problem) if self._has_text else problem

    def _deltas(self) -> Iterator[Delta]:
        url, body = self._body
        endpoint = self.connection.endpoint
        with closing(self._objects(url, body)) as objects:
            for data in objects:
                if error := error_of(data) if "error" in data else {}:
                    code = error.get("code")
                    raise_for_error(endpoint, code if isinstance(code, int) else 500, error)
                yield read_delta(data, self._engine.tokenizer, endpoint.host)

    def _objects(self, url: str, body: Mapping[str, object]) -> Generator[Mapping[str, object], None, None]:
        """The objects of the stream; a server that does not know `stream_options` is asked again without them."""
        try:
            yield from self.connection.events(url, body)
        except UsageError as error:
            if "stream_options" not in str(error) or "stream_options" not in body:
                raise
            yield from self.connection.events(url, {k: v for k, v in body.items() if k != "stream_options"})

    # In the thread of the reader of the events

    def event(self, item: Delta | LlmcliError | None) -> TokenEvent | None:
        """The event for what the thread has read; None without a text."""
        if isinstance(item, LlmcliError):
            self._record.failure = item
            return self.end("error")
        return self.end(self._finish_reason or "stop") if item is None else self._piece(item)

    def _piece(self, delta: Delta) -> TokenEvent | None:
        record, timings = self._record, self._record.timings
        self._engine.check_answer(delta)
        text = delta.text[self._repeated :]
        self._repeated -= len(delta.text) - len(text)
        piece = delta.reasoning + text
        if piece:
            if not self._first:
                self._first = now_ms()
                timings.ttft_ms = timings.prompt_ms = self._first - self._begin
            record.tokens.append(self._engine.tokenizer.number_of(piece.encode()))
            timings.predicted_n = len(record.tokens)
            timings.predicted_ms = now_ms() - self._first
        record.logprobs += delta.logprobs
        timings.prompt_n = timings.prompt_n if delta.n_prompt is None else delta.n_prompt
        self._n_answer = self._n_answer if delta.n_answer is None else delta.n_answer
        if delta.prompt_ms is not None and delta.answer_ms is not None:
            timings.prompt_ms, timings.predicted_ms = delta.prompt_ms, delta.answer_ms
        if not piece:
            return None
        return TokenEvent(text, record.tokens[-1], None, record, self._index, reasoning=delta.reasoning)

    def end(self, reason: FinishReason) -> TokenEvent:
        """The last event."""
        if self._n_answer is not None:
            self._record.timings.predicted_n = self._n_answer
        self._record.finish_reason = reason
        return TokenEvent("", None, reason, self._record, self._index)
