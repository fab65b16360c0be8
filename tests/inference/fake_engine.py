"""An engine without a model: what it answers, how long that takes, and what it cannot do is given."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace

from llmcli.engine.events import (
    Cancellation,
    FinishReason,
    GenerationRecord,
    Message,
    Progress,
    Prompt,
    Request,
    ScoredPrompt,
    Timings,
    TokenEvent,
    TokenLogprob,
    TokenTrace,
    common_prefix,
)
from llmcli.engine.token_inspection import TokenInspector
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.inference.engine import Capabilities, EngineIdentity, RequestSource, TemplateOptions
from llmcli.inference.prompt_renderer import PromptRenderer
from llmcli.inference.replay_manifest import ReplayManifest
from llmcli.params.settings import Layer, Settings
from tests.inference.fake_vocab import FakeVocab

Script = Iterable[str | BaseException]  # pieces of an answer; an error ends it, another exception is raised
_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


class FakeEngine:
    """Gives the scripts one after the other, the last one again and again; or what `reply` makes of each request.

    `delay` is in seconds per piece. Each piece counts as one token. An answer ends at the settings' `max_tokens`.
    `logprob` is that of a token after others.
    """

    def __init__(
        self,
        *scripts: Script,
        reply: Callable[[Request], Script] | None = None,
        delay: float = 0.0,
        capabilities: Capabilities | None = None,
        tokenizer: FakeVocab | None = None,
        chat_template: str = _TEMPLATE,
        n_ctx: int = 4096,
        logprob: Callable[[Sequence[int], int], float] = lambda _before, _token: -1.0,
    ) -> None:
        self.name, self.has_ended = "fake", False
        self.capabilities = capabilities or Capabilities(inspection=False)
        self.tokenizer = tokenizer or FakeVocab()
        self.chat_template = chat_template
        self.n_ctx = self.n_ctx_train = n_ctx
        self.defaults = Layer("model", {})
        self.notes: list[str] = []
        self.remark = ""
        self.placement = ""
        self.facts = ("model: fake",)
        self.load_ms = self.waited_ms = 1.0
        self.requests: list[Request] = []  # all that were asked
        self.is_closed = False
        self.kept: list[str] = []  # the sessions whose contexts were stored
        self.n_running = 0  # most answers of a batch at a time
        self._scripts = list(scripts) or [("Hello.",)]
        self._reply = reply or self._next_script
        self._delay = delay
        self._renderer = PromptRenderer(self.tokenizer)
        self._evaluated: Sequence[int] = ()
        self._logprob = logprob
        self.scored: list[tuple[list[int], list[list[int]]]] = []  # prefixes and continuations

    def _next_script(self, _request: Request) -> Script:
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]

    def identity(self, patience: float = 0.0) -> EngineIdentity:  # noqa: ARG002
        return EngineIdentity("0" * 64, "fake 1", "a machine")

    def identify(self, progress: Progress, cancellation: Cancellation) -> None: ...

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.tokenize(text))

    def prompt_text(self, prompt: Prompt) -> str:
        return prompt.text

    def count_prompt(self, prompt: Prompt) -> int:
        return len(prompt.tokens)

    def context_size(self, settings: Settings) -> int:
        return settings.n_ctx or self.n_ctx

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        return self._renderer.render(request, options)

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        """A piece of each answer in turn, as they would come side by side."""
        self.requests += requests
        if requests[0].replay is not None:
            ReplayManifest.from_data(requests[0].replay).prepare(requests[0])
        running = [self._answer(index, one, len(requests)) for index, one in enumerate(requests)]
        while running:
            for answer in list(running):
                event = next(answer)
                if event.finish_reason:
                    running.remove(answer)
                yield event

    def repeat(self, request: Request) -> Generator[TokenEvent | None, None, None]:
        yield None
        yield from self.generate([request])

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        """A piece of each answer in turn, of at most `n_parallel` (4) at a time."""
        running: list[Generator[TokenEvent, None, None]] = []
        n_asked = 0
        while True:
            while len(running) < (n_parallel or 4) and (request := requests(not running)):
                self.n_running = max(self.n_running, len(running) + 1)
                running.append(self._answer(n_asked, request, n_parallel or 4))
                n_asked += 1
            if not running:
                return
            for answer in list(running):
                event = next(answer)
                if event.finish_reason:
                    running.remove(answer)
                yield event

    def _answer(self, index: int, request: Request, count: int) -> Generator[TokenEvent, None, None]:
        tokens, limit = request.prompt.tokens, request.settings.max_tokens
        record = GenerationRecord(tokens=[*tokens], timings=Timings(prompt_n=len(tokens)))
        record.n_ctx, record.n_threads, record.beside = self.n_ctx, (1, 1), count - 1
        record.layout, self._evaluated = [(len(tokens), len(tokens), 1)], tokens
        if request.progress:
            request.progress(len(tokens), len(tokens))

        def event(text: str, token: int | None, reason: FinishReason | None = None) -> TokenEvent:
            record.finish_reason = reason
            n = len(record.traces)
            return TokenEvent(text, token, reason, record, index, n, n)

        for piece in self._reply(request):
            if self._delay:
                time.sleep(self._delay)
            if request.cancellation.is_set():
                yield event("", None, request.cancellation.reason)
            if 0 <= limit <= record.timings.predicted_n:
                yield event("", None, "length")
            if isinstance(piece, LlmcliError):
                record.failure = piece
                yield event("", None, "error")
            if isinstance(piece, BaseException):
                raise piece
            *_, token = letters = self.tokenizer.tokenize(piece)
            record.tokens += letters
            record.timings.predicted_n += 1
            if request.trace is not None:
                n = len(record.traces)
                record.traces.append(TokenTrace(n, token, "", 0.5, 1, 0.7, 1.0, 2, (), "1.0", 0, float(n)))
            yield event(piece, token)
        yield event("", None, request.cancellation.reason if request.cancellation.is_set() else "stop")

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None = None
    ) -> list[list[float]]:
        longest = len(prefix) + max(map(len, continuations), default=0)
        if longest > self.n_ctx:
            raise ContextOverflowError(f"the prompt has {longest} tokens, and the context has {self.n_ctx}")
        if cancellation and cancellation.is_set():
            raise KeyboardInterrupt
        self.scored.append(([*prefix], [[*tokens] for tokens in continuations]))
        return [
            [self._logprob([*prefix, *tokens[:index]], token) for index, token in enumerate(tokens)]
            for tokens in continuations
        ]

    def open_context(self, settings: Settings) -> None: ...

    def keep_context(self, session: str = "") -> Sequence[str]:
        self.kept.append(session)
        return ()

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:
        """The most likely tokens in a place are the one that stands there, and those after it in the vocabulary."""
        (own,) = self.score(tokens[:1], [tokens[1:]], cancellation)
        pairs = zip(tokens[1:], own, strict=True)
        found = [TokenLogprob(one, p, tuple((one + n, p - n) for n in range(n_top))) for one, p in pairs]
        return ScoredPrompt(tokens, found, tuple((tokens[-1] + n, -1.0 - n) for n in range(n_top)))

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:  # noqa: ARG002
        self._evaluated = tokens

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        return common_prefix(tokens, self._evaluated)

    def inspector(self, request: Request, tokens: Sequence[int]) -> TokenInspector:  # noqa: ARG002
        raise UsageError("fake does not support /why")

    def close(self) -> None:
        self.is_closed = True


def without(**capabilities: bool | frozenset[str]) -> Capabilities:
    """What a fake engine can do, apart from these."""
    return replace(Capabilities(inspection=False), **capabilities)  # type: ignore[arg-type]
