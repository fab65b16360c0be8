"""What passes between the engine and those above, as plain data: events, records, traces; what stops and moves it."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import ModuleType
from typing import Literal, NamedTuple

from llmcli.errors import LlmcliError
from llmcli.params.param import LARGEST_FLOAT

Measure = Literal["temperature", "p", "entropy"]  # values that can color tokens
FinishReason = Literal["stop", "length", "timeout", "interrupt", "error"]
# (rows of a batch, rows that were kept, number of such batches in succession)
Batches = Sequence[tuple[int, int, int]]
# The index of the first draw with a shift, and the shift from then on. Draws of tokens that were removed later, with a
# banned string, count too: so a replay with the same moves has the same shift at every draw.
Move = tuple[int, float]
_RECENT = 16  # number of last temperatures that limit a shift


class Cancellation:
    """Stops what runs with it, from any thread: the load of a model, or one generation.

    llama.cpp checks one byte after every tensor operation, about 1,000 times per token, so its callback must not be
    Python. The C library's `strlen` has the right form: over this buffer it returns 0 (continue) for an empty string,
    else 1 (abort).
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        self.reason: FinishReason = "interrupt"

    def set(self, reason: FinishReason = "interrupt") -> None:
        """Stop now, and whatever starts before `clear`. The first reason is kept."""
        if not self.is_set():
            self.reason = reason
        self._byte[0] = b"!"

    def clear(self) -> None:
        self._byte[0] = b"\0"

    def is_set(self) -> bool:
        return self._byte[0] != b"\0"

    def attach(self, api: ModuleType, ctx: int) -> None:
        """Let it abort the llama.cpp context `ctx` (CPU backend only, see llama.h), in place of the one before."""
        from llmcli.engine.llama.bindings import C_LIBRARY  # most readers of events need no C library

        callback = ctypes.cast(C_LIBRARY.strlen, api.ggml_abort_callback)
        api.llama_set_abort_callback(ctx, callback, ctypes.cast(self._byte, ctypes.c_void_p))
        self._callback = callback  # llama.cpp keeps only the pointer


@dataclass(slots=True)
class Timings:
    """Counts and durations (ms) in llama-server's names; `ttft_ms` starts when the answer joins its scheduler."""

    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    ttft_ms: float = 0.0

    @property
    def prompt_per_second(self) -> float:
        return 1e3 * self.prompt_n / self.prompt_ms if self.prompt_ms else 0.0

    @property
    def predicted_per_second(self) -> float:
        """Without the first token, whose logits come from the prompt."""
        return 1e3 * (self.predicted_n - 1) / self.predicted_ms if self.predicted_ms and self.predicted_n > 1 else 0.0


@dataclass(slots=True)
class TokenEvent:
    """One token of the answer, or its end.

    `text` is final after this token: it is empty while a character is incomplete or a stop string is possible. `id` is
    None if no token was drawn. The last event has a `finish_reason`. `index` is that of the generation. `n_traces` are
    the traces in `record` up to this event; the first `n_final` of them cannot be removed any more.
    """

    text: str
    id: int | None
    finish_reason: FinishReason | None
    record: "GenerationRecord"
    index: int = 0
    n_traces: int = 0
    n_final: int = 0


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
        shift = round(min(max(self.shift, lowest) + by, LARGEST_FLOAT), 4)
        self.shift = max(shift, lowest)
        return self.shift

    def observe(self, temperature: float) -> None:
        """Record the temperature of a token before the shift, or the maximum of the policy."""
        self._temperatures = (*self._temperatures[1 - _RECENT :], temperature)

    def start_draw(self, index: int) -> float:
        """The shift for the draw of token `index`; the same when a grammar rejects the token and it is drawn again."""
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


def now_ms() -> float:
    """A clock in milliseconds, for durations."""
    return perf_counter() * 1e3


class Alternative(NamedTuple):
    """A token that could have been drawn.

    `before` is its probability in the distribution of the model, over the whole vocabulary; `p` its probability after
    the chain, 0 if the chain removed it.
    """

    id: int
    text: str
    before: float
    p: float


class TokenTrace(NamedTuple):
    """One token of an answer and how it was drawn. The texts of all tokens together are exactly the answer.

    Attributes:
        i: index in the answer, from 0.
        id: None for text without a token of this answer (a prefill, or text that was held back at the end).
        text: text of the answer that is final after this token; it can be empty or have several lines.
        p: probability after the chain.
        rank: rank by this probability, from 1.
        entropy: of the live candidates before the temperature step, in nats.
        temperature: the applied temperature; 0 is greedy.
        candidates: number of live candidates before the temperature step.
        top: the most likely alternatives by `before`, the most likely first; () without a request for them.
        policy: the part of the policy that was used, as text: "0.7", "0.3..1.3".
        sentence: index of the sentence, from 0.
        time: milliseconds since the start of the generation.
        reasoning: text of the reasoning that is final after this token.
        thinking: whether it is part of the reasoning.
    """

    i: int
    id: int | None
    text: str
    p: float | None
    rank: int | None
    entropy: float | None
    temperature: float | None
    candidates: int | None
    top: tuple[Alternative, ...]
    policy: str
    sentence: int
    time: float
    reasoning: str = ""
    thinking: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities over the whole vocabulary; `top` is sorted, the most likely first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(kw_only=True)
class GenerationRecord:
    """What is known of a generation while it runs, and afterwards.

    Attributes:
        tokens: of the prompt and the answer.
        logprobs: only with the setting `logprobs`.
        traces: of the drawn tokens, with empty texts; only if they were asked for.
        layout: the batches in which the prompt was evaluated.
        n_ctx: tokens that fit its context; 0 before it has one.
        n_threads: for the tokens of the answer, and for the prompt.
        beside: number of generations that could share its batches.
        failure: the error that ended it.
        is_complete: whether the answer matches its grammar.
        policy_ms: time in the temperature policy, in milliseconds.
    """

    tokens: list[int] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    traces: list[TokenTrace] = field(default_factory=list)
    layout: Batches = ()
    n_ctx: int = 0
    n_threads: tuple[int, int] = (0, 0)
    beside: int = 0
    failure: LlmcliError | None = None
    is_complete: bool = True
    policy_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step of the chain.

    `before` and `live` are the numbers of live candidates before and after it. `removed` is the probability of the
    others in the distribution of the model. `moved` is the total variation distance between the probabilities before
    and after it, from 0 to 1.
    """

    name: str
    before: int
    live: int
    removed: float
    moved: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate.

    `rank` is its rank in the distribution of the model, from 1; `before` its probability there, over the whole
    vocabulary; `p` its probability after each step, up to the step that removed it.
    """

    id: int
    text: str
    rank: int
    before: float
    p: tuple[float, ...]


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
    """How token `at` was drawn.

    `trace` describes the temperature step. `refused` is the text of the token that was drawn first and that the grammar
    rejected. `exact` is False where the state of a stateful step had to be reset.
    """

    at: int
    drawn: int
    stepwise: ChainTrace
    trace: TokenTrace
    refused: str | None
    exact: bool = True
