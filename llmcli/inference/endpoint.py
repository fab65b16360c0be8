"""The engine behind a URL: a server with OpenAI's API generates the answers, several at a time."""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from queue import Empty, Queue

from llmcli.engine.events import (
    Cancellation,
    Message,
    Progress,
    Prompt,
    Request,
    ScoredPrompt,
    TextChunk,
    TokenChunk,
    TokenEvent,
)
from llmcli.errors import LlmcliError, NetworkError, TimeLimitError, UsageError
from llmcli.inference.endpoint_answer import LOWEST, Delta, as_logprob
from llmcli.inference.endpoint_client import ATTEMPTS, LOOK_SECONDS, TICK, ConnectionPool
from llmcli.inference.endpoint_exchange import Exchange, Item
from llmcli.inference.endpoint_server import Notify, ServedEndpoint
from llmcli.inference.endpoint_tokens import Ask, EndpointVocab
from llmcli.inference.engine import Capabilities, EngineIdentity, RequestSource, TemplateOptions, TokenInspector
from llmcli.params.param import is_int
from llmcli.params.settings import Settings

N_PARALLEL = 4  # answers at a time, where nobody says how many
_ASSUMED_CTX = 8192  # tokens, where the server does not tell
_ASCII_PER_TOKEN, _OTHERS_PER_TOKEN = 4.0, 1.5  # characters, of an estimate: the server has the last word
_AHEAD = 256  # pieces of answers that wait to be used; a faster server has to wait
_COUNT_SECONDS = 3.0  # that a message waits for the number of its tokens
_COUNTS = 32  # prompts whose number of tokens is kept
_PER_MESSAGE = 8  # tokens of a chat template
_THE_SERVERS = "{# the chat template of the server #}"
_AskScores = Callable[[Mapping[str, object]], object]  # a body of /completions -> JSON data
_MAX_TOLD = 5  # models that answer in place of another one
_SCORED_TOGETHER = 16  # prompts of one request


class EndpointEngine:
    """A model at an endpoint. Nothing of it is on this machine: no file, and no llama.cpp."""

    placement = ""
    has_ended = False  # each answer has a connection of its own

    def __init__(
        self,
        served: ServedEndpoint,
        notify: Notify | None = None,
        cancellation: Cancellation | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        """`notify` gets what the user should know while he waits; without it, it is one of the notes.

        `cancellation` ends what does not belong to an answer, such as the tokens of a text. An answer that fails before
        its first token is tried so many times.
        """
        self._cancellation = cancellation
        self.served, self.dialect = served, served.dialect
        self.name, self.notes, self.defaults = served.model, served.notes, served.layer
        self.remark = served.remark
        self.chat_template = served.chat_template or _THE_SERVERS
        self.capabilities = Capabilities(
            traces=self.dialect.has_extras,
            live_temperature=self.dialect.has_extras,
            replay=self.dialect.has_extras,
            inspection=self.dialect.has_extras,
            scores=self.dialect.scores,
            tokens=False,
            own_defaults=True,
            tells_defaults=served.tells_defaults,
            unsupported=self.dialect.unsupported,
        )
        self.n_ctx_train = served.n_ctx or _ASSUMED_CTX
        self.load_ms = self.waited_ms = 0.0
        self.pool = ConnectionPool(served.endpoint, notify or self._note, attempts)
        self.tokenizer = EndpointVocab(self.name, self._post if self.dialect.counts else None)
        self._told: set[str] = set()
        self._counts: dict[str, int] = {}
        self._is_counting = bool(self.dialect.counts)

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
        template = options.source if options.is_given else ""
        return Prompt(text, (TextChunk(request, options.prefill, tokenize, template),), request, template)

    def prompt_text(self, prompt: Prompt) -> str:
        (chunk,) = prompt.chunks
        if prompt.text or not isinstance(chunk, TextChunk):
            return prompt.text
        if self.dialect.counts == "template":
            return self._rendered(chunk, self._post)
        if self.dialect.scores:
            return self.tokenizer.detokenize([*chunk.tokens])
        raise UsageError(f"{self.name} does not show its prompts", "use a model on this machine")

    def _rendered(self, chunk: TextChunk, ask: Ask) -> str:
        data = ask("/apply-template", self._messages(chunk))
        return str(data.get("prompt", "")) if isinstance(data, dict) else ""

    def count_tokens(self, text: str) -> int:
        n_ascii = sum(map(str.isascii, text))
        return int(n_ascii / _ASCII_PER_TOKEN + (len(text) - n_ascii) / _OTHERS_PER_TOKEN) + 1

    def count_prompt(self, prompt: Prompt) -> int:
        """An estimate; where it matters, and the server has a route for that, their number."""
        messages = [] if isinstance(prompt.request, str) else prompt.request
        texts = [prompt.request] if isinstance(prompt.request, str) else [str(one["content"]) for one in messages]
        estimate = sum(map(self.count_tokens, texts)) + _PER_MESSAGE * (len(messages) + 1)
        if not self._is_counting or estimate < self.n_ctx / 2 or not self.n_ctx:
            return estimate
        key = "\0".join([prompt.text, *texts])
        if key not in self._counts:
            number = estimate
            try:
                number = self._count(prompt)
            except NetworkError:  # somebody waits: not again
                self._is_counting = False
                self._note(f"{self.served.host} does not count tokens: they are estimated")
            except LlmcliError:  # it refuses these messages
                pass
            self._counts = {key: number, **dict(list(self._counts.items())[:_COUNTS])}
        return self._counts[key]

    def _count(self, prompt: Prompt) -> int:
        (chunk,) = prompt.chunks
        assert isinstance(chunk, TextChunk)
        ask = partial(self._post, seconds=_COUNT_SECONDS, attempts=1)
        counter = EndpointVocab(self.name, ask)
        if self.dialect.counts == "messages" and not isinstance(chunk.request, str):
            return len(counter.tokenize_messages(self._messages(chunk)))
        text = prompt.text or self._rendered(chunk, ask)
        return len(counter.tokenize(text, add_special=True, parse_special=True))

    def _tokenize(self, arguments: Mapping[str, object], chunk: TextChunk) -> Sequence[int]:
        if isinstance(chunk.request, str):
            return self.tokenizer.tokenize(chunk.request + chunk.prefill, add_special=True)
        return self.tokenizer.tokenize_messages({**self._messages(chunk), "chat_template_kwargs": dict(arguments)})

    def _messages(self, chunk: TextChunk) -> dict[str, object]:
        """The messages of a body, with the beginning of the answer as the last one."""
        if self.dialect.has_extras:
            own = {"prefill": chunk.prefill, "chat_template": chunk.template}
            return {"messages": list(chunk.request), **{key: value for key, value in own.items() if value}}
        if not chunk.prefill or self.dialect.continues is None:
            return {"messages": list(chunk.request)}
        begun = {"role": "assistant", "content": chunk.prefill}
        return {"messages": [*chunk.request, begun], **self.dialect.continues}

    def open_context(self, settings: Settings) -> None:
        """Nothing: the server has a context of its own."""

    def keep_context(self, session: str = "") -> Sequence[str]:  # noqa: ARG002
        return ()

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        """Nothing: the server has a cache of its own."""

    def n_evaluated(self, tokens: Sequence[int]) -> int:  # noqa: ARG002
        return 0

    def inspector(self, request: Request, tokens: Sequence[int]) -> TokenInspector:
        if not self.dialect.has_extras:
            raise UsageError(f"{self.name} does not support /why", "use a model on this machine")
        from llmcli.inference.endpoint_inspection import EndpointInspector

        url = f"{self.served.endpoint.root}/llmcli/inspect"
        _, body = self.body(request)
        (chunk,) = request.prompt.chunks
        if isinstance(chunk, TokenChunk):  # the beginning of what the server makes of the messages
            body["n_prompt"] = len(chunk.tokens)
        if request.live_shift and request.live_shift.moves:
            body["moves"] = request.live_shift.moves
        return EndpointInspector(partial(self.pool.post, url), request, body, tokens, self.served.host)

    # Answers

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        waiting = list(reversed(requests))
        return self._events(lambda _is_idle: waiting.pop() if waiting else None, N_PARALLEL)

    def repeat(self, request: Request) -> Generator[TokenEvent | None, None, None]:
        yield from self.generate([request])

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        return self._events(requests, n_parallel or N_PARALLEL)

    def _events(self, source: RequestSource, n_parallel: int) -> Generator[TokenEvent, None, None]:
        inbox: Queue[tuple[Exchange, Item]] = Queue(_AHEAD)
        running: dict[Exchange, None] = {}
        n_begun = 0
        try:
            while True:
                while len(running) < n_parallel and (request := source(not running)):
                    asked = self.body(request)
                    control = f"{self.served.endpoint.root}/llmcli/control" if self.dialect.has_extras else ""
                    one = Exchange(request, n_begun, n_parallel, asked, self.pool, self.tokenizer, inbox, control)
                    running[one] = None
                    n_begun += 1
                if not running:
                    return
                try:
                    exchange, item = inbox.get(timeout=TICK)
                except Empty:
                    exchange, item = None, None
                is_silent = exchange is None  # else the rest of an answer may have come already
                for one in [*running]:
                    one.steer()
                    if one.is_to_abort or (is_silent and one.lingers):
                        del running[one]
                        one.abort()
                        yield one.cut()
                if exchange in running:
                    assert exchange
                    if isinstance(item, Delta):
                        self._check_answer(item)
                    events = exchange.events(item)
                    if events and events[-1].finish_reason:
                        del running[exchange]
                        self._check_end(exchange.request, events[-1])
                    yield from events
        finally:
            for one in running:
                one.abort()

    def body(self, request: Request) -> tuple[str, dict[str, object]]:
        """The URL and the body of a request."""
        (chunk,) = request.prompt.chunks
        settings, base = request.settings, self.served.endpoint.base
        if isinstance(chunk, TokenChunk):
            chunk = TextChunk(request.prompt.request, settings.prefill or "", template=request.prompt.template)
        body: dict[str, object] = {"model": self.name, "stream": True, "stream_options": {"include_usage": True}}
        # A recorded answer says all that is not a default of llmcli: those of the server do not count.
        defaults = self.defaults.values if request.replay is None else {}
        body |= self.dialect.body(settings, request.constraint, defaults) | self._extras(request)
        if isinstance(chunk.request, str):
            limit = body.pop(self.dialect.max_tokens, None) if settings.max_tokens >= 0 else self._room(request)
            body["max_tokens"] = limit  # the name on this route, everywhere
            is_apart = bool(chunk.prefill) and self.dialect.has_extras
            body |= (
                {"prompt": chunk.request, "prefill": chunk.prefill}
                if is_apart
                else {"prompt": chunk.request + chunk.prefill}
            )
            body |= {"logprobs": settings.logprobs} if settings.logprobs else {}
            return f"{base}/completions", body
        body |= self._messages(chunk)
        body |= {"logprobs": True, "top_logprobs": settings.logprobs} if settings.logprobs else {}
        return f"{base}/chat/completions", body

    def _extras(self, request: Request) -> dict[str, object]:
        """The field `llmcli`, in which a server of llmcli is asked for what the API has no place for."""
        if not self.dialect.has_extras:
            return {}
        extras: dict[str, object] = {"replay": True if request.replay is None else request.replay}
        extras |= {} if request.trace is None else {"trace": request.trace}
        return {"llmcli": extras | ({"shift": True} if request.live_shift else {})}

    def _room(self, request: Request) -> int | None:
        """A limit for a raw text without one: for many servers that means 16 tokens."""
        if self.dialect.kind in ("llama-server", "llmcli"):
            return -1
        if self.dialect.kind == "vllm" or not self.n_ctx:
            return None
        return max(self.n_ctx - self.count_prompt(request.prompt), 1)

    def _post(
        self, route: str, body: Mapping[str, object], seconds: float = LOOK_SECONDS, attempts: int = ATTEMPTS
    ) -> object:
        """The JSON data of a route of the server's own."""
        url = self.served.endpoint.root + route
        return self.pool.post(url, {"model": self.name, **body}, self._cancellation, seconds, attempts)

    def _check_answer(self, delta: Delta) -> None:
        """Note what the user should know of an answer: another model, or a text that the server removed."""
        host, said = self.served.host, self.served.endpoint.quoted(delta.model, 100)
        if said and not _is_same(self.name, delta.model) and said not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(said)
            self._note(f"{host} answered with the model {said}, not with {self.name}")
        if delta.loss:
            self._note(f"{host} {delta.loss}")

    def _check_end(self, request: Request, event: TokenEvent) -> None:
        """Note what is missing in an answer that is complete."""
        record = event.record
        if request.settings.logprobs and record.tokens and not record.logprobs and event.finish_reason != "error":
            self._note(f"{self.served.host} gave no log-probabilities")

    # Scores

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:  # noqa: ARG002
        raise UsageError(f"{self.name} does not support scores of a whole prompt", "use a model on this machine")

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None = None
    ) -> list[list[float]]:
        if not self.dialect.scores:
            raise UsageError(f"{self.name} does not support scores", "use a model on this machine")

        def ask(body: Mapping[str, object]) -> object:
            url = f"{self.served.endpoint.base}/completions"
            try:
                return self.pool.post(url, {"model": self.name, **body}, cancellation or self._cancellation)
            except KeyboardInterrupt:
                if cancellation and cancellation.is_set() and cancellation.reason == "timeout":
                    raise TimeLimitError("stopped by timeout", "raise --timeout") from None
                raise

        return _echoed_scores(ask, prefix, continuations, self.served.host)


def _is_same(asked: str, said: str) -> bool:
    """Whether a model is the one that was asked for: by its name, or one that adds a date, a version or a tag."""
    return said.startswith(asked) and not re.match(r"[^-@:]|-\D", said[len(asked) :])


def _echoed_scores(
    ask: _AskScores, prefix: Sequence[int], continuations: Sequence[Sequence[int]], host: str
) -> list[list[float]]:
    """The scores from prompts that the server echoes, as lm-eval asks for it.

    Raises NetworkError if the server does not give the log-probabilities of a prompt.
    """
    found: list[list[float]] = []
    for start in range(0, len(continuations), _SCORED_TOGETHER):
        group = continuations[start : start + _SCORED_TOGETHER]
        prompts = [[*prefix, *one] for one in group]
        data = ask({"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0})
        choices = data.get("choices") if isinstance(data, dict) else None
        listed = choices if isinstance(choices, list) else []
        by_index = {one["index"]: one for one in listed if isinstance(one, dict) and is_int(one.get("index"))}
        found += [_echoed_values(by_index.get(at, {}), len(prefix), len(one), host) for at, one in enumerate(group)]
    return found


def _echoed_values(choice: Mapping[str, object], n_prefix: int, n_tokens: int, host: str) -> list[float]:
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    own = [*map(as_logprob, values[n_prefix : n_prefix + n_tokens])] if isinstance(values, list) else []
    found = [value for value in own if value is not None and value > LOWEST]
    if len(found) < n_tokens:
        raise NetworkError(f"{host} gave no log-probabilities of the prompt", "use a model on this machine")
    return found
