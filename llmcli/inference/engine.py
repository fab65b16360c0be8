"""The interface between who asks for an `Answer` and the `Engine` that generates it, in this process or elsewhere."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from llmcli.engine.events import (
    Batches,
    Cancellation,
    GenerationRecord,
    Message,
    Progress,
    Prompt,
    Request,
    TokenEvent,
    TokenTrace,
)
from llmcli.engine.llama.model import Vocab as Vocab
from llmcli.engine.reasoning import REASONING_TAGS as REASONING_TAGS
from llmcli.engine.reasoning import ReasoningSplitter as ReasoningSplitter
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.sampler_chain import is_random
from llmcli.params.settings import Layer, Settings, fields

if TYPE_CHECKING:
    from llmcli.engine.token_inspection import TokenInspector as TokenInspector

# Called for the next request, with True if no answer is being generated: it may wait then, and None ends the batch.
# Otherwise None says only that there is none at the moment.
RequestSource = Callable[[bool], Request | None]
Part = tuple[str, str]  # ("answer" or "think", text)
REASONING_HINT = "end the reasoning with --think-budget, or use a larger --ctx-size"
_NO_TOKEN = TokenTrace(0, None, "", None, None, None, None, None, (), "", 0, 0.0)  # of text that belongs to no token


@dataclass(frozen=True)
class TemplateOptions:
    """How messages become a prompt. For a raw text only the `prefill` counts."""

    source: str  # the chat template
    origin: str = "the chat template"  # its name in errors
    is_given: bool = False  # by the user, who can correct it
    prefill: str = ""  # the beginning of the answer
    # Further variables of the template, such as whether the model reasons first.
    arguments: Mapping[str, object] = field(default_factory=dict)
    time: float | None = None  # the time for the template (seconds since 1970); None = now


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do: everything, unless said otherwise."""

    ignored_settings: frozenset[str] = frozenset()  # keys of the settings that it does not have
    constraints: bool = True  # an answer can be made to match a grammar, a schema or a regular expression
    logprobs: bool = True  # it gives the log-probabilities of tokens
    traces: bool = True  # it records how tokens are sampled
    live_temperature: bool = True  # the temperature can change while an answer is generated
    replay: bool = True  # it can evaluate a prompt in recorded batches
    inspection: bool = True  # it can show how a token of an answer was sampled


@dataclass(frozen=True)
class EngineIdentity:
    """What an answer depends on beside its request; empty where it is not known."""

    model_sha256: str = ""  # of the model file
    build: str = ""  # the release of the library
    machine: str = ""  # the processor
    gpu_layers: int = 0  # number of layers on a GPU


class Engine(Protocol):
    """What generates answers. `notes` are for the user; whoever shows them removes them."""

    name: str  # of the model
    capabilities: Capabilities
    defaults: Layer  # the model's own settings
    chat_template: str  # the model's own; empty if it has none
    notes: list[str]
    n_ctx_train: int  # size of the context that the model was trained on, in tokens
    load_ms: float  # time of the load
    waited_ms: float  # the part of it that somebody waited for; 0 after the first answer

    @property
    def tokenizer(self) -> Vocab: ...  # that of another engine is a subclass
    @property
    def facts(self) -> Sequence[str]: ...  # about the model, for `--verbose`
    @property
    def n_ctx(self) -> int: ...  # size of the context in tokens; 0 before there is one

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        """What answers depend on; waits at most `patience` seconds for the sha256 of the model."""

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        """Compute the sha256 of the model; `progress` counts bytes."""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in a message."""

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        """The prompt for messages, or for a raw text.

        Raises UsageError when a template that the user gave fails, else ModelInvalidError (not valid) or LlmcliError.
        """

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        """The events of the answers, each with the index of its request; several are generated side by side.

        A request that fails ends alone: its last event has the reason "error", and its record the failure. Raises
        ContextOverflowError when a prompt does not fit, and UsageError, before all, when a request is not valid.
        """

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        """The events of any number of answers, each with the index of its request; an ended one makes room at once.

        At most `n_parallel` are generated at a time; with 0, as many as are fast on this machine. A request that cannot
        be answered ends alone, also one whose prompt does not fit: its last event has the reason "error". All requests
        have the same settings of the model and its context.
        """

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        """Evaluate the first tokens of a later prompt; a cancellation keeps those that are evaluated."""

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are in the context already."""

    def evaluate_batches(self, request: Request, layout: Batches) -> None:
        """Evaluate the prompt of a later request in recorded batches, all but the last one, which the answer evaluates.

        Raises ValueError when the batches do not fit, ContextOverflowError when the prompt does not.
        """

    def inspector(self, request: Request, tokens: Sequence[int]) -> "TokenInspector":
        """Shows how `tokens`, the answer to a request, were sampled."""

    def close(self) -> None:
        """Free everything. A second call does nothing."""


def check_request(engine: Engine, request: Request) -> None:
    """Refuse what an engine cannot do, with a UsageError that names the engine and the setting."""
    capabilities, settings, ignored = engine.capabilities, request.settings, engine.capabilities.ignored_settings
    changed = [key for key, one in fields().items() if key in ignored and getattr(settings, key) != one.default]
    if request.constraint is not None and not capabilities.constraints:
        changed.append(request.constraint.kind)
    if settings.logprobs and not capabilities.logprobs:
        changed.append("logprobs")
    if request.trace is not None and not capabilities.traces:
        changed.append("trace")
    if request.live_shift is not None and not capabilities.live_temperature:
        changed.append("temperature changes during an answer")
    if changed:
        raise UsageError(f"{engine.name} does not support {', '.join(changed)}", "remove it, or use another model")


class Answer:
    """An answer while it is generated. Iterate over `parts()` to its end, then read the other attributes.

    `on_token` is called with the trace of each token, in order, once the token cannot be removed any more. All texts of
    the traces joined are the answer exactly; text that belongs to no token is a trace without an id.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine, self.request, self.prompt = engine, request, request.prompt
        self.on_token: Callable[[TokenTrace], None] = lambda _token: None
        self._reset()

    def _reset(self) -> None:
        self.text, self.reasoning, self.finish_reason = "", self.request.reasoning, ""
        self.problem: str | None = None  # why the finished text does not match its constraint
        self.n_drawn = 0  # tokens sampled, including those removed later
        self.record = GenerationRecord()
        self.started = self._has_begun = False
        self.traces: list[TokenTrace] = []
        self._splitter: ReasoningSplitter | None = None
        self._waited_ms = 0.0  # for the model
        self._texts: list[tuple[str, str]] = []  # the text and the reasoning of each token
        self._n_sent = 0  # tokens whose traces were passed on

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of the answer, without those of the prompt."""
        return self.record.tokens[len(self.prompt.tokens) :]

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they become certain, beginning with the prefill. Raises what ended it.

        Where only a finished answer can be checked for its constraint, its parts come after its end, and one that does
        not match is generated again with the next seed, at most `constraint_retries` times.
        """
        check_request(self.engine, self.request)
        constraint = self.request.constraint
        if not constraint or not constraint.unenforced:
            yield from self._generate()
            return
        send, self.on_token = self.on_token, lambda _token: None
        parts = list(self._generate())
        for _ in range(self.settings.constraint_retries):
            if not self.problem or not is_random(self.settings):
                break
            settings = replace(self.settings, seed=((self.settings.seed or 0) + 1) % 2**32)
            self.request = replace(self.request, settings=settings)
            self._reset()
            parts = list(self._generate())
        for trace in self.traces:
            send(trace)
        yield from parts

    def _generate(self) -> Iterator[Part]:
        with closing(self.engine.generate([self.request])) as events:
            yield from self.begin()
            for event in events:
                yield from self.push(event)  # also the text that was held back by one that failed
                if event.record.failure:
                    raise event.record.failure
                if self.n_drawn == self.request.max_drawn:
                    self.request.cancellation.set()

    def begin(self) -> Iterator[Part]:
        """The parts before the first token; `push` begins an answer that has not begun."""
        self._has_begun = True
        self._waited_ms = self.engine.waited_ms
        self._splitter = ReasoningSplitter.of_request(self.request)
        if self.settings.prefill:
            yield from self._add([("answer", self.settings.prefill)], None)

    def push(self, event: TokenEvent) -> Iterator[Part]:
        """The parts that one more event makes certain; after the last one, the text that was held back."""
        if not self._has_begun:
            yield from self.begin()
        self.record, self.started = event.record, True
        # An event without a token and a reason is that of a banned token, which was drawn and removed.
        self.n_drawn += event.id is not None or not event.finish_reason
        parts = list(self._splitter.push(event.text)) if self._splitter else [("answer", event.text)]
        yield from self._add(parts, event)
        if event.finish_reason:
            self.finish_reason, self.engine.waited_ms = event.finish_reason, 0.0
            yield from self.end()
            if self.request.constraint and self.finish_reason in ("stop", "length"):
                self.problem = self.request.constraint.problem(self.text)

    def end(self) -> Iterator[Part]:
        """The text that was held back."""
        if self._splitter:
            yield from self._add(list(self._splitter.flush()), None)

    def _add(self, parts: Sequence[Part], event: TokenEvent | None) -> Iterator[Part]:
        if self.request.trace is not None:
            self._send_traces(parts, event)
        for kind, text in parts:
            if kind == "think":
                self.reasoning += text
            else:
                self.text += text
            if text:
                yield kind, text

    def _send_traces(self, parts: Sequence[Part], event: TokenEvent | None) -> None:
        """Pass on the traces that became certain with this text; without an event it belongs to no token."""
        text, reasoning = text_and_reasoning(parts)
        if event:
            has_token = event.id is not None
            del self._texts[event.n_traces - has_token :]  # tokens that were removed
            self._texts += [(text, reasoning)] if has_token else []
            while self._n_sent < min(event.n_final, len(self._texts)):
                text_of, reasoning_of = self._texts[self._n_sent]
                self._send(event.record.traces[self._n_sent]._replace(text=text_of, reasoning=reasoning_of))
                self._n_sent += 1
        if (not event or event.id is None) and (text or reasoning):
            self._send(_NO_TOKEN._replace(i=self._n_sent, text=text, reasoning=reasoning))

    def _send(self, trace: TokenTrace) -> None:
        self.traces.append(trace)
        self.on_token(trace)

    @property
    def fills_context(self) -> bool:
        """Whether the prompt and the answer fill the context; `max_tokens` counts without the reasoning."""
        return 0 < self.record.n_ctx <= len(self.record.tokens)

    def reasoning_only(self) -> str:
        """That there is reasoning and no answer, though neither the user nor the time limit ended it; else empty."""
        if not self.reasoning or self.text.strip() or self.finish_reason not in ("stop", "length"):
            return ""
        n_tokens = self.record.timings.predicted_n
        if self.finish_reason == "length":
            return f"the reasoning took all {n_tokens} tokens: the answer did not begin"
        return f"the model stopped after {n_tokens} tokens of reasoning: the answer did not begin"

    def constraint_failure(self) -> ConstraintError | None:
        """Why the answer, which has ended, does not match its constraint; None if it does, or has none."""
        constraint = self.request.constraint
        if not constraint or (self.record.is_complete and not self.problem):
            return None
        if reason := self.reasoning_only():
            return ConstraintError(reason, REASONING_HINT)
        if not self.record.is_complete or self.finish_reason == "length":
            hint = "raise --max-tokens" if self.finish_reason == "length" else "a stop string ended it: remove --stop"
            return ConstraintError("the answer ended before it matched the constraint", hint)
        reason = f"the answer does not match {constraint.kind}: {self.problem}"
        return ConstraintError(reason, "try again, with more --constraint-retries and a temperature above 0")

    def timings(self) -> dict[str, float]:
        """Milliseconds and tokens per second under llama-server's names."""
        t = self.record.timings
        names = "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"
        values = {name: getattr(t, name) for name in names}
        values |= {"ttft_ms": self._waited_ms + t.ttft_ms, "load_ms": self.engine.load_ms}
        return {name: round(value, 3) for name, value in values.items()}


def text_and_reasoning(parts: Sequence[Part]) -> tuple[str, str]:
    """The texts of the answer and of the reasoning in some parts."""
    if len(parts) == 1 and parts[0][0] == "answer":  # the usual case
        return parts[0][1], ""
    answer = "".join(text for kind, text in parts if kind == "answer")
    return answer, "".join(text for kind, text in parts if kind == "think")
