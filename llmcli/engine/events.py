"""What passes between the engine and those above, as plain data: requests, events, records, traces.

Whoever asks for an answer holds its `Cancellation` and `TemperatureShift`, and moves them from its own thread while the
engine reads them. This is the only module of the engine that those above `inference/` may import.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmcli.errors import LlmcliError
from llmcli.params.param import LARGEST_FLOAT
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    import ctypes

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)
Message = Mapping[str, object]  # "role" and "content"
Measure = Literal["temperature", "p", "entropy", "drafted"]  # values that can color tokens
FinishReason = Literal["stop", "length", "timeout", "interrupt", "error"]
# (rows of a batch, rows that were kept, number of such batches in succession)
Batches = Sequence[tuple[int, int, int]]
# The index of the first draw with a shift, and the shift from then on. Draws of tokens that were removed later, with a
# banned string, count too: so a replay with the same moves has the same shift at every draw.
Move = tuple[int, float]
_RECENT = 16  # number of last temperatures that limit a shift


class Cancellation:
    """Stops what runs with it, from any thread: the load of a model, or one generation."""

    def __init__(self) -> None:
        self._is_set = False
        self.reason: FinishReason = "interrupt"
        # Abort flags of the contexts that watch it. Replaced as a whole, because `set` can run in any thread.
        self.flags: tuple[ctypes.Array[ctypes.c_char], ...] = ()
        self.followers: tuple[Cancellation, ...] = ()  # that are set with it; replaced as a whole too

    def set(self, reason: FinishReason = "interrupt") -> None:
        """Stop now, and whatever starts before `clear`. The first reason is kept."""
        if not self._is_set:
            self.reason = reason
        self._is_set = True  # before the flags: see `Context.watch`
        for flag in self.flags:
            flag[0] = b"!"
        for one in self.followers:
            one.set(reason)

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set


class TemperatureShift:
    """A shift that is added to the temperature of the next tokens. `add` can be called from any thread."""

    def __init__(self, moves: Sequence[Move] = ()) -> None:
        """`moves` are repeated at the same draws, for a replay."""
        self.shift = 0.0
        self.moves: list[Move] = []
        self._replayed = dict(moves)
        self._applied = 0.0
        self._temperatures: tuple[float, ...] = ()
        self._index = self._draws = -1

    def add(self, by: float) -> float:
        """Change the shift by `by` and return it. If it makes all recent temperatures 0, it is not lowered further."""
        lowest = -max(self._temperatures, default=LARGEST_FLOAT)
        return self.set(max(self.shift, lowest) + by)

    def set(self, shift: float) -> float:
        """Set the shift, with the limit of `add`, and return it."""
        lowest = -max(self._temperatures, default=LARGEST_FLOAT)
        self.shift = max(round(min(shift, LARGEST_FLOAT), 4), lowest)
        return self.shift

    @property
    def replayed(self) -> Sequence[Move]:
        """The moves that are repeated."""
        return [*self._replayed.items()]

    @property
    def last_temperature(self) -> float | None:
        """What `observe` recorded last."""
        return self._temperatures[-1] if self._temperatures else None

    def observe(self, temperature: float) -> None:
        """Record the temperature of a token before the shift, or the maximum of the policy."""
        self._temperatures = (*self._temperatures[1 - _RECENT :], temperature)

    def start_draw(self, index: int) -> float:
        """The shift for the draw of token `index`; the same when a constraint rejects it and it is drawn again."""
        if index == self._index:
            return self._applied
        self._index, self._draws = index, self._draws + 1
        if self._draws in self._replayed:
            self.shift = self._replayed[self._draws]
        shift = self.shift
        if shift != self._applied:
            self.moves.append((self._draws, shift))
            self._applied = shift
        return shift


@dataclass(frozen=True)
class TokenChunk:
    """A part of a prompt as tokens; other kinds come with the engines that read them: text, images."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class TextChunk:
    """A prompt that another program renders: messages or a text, and the beginning of the answer."""

    request: Sequence[Message] | str
    prefill: str = ""
    tokenize: Callable[["TextChunk"], Sequence[int]] | None = None
    template: str = ""  # the chat template, if it is not that of the other program
    _found: list[Sequence[int]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def tokens(self) -> Sequence[int]:
        """What the other program makes of it, where it tells; it is asked once."""
        if not self._found:  # no `cached_property`: in Python 3.11 it locks those of all other chunks meanwhile
            self._found.append(self.tokenize(self) if self.tokenize else ())
        return self._found[0]


@dataclass(frozen=True)
class Prompt:
    """A prompt as it will be evaluated."""

    text: str  # with control tokens
    chunks: Sequence[TokenChunk | TextChunk]
    request: Sequence[Message] | str = ""  # what it was made of: messages, or with `raw` a text
    template: str = ""  # the source of the chat template
    arguments: Mapping[str, object] = field(default_factory=dict)  # its variables beside the messages
    time: float = 0.0  # that the template got (seconds since 1970)

    @classmethod
    def of_tokens(cls, text: str, tokens: Sequence[int], request: Sequence[Message] | str = "") -> "Prompt":
        """A prompt of one chunk, without a template."""
        return cls(text, (TokenChunk(tokens),), request)

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of all chunks."""
        if len(self.chunks) == 1:
            return self.chunks[0].tokens
        return [token for chunk in self.chunks for token in chunk.tokens]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix of two sequences of tokens."""
    n = min(len(a), len(b))
    if list(a[:n]) == list(b[:n]):  # the usual case, compared at C speed
        return n
    return next(i for i in range(n) if a[i] != b[i])


@dataclass(frozen=True)
class Constraint:
    """What an answer must match, from its first character to its last."""

    kind: Literal["grammar", "json_schema", "regex"]
    text: str  # GBNF, a JSON schema as JSON, or a regular expression in the syntax of Rust
    unenforced: Sequence[str] = ()  # what `text` does not say: only `problem` of the finished answer finds it

    def problem(self, _answer: str) -> str | None:
        """Why a finished answer does not match; None if it does."""
        return None


@dataclass
class Request:
    """One answer that is asked for; `settings.seed` must be a number."""

    prompt: Prompt
    settings: Settings
    constraint: Constraint | None = None  # what the answer must match
    progress: Progress | None = None  # called while the prompt is evaluated
    reasoning: str = ""  # the reasoning so far, if the answer continues another one
    live_shift: TemperatureShift | None = None  # changes the temperature while the answer is generated
    trace: int | None = None  # record how each token is sampled, with so many alternatives; None = no trace
    cancellation: Cancellation = field(default_factory=Cancellation)  # ends this answer, and keeps its text
    label: str = ""  # its name in errors, where there are several
    max_drawn: int | None = None  # stop after so many sampled tokens, as a recorded answer was stopped
    replay: Mapping[str, object] | None = None  # the manifest of a recorded answer that is generated again, alone

    def continue_from(self, reasoning: str, text: str) -> None:
        """Continue an answer, whose reasoning and text are at the end of the prompt already."""
        self.reasoning, self.settings = reasoning, replace(self.settings, prefill=text or None)


@dataclass(slots=True)
class Timings:
    """Counts and durations (ms) in llama-server's names; `ttft_ms` starts when the answer joins its scheduler."""

    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    ttft_ms: float = 0.0
    draft_n: int = 0  # tokens that were drafted, and those of them that were drawn
    draft_n_accepted: int = 0
    draft_steps: int = 0  # in which they were evaluated
    draft_saved_ms: float = 0.0  # beside steps of one token
    draft_n_held: int = 0  # tokens that a draft would have had right, but it might have changed the text

    @property
    def draft_gain(self) -> float:
        """How many times as fast the tokens came as without drafts; 1 without any."""
        return 1 + self.draft_saved_ms / self.predicted_ms if self.predicted_ms else 1.0

    @property
    def prompt_per_second(self) -> float:
        return 1e3 * self.prompt_n / self.prompt_ms if self.prompt_ms else 0.0

    @property
    def predicted_per_second(self) -> float:
        """Without the first token, whose logits come from the prompt."""
        return 1e3 * (self.predicted_n - 1) / self.predicted_ms if self.predicted_ms and self.predicted_n > 1 else 0.0


@dataclass(slots=True)
class TokenEvent:
    """One token of the answer, or its end: the last event has a `finish_reason`."""

    text: str  # final after this token: empty while a character is incomplete or a stop string is possible
    id: int | None  # None if no token was drawn
    finish_reason: FinishReason | None
    record: "GenerationRecord"
    index: int = 0  # of the generation
    n_traces: int = 0  # in `record`, up to this event
    n_final: int = 0  # as many of them, from the first on, cannot be removed any more
    reasoning: str = ""  # text of the reasoning, if the engine itself tells it from the answer
    n_tokens: int = 0  # in `record`, up to this event: a step can draw several
    is_followed: bool = False  # by an event of another answer, at once: both are of the same step


def now_ms() -> float:
    """A clock in milliseconds, for durations."""
    return perf_counter() * 1e3


class Alternative(NamedTuple):
    """A token that could have been drawn."""

    id: int
    text: str
    before: float  # probability in the distribution of the model, over the whole vocabulary
    p: float  # probability after the chain; 0 if the chain removed it


class TokenTrace(NamedTuple):
    """One token of an answer and how it was drawn. The texts of all tokens together are exactly the answer."""

    i: int  # index in the answer, from 0
    id: int | None  # None for text without a token of this answer (a prefill, or text held back at the end)
    text: str  # final after this token; it can be empty or have several lines
    p: float | None  # probability after the chain
    rank: int | None  # by this probability, from 1
    entropy: float | None  # of the live candidates before the temperature step, in nats
    temperature: float | None  # as applied; 0 is greedy
    candidates: int | None  # live ones before the temperature step
    top: tuple[Alternative, ...]  # the most likely by `before`, the most likely first; () without a request for them
    policy: str  # the part of the policy that was used: "0.7", "0.3..1.3"
    sentence: int  # index of the sentence, from 0
    time: float  # milliseconds since the start of the generation
    reasoning: str = ""  # text of the reasoning that is final after this token
    thinking: bool = False  # whether it is part of the reasoning
    drafted: bool = False  # whether it was accepted from a draft


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities over the whole vocabulary; `top` is sorted, the most likely first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with the log-probability of each token after those before it; the first one has none."""

    tokens: Sequence[int]
    logprobs: Sequence[TokenLogprob]  # of all tokens but the first
    following: tuple[tuple[int, float], ...]  # the most likely next tokens, the most likely first


@dataclass(kw_only=True, eq=False)  # two answers with equal values are two
class GenerationRecord:
    """What is known of a generation while it runs, and afterwards."""

    tokens: list[int] = field(default_factory=list)  # of the prompt and the answer
    timings: Timings = field(default_factory=Timings)
    finish_reason: FinishReason | None = None
    stop_string: str = ""  # that ended it
    logprobs: list[TokenLogprob] = field(default_factory=list)  # with the setting `logprobs`
    traces: list[TokenTrace] = field(default_factory=list)  # of the drawn tokens, without texts; if asked for
    layout: Batches = ()  # the batches in which the prompt was evaluated
    n_ctx: int = 0  # tokens that fit its context; 0 before it has one
    n_threads: tuple[int, int] = (0, 0)  # for the tokens of the answer, and for the prompt
    beside: int = 0  # number of generations that could share its batches
    failure: LlmcliError | None = None  # the error that ended it
    is_complete: bool = True  # whether the answer matches its constraint
    policy_ms: float = 0.0  # time in the temperature policy, in milliseconds
    replay: Mapping[str, object] = field(default_factory=dict)  # the manifest, where a server generated the answer


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step of the chain."""

    name: str
    before: int  # number of live candidates before it
    live: int  # and after it
    removed: float  # probability of the others in the distribution of the model
    moved: float  # total variation distance of the probabilities before and after it, from 0 to 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate, and what the steps of the chain did to it."""

    id: int
    text: str
    rank: int  # in the distribution of the model, from 1
    before: float  # probability there, over the whole vocabulary
    p: tuple[float, ...]  # probability after each step, up to the step that removed it


@dataclass(frozen=True, slots=True)
class ChainTrace:
    """The steps in order, and by rank the selected ones of the `n_vocab` candidates."""

    n_vocab: int
    steps: tuple[ChainStep, ...]
    candidates: tuple[Candidate, ...]

    def removed_by(self, candidate: Candidate) -> str:
        """The name of the step that removed a candidate; empty if none did."""
        return self.steps[len(candidate.p)].name if len(candidate.p) < len(self.steps) else ""

    def after(self, candidate: Candidate) -> float:
        """The probability of a candidate after the chain; 0 if it was removed."""
        return 0.0 if self.removed_by(candidate) else (candidate.before, *candidate.p)[-1]


@dataclass(frozen=True, slots=True)
class TokenInspection:
    """How token `at` was drawn."""

    at: int
    drawn: int
    stepwise: ChainTrace
    trace: TokenTrace  # of the temperature step
    refused: str | None  # the text of the token that was drawn first and that the constraint rejected
    exact: bool = True  # not where the state of a stateful step had to be reset
