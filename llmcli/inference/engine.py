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
    """A part of a prompt as tokens."""

    tokens: Sequence[int]


Chunk = TokenChunk  # other kinds come with the engines that read them: text of a remote one, images


@dataclass(frozen=True)
class Prompt:
    """A prompt as it will be evaluated; `text` shows control tokens too.

    `request` is what it was made of: messages, or with `raw` a text. `template` is the source of the chat template,
    `time` the time that the template got (seconds since 1970).
    """

    text: str
    chunks: Sequence[Chunk]
    request: Sequence[Message] | str = ""
    template: str = ""
    time: float = 0.0

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
    """How messages become a prompt. For a raw text only the `prefill` counts.

    Attributes:
        source: the chat template.
        origin: its name in errors.
        is_given: by the user, who can correct it.
        prefill: the beginning of the answer.
        thinking: whether the model may reason first, where its template lets one choose.
        time: the time for the template (seconds since 1970); None = now.
    """

    source: str
    origin: str = "the chat template"
    is_given: bool = False
    prefill: str = ""
    thinking: bool = True
    time: float | None = None


@dataclass
class Request:
    """One answer that is asked for; `settings.seed` must be a number.

    Attributes:
        grammar: GBNF that the answer matches.
        progress: called while the prompt is evaluated.
        reasoning: the reasoning so far, if the answer continues another one.
        live_shift: changes the temperature while the answer is generated.
        trace: record how each token is sampled, with so many alternatives; None = no trace.
        cancellation: ends this answer, and keeps its text.
        label: its name in errors, where there are several.
    """

    prompt: Prompt
    settings: Settings
    grammar: str | None = None
    progress: Progress | None = None
    reasoning: str = ""
    live_shift: TemperatureShift | None = None
    trace: int | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
    label: str = ""

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
    """What an engine can do: everything, unless said otherwise.

    Attributes:
        ignored_settings: keys of the settings that it does not have.
        grammars: an answer can be made to match a grammar.
        traces: it records how tokens are sampled.
        live_temperature: the temperature can change while an answer is generated.
        replay: it can evaluate a prompt in recorded batches.
        inspection: it can show how a token of an answer was sampled.
    """

    ignored_settings: frozenset[str] = frozenset()
    grammars: bool = True
    traces: bool = True
    live_temperature: bool = True
    replay: bool = True
    inspection: bool = True


@dataclass(frozen=True)
class EngineIdentity:
    """What an answer depends on beside its request; empty where it is not known.

    `model_sha256` is that of the model file, `build` the release of the library, `machine` the processor, `gpu_layers`
    the number of layers on a GPU.
    """

    model_sha256: str = ""
    build: str = ""
    machine: str = ""
    gpu_layers: int = 0


class Engine(Protocol):
    """What generates answers.

    Attributes:
        name: of the model.
        defaults: the model's own settings.
        notes: for the user; whoever shows them removes them.
        chat_template: the model's own; empty if it has none.
        facts: about the model, for `--verbose`.
        load_ms: time of the load; `waited_ms`: the part of it that somebody waited for, 0 after the first answer.
        n_ctx: size of the context in tokens; 0 before there is one.
    """

    capabilities: Capabilities
    load_ms: float
    waited_ms: float

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def defaults(self) -> Layer: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def chat_template(self) -> str: ...
    @property
    def facts(self) -> Sequence[str]: ...
    @property
    def n_ctx(self) -> int: ...

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        """What answers depend on; waits at most `patience` seconds for the sha256 of the model."""

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        """Compute the sha256 of the model; `progress` counts bytes."""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in a message."""

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        """The prompt for messages, or for a raw text.

        Raises:
            ModelInvalidError: when the template of the model is not valid.
            UsageError: when the given one is not valid, or fails.
            LlmcliError: when another one fails.
        """

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        """The events of the answers, each with the index of its request; several are generated side by side.

        A request that fails ends alone: its last event has the reason "error", and its record the failure.

        Raises:
            ContextOverflowError: when a prompt does not fit.
            UsageError: when a request is not valid; nothing is evaluated then.
        """

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        """Evaluate the first tokens of a later prompt; a cancellation keeps those that are evaluated."""

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are in the context already."""

    def evaluate_batches(self, request: Request, layout: Batches) -> None:
        """Evaluate the prompt of a later request in recorded batches, all but the last one, which the answer evaluates.

        Raises:
            ValueError: when the batches do not fit the prompt or the context.
            ContextOverflowError: when the prompt does not fit.
        """

    def inspector(self, request: Request, tokens: Sequence[int]) -> "TokenInspector":
        """Shows how `tokens`, the answer to a request, were sampled."""

    def close(self) -> None:
        """Free everything. A second call does nothing."""


def check_request(engine: Engine, request: Request) -> None:
    """Refuse what an engine cannot do.

    Raises:
        UsageError: naming the engine and the setting.
    """
    capabilities, settings = engine.capabilities, request.settings
    ignored = capabilities.ignored_settings
    changed = [key for key, field in fields().items() if key in ignored and getattr(settings, key) != field.default]
    if request.grammar is not None and not capabilities.grammars:
        changed.append("grammar")
    if request.trace is not None and not capabilities.traces:
        changed.append("trace")
    if request.live_shift is not None and not capabilities.live_temperature:
        changed.append("temperature changes during an answer")
    if changed:
        raise UsageError(f"{engine.name} does not support {', '.join(changed)}", "remove it, or use another model")
