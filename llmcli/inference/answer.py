"""One answer: it comes in parts, and is complete after the last one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from llmcli.engine.events import GenerationRecord, TokenEvent, TokenTrace
from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.inference.engine import Engine, Prompt, Request, check_request
from llmcli.params.settings import Settings

Part = tuple[str, str]  # ("answer" or "think", text)


class TraceTexts:
    """Passes on the trace of each token with its text, in order, once the token cannot be removed any more.

    All texts joined are the answer exactly. Text that belongs to no token is passed on as a token without an id.
    """

    def __init__(self, on_token: Callable[[TokenTrace], None]) -> None:
        self._on_token = on_token
        self._texts: list[tuple[str, str]] = []  # answer and reasoning of each token
        self._n_sent = 0

    def add(self, parts: Sequence[Part], event: TokenEvent | None = None) -> None:
        """Add the text of one event, or text without an event: a prefill, or text that was held back to the end."""
        if event:
            has_token = event.id is not None
            del self._texts[event.n_traces - has_token :]  # tokens that were removed
            self._texts += [_by_kind(parts)] if has_token else []
            while self._n_sent < min(event.n_final, len(self._texts)):
                text, reasoning = self._texts[self._n_sent]
                self._on_token(event.record.traces[self._n_sent]._replace(text=text, reasoning=reasoning))
                self._n_sent += 1
        if not event or event.id is None:
            self._pass_text(*_by_kind(parts))

    def _pass_text(self, text: str, reasoning: str) -> None:
        """Pass on text that belongs to no token."""
        if text or reasoning:
            index = self._n_sent
            self._on_token(TokenTrace(index, None, text, None, None, None, None, None, (), "", 0, 0.0, reasoning))


@dataclass
class Answer:
    """An answer while it is generated. Iterate over `parts()` to its end, then read the other attributes.

    `on_token` is called with the trace of each token, once it is certain.
    """

    engine: Engine
    request: Request
    on_token: Callable[[TokenTrace], None] = field(default=lambda _token: None, repr=False)
    text: str = field(init=False, default="")
    reasoning: str = field(init=False, default="")
    finish_reason: str = field(init=False, default="")
    n_drawn: int = field(init=False, default=0)  # tokens sampled, including those removed later
    traces: list[TokenTrace] = field(init=False, default_factory=list, repr=False)
    record: GenerationRecord = field(init=False, default_factory=GenerationRecord, repr=False)
    started: bool = field(init=False, default=False)
    _splitter: ReasoningSplitter | None = field(init=False, default=None, repr=False)
    _texts: TraceTexts = field(init=False, repr=False)

    @property
    def prompt(self) -> Prompt:
        return self.request.prompt

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of the answer, without those of the prompt."""
        return self.record.tokens[len(self.prompt.tokens) :]

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they become certain, beginning with the prefill.

        Raises:
            ContextOverflowError, ConstraintError, PolicyError, UsageError: see `Engine.generate`.
        """
        check_request(self.engine, self.request)
        with closing(self.engine.generate([self.request])) as events:
            yield from self.begin()
            for event in events:
                if event.finish_reason == "error" and event.record.failure:
                    self.record, self.started = event.record, True
                    raise event.record.failure
                yield from self.push(event)

    def begin(self) -> Iterator[Part]:
        """The parts before the first token. Call `push` with each event of the answer afterwards."""
        self._splitter, self._texts = self.request.splitter(), TraceTexts(self._add_trace)
        if self.settings.prefill:
            yield from self._add([("answer", self.settings.prefill)], None)

    def push(self, event: TokenEvent) -> Iterator[Part]:
        """The parts that one more event makes certain; after the last one, the text that was held back."""
        self.record, self.started = event.record, True
        self.n_drawn += event.id is not None or not event.finish_reason
        parts = list(self._splitter.push(event.text)) if self._splitter else [("answer", event.text)]
        yield from self._add(parts, event)
        if event.finish_reason:
            self.finish_reason = event.finish_reason
            yield from self.end()

    def end(self) -> Iterator[Part]:
        """The text that was held back."""
        if self._splitter:
            yield from self._add(list(self._splitter.flush()), None)

    def _add(self, parts: Sequence[Part], event: TokenEvent | None) -> Iterator[Part]:
        if self.request.trace is not None:
            self._texts.add(parts, event)
        for kind, text in parts:
            if kind == "think":
                self.reasoning += text
            else:
                self.text += text
            if text:
                yield kind, text

    def _add_trace(self, token: TokenTrace) -> None:
        self.traces.append(token)
        self.on_token(token)

    def timings(self) -> dict[str, float]:
        """Milliseconds and tokens per second under llama-server's names."""
        t = self.record.timings
        return {
            "prompt_n": t.prompt_n,
            "prompt_ms": round(t.prompt_ms, 3),
            "prompt_per_second": round(t.prompt_per_second, 3),
            "predicted_n": t.predicted_n,
            "predicted_ms": round(t.predicted_ms, 3),
            "predicted_per_second": round(t.predicted_per_second, 3),
            "ttft_ms": round(self.engine.waited_ms + t.ttft_ms, 3),
            "load_ms": round(self.engine.load_ms, 3),
        }


def _by_kind(parts: Sequence[Part]) -> tuple[str, str]:
    if len(parts) == 1 and parts[0][0] == "answer":  # the usual case
        return parts[0][1], ""
    answer = "".join(text for kind, text in parts if kind == "answer")
    return answer, "".join(text for kind, text in parts if kind == "think")
