"""The interface between whoever asks for answers and whatever generates them: a model in this process or elsewhere."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from llmcli.engine.events import Batches, Cancellation, TemperatureShift, TokenEvent
from llmcli.engine.llama.context import common_prefix
from llmcli.engine.llama.model import Vocab
from llmcli.engine.reasoning import TAGS, ReasoningSplitter
from llmcli.errors import UsageError
from llmcli.params.settings import Layer, Settings, fields

if TYPE_CHECKING:
    from llmcli.engine.token_inspection import TokenInspector as TokenInspector

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)
Message = Mapping[str, object]  # "role" and "content"
REASONING_TAGS = TAGS
Tokenizer = Vocab  # that of another engine is a subclass


@dataclass(frozen=True)
class TokenChunk:
    """A part of a prompt as tokens; other kinds come with the engines that read them: text, images."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class Prompt:
    """A prompt as it will be evaluated."""

    text: str  # with control tokens
    chunks: Sequence[TokenChunk]
    request: Sequence[Message] | str = ""  # what it was made of: messages, or with `raw` a text
    template: str = ""  # the source of the chat template
    time: float = 0.0  # that the template got (seconds since 1970)

    @classmethod
    def of_tokens(cls, text: str, tokens: Sequence[int], request: Sequence[Message] | str = "") -> "Prompt":
        """A prompt of one chunk, without a template."""
        return cls(text, (TokenChunk(tokens),), request)

    @cached_property
    def tokens(self) -> Sequence[int]:
        """The tokens of all chunks."""
        if len(self.chunks) == 1:
            return self.chunks[0].tokens
        return [token for chunk in self.chunks for token in chunk.tokens]

    def n_common(self, other: "Prompt") -> int:
        """The number of tokens that both prompts begin with."""
        return common_prefix(self.tokens, other.tokens)


@dataclass(frozen=True)
class TemplateOptions:
    """How messages become a prompt. For a raw text only the `prefill` counts."""

    source: str  # the chat template
    origin: str = "the chat template"  # its name in errors
    is_given: bool = False  # by the user, who can correct it
    prefill: str = ""  # the beginning of the answer
    thinking: bool = True  # whether the model may reason first, where its template lets one choose
    time: float | None = None  # the time for the template (seconds since 1970); None = now


@dataclass
class Request:
    """One answer that is asked for; `settings.seed` must be a number."""

    prompt: Prompt
    settings: Settings
    grammar: str | None = None  # GBNF that the answer matches
    progress: Progress | None = None  # called while the prompt is evaluated
    reasoning: str = ""  # the reasoning so far, if the answer continues another one
    live_shift: TemperatureShift | None = None  # changes the temperature while the answer is generated
    trace: int | None = None  # record how each token is sampled, with so many alternatives; None = no trace
    cancellation: Cancellation = field(default_factory=Cancellation)  # ends this answer, and keeps its text
    label: str = ""  # its name in errors, where there are several
    max_drawn: int | None = None  # stop after so many sampled tokens, as a recorded answer was stopped

    def continue_from(self, reasoning: str, text: str) -> None:
        """Continue an answer, whose reasoning and text are at the end of the prompt already."""
        self.reasoning, self.settings = reasoning, replace(self.settings, prefill=text or None)

    def splitter(self) -> ReasoningSplitter | None:
        """A new splitter of reasoning and answer; None where all text is the answer."""
        if self.settings.raw or self.settings.prefill:
            return None
        return ReasoningSplitter(self.prompt.text, bool(self.reasoning))


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do: everything, unless said otherwise."""

    ignored_settings: frozenset[str] = frozenset()  # keys of the settings that it does not have
    grammars: bool = True  # an answer can be made to match a grammar
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
    load_ms: float  # time of the load
    waited_ms: float  # the part of it that somebody waited for; 0 after the first answer

    @property
    def tokenizer(self) -> Tokenizer: ...
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
    changed = [key for key, field in fields().items() if key in ignored and getattr(settings, key) != field.default]
    if request.grammar is not None and not capabilities.grammars:
        changed.append("grammar")
    if settings.logprobs and not capabilities.logprobs:
        changed.append("logprobs")
    if request.trace is not None and not capabilities.traces:
        changed.append("trace")
    if request.live_shift is not None and not capabilities.live_temperature:
        changed.append("temperature changes during an answer")
    if changed:
        raise UsageError(f"{engine.name} does not support {', '.join(changed)}", "remove it, or use another model")
