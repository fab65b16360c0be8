"""The interface of whatever generates answers, in this process or elsewhere: `Engine`, and what it can do."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llmcli.engine.events import (
    Cancellation,
    Message,
    Progress,
    Prompt,
    Request,
    ScoredPrompt,
    TokenEvent,
    TokenInspection,
)
from llmcli.engine.llama.model import Vocab as Vocab
from llmcli.engine.sentences import sentence_ends as sentence_ends
from llmcli.errors import UsageError
from llmcli.params.settings import Layer, Settings, fields

# Called for the next request, with True if no answer is being generated: it may wait then, and None ends the batch.
# Otherwise None says only that there is none at the moment.
RequestSource = Callable[[bool], Request | None]


_NEVER_DROPPED = ("prefill",)  # without it, an answer is one to something else


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
    replay: bool = True  # it can repeat a recorded answer
    inspection: bool = True  # it can show how a token of an answer was sampled
    scores: bool = True  # it gives the log-probabilities of texts that it did not generate
    tokens: bool = True  # it has a tokenizer at hand, and the tokens of its answers have numbers
    own_defaults: bool = False  # settings that nobody set have the values of a server
    tells_defaults: bool = True  # and these are known
    # What it does not have of some settings, where that depends on their values.
    unsupported: Callable[[Settings], Sequence[str]] = lambda _settings: ()


@dataclass(frozen=True)
class EngineIdentity:
    """What an answer depends on beside its request; empty where it is not known."""

    model_sha256: str = ""  # of the model file
    build: str = ""  # the release of the library
    machine: str = ""  # the processor
    gpu_layers: int = 0  # number of layers on a GPU


class UnsupportedError(UsageError):
    """An engine does not have what is asked for; another one may."""


class TokenInspector(Protocol):
    """Shows how the tokens of an answer were drawn; see `engine/token_inspection.py`."""

    @property
    def stateful_steps(self) -> list[str]: ...
    def inspect(
        self, at: int, count: int, cancellation: Cancellation, progress: Progress
    ) -> TokenInspection | None: ...
    def entropies(self, cancellation: Cancellation, progress: Progress) -> list[float] | None: ...
    def token_at_rank(self, at: int, rank: int, cancellation: Cancellation, progress: Progress) -> int | None: ...


class Engine(Protocol):
    """What generates answers. `notes` are for the user; whoever shows them removes them."""

    name: str  # of the model
    capabilities: Capabilities
    defaults: Layer  # the model's own settings
    chat_template: str  # the model's own; empty if it has none
    notes: list[str]
    n_ctx_train: int  # size of the context that the model was trained on, in tokens
    placement: str  # the layers of each device, in words; "" where it is this machine's processor or not known
    remark: str  # which model was chosen, where nobody named one
    load_ms: float  # time of the load
    waited_ms: float  # the part of it that somebody waited for; 0 after the first answer

    @property
    def has_ended(self) -> bool: ...  # whether another process that answered has ended: a new engine is needed
    @property
    def tokenizer(self) -> Vocab: ...  # that of another engine is a subclass
    @property
    def facts(self) -> Sequence[str]: ...  # about the model, for `--verbose`
    @property
    def n_ctx(self) -> int: ...  # size of the context in tokens; 0 before there is one, or if it is not known

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        """What answers depend on; waits at most `patience` seconds for the sha256 of the model."""

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        """Compute the sha256 of the model; `progress` counts bytes."""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in a message; an estimate, if the engine has no tokenizer."""

    def prompt_text(self, prompt: Prompt) -> str:
        """The text of a prompt, with control tokens. Raises UsageError where nobody tells it."""

    def count_prompt(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt; an estimate, if the engine has no tokenizer."""

    def context_size(self, settings: Settings) -> int:
        """Size in tokens of the largest context for one answer: that of the settings, or what fits in memory."""

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        """The prompt for messages, or for a raw text.

        Raises UsageError when a template that the user gave fails, else ModelInvalidError (not valid) or LlmcliError.
        """

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        """The events of the answers, each with the index of its request; several are generated side by side.

        A request that fails ends alone: its last event has the reason "error", and its record the failure. Raises
        ContextOverflowError when a prompt does not fit, and UsageError, before all, when a request is not valid.

        A request with a `replay` is alone, as `repeat` generates it.
        """

    def repeat(self, request: Request) -> Generator[TokenEvent | None, None, None]:
        """The events of an answer with a `replay`, in a context of its own; None between two batches of its prompt.

        The prompt is evaluated in the recorded batches, as the rounding depends on them. Raises UsageError when they
        do not fit, ContextOverflowError when the prompt does not.
        """

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        """The events of any number of answers, each with the index of its request; an ended one makes room at once.

        At most `n_parallel` are generated at a time; with 0, as many as are fast on this machine. A request that cannot
        be answered ends alone, also one whose prompt does not fit: its last event has the reason "error". All requests
        have the same settings of the model and its context.
        """

    def score(
        self,
        prefix: Sequence[int],
        continuations: Sequence[Sequence[int]],
        cancellation: Cancellation | None = None,
    ) -> list[list[float]]:
        """The natural log-probability of each token of each continuation of a prefix, which has a token at least.

        It is that of the model over the whole vocabulary: no setting of the sampling counts. The beginning that a
        prefix shares with that of the last call is evaluated once. Raises ContextOverflowError when the prefix with the
        longest continuation does not fit; TimeLimitError or KeyboardInterrupt when it is cancelled.
        """

    def open_context(self, settings: Settings) -> None:
        """Make the context of a conversation now, large enough for answers of any length."""

    def keep_context(self, session: str = "") -> Sequence[str]:
        """Store what was evaluated, so that later processes need not do it again; returns what was done, in words.

        Of a session that is its whole context; else what later prompts can share. A conversation without a session is
        not stored. Without a session, the context is closed.
        """

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:
        """The log-probability of each token of a prompt, with the `n_top` most likely ones in its place.

        The beginning that it shares with the prompt of the last call is evaluated once. Raises as `score`.
        """

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        """Evaluate the first tokens of a later prompt; a cancellation keeps those that are evaluated."""

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are in the context already."""

    def inspector(self, request: Request, tokens: Sequence[int]) -> TokenInspector:
        """Shows how `tokens`, the answer to a request, were sampled."""

    def close(self) -> None:
        """Free everything. A second call does nothing."""


def unsupported_settings(engine: Engine, settings: Settings) -> list[str]:
    """What an engine does not have of some settings: each is an error, or dropped if the settings say so."""
    ignored = engine.capabilities.ignored_settings
    changed = [key for key, one in fields().items() if key in ignored and getattr(settings, key) != one.default]
    return [*changed, *engine.capabilities.unsupported(settings)]


def dropped_settings(engine: Engine, settings: Settings) -> list[str]:
    """Those that are left out because the settings say so."""
    lost = unsupported_settings(engine, settings) if settings.drop_unsupported else []
    return [one for one in lost if one not in _NEVER_DROPPED]


def check_request(engine: Engine, request: Request) -> None:
    """Refuse what an engine cannot do, with an UnsupportedError that names the engine and the setting."""
    capabilities, settings = engine.capabilities, request.settings
    dropped = dropped_settings(engine, settings)
    changed = [one for one in unsupported_settings(engine, settings) if one not in dropped]
    hint = "remove it, or use another model"
    if changed and capabilities.own_defaults:
        hint = "remove it, or let --drop-unsupported leave it out"
    if request.constraint is not None and not capabilities.constraints:
        changed.append(request.constraint.kind)
    if settings.logprobs and not capabilities.logprobs:
        changed.append("logprobs")
    if request.trace is not None and not capabilities.traces:
        changed.append("trace")
    if request.live_shift is not None and not capabilities.live_temperature:
        changed.append("temperature changes during an answer")
    if changed:
        raise UnsupportedError(f"{engine.name} does not support {', '.join(changed)}", hint)


def check_scores(engine: Engine, what: str) -> None:
    """Refuse what needs scores, with an UnsupportedError, where an engine has none."""
    if not engine.capabilities.scores:
        raise UnsupportedError(f"{engine.name} does not support {what}", "use a model on this machine")
