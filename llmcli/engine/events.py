"""What the engine reports: events, timings and traces as plain data."""

from dataclasses import dataclass
from time import perf_counter
from typing import Literal, NamedTuple

Measure = Literal["temperature", "p", "entropy"]  # values that can color tokens


@dataclass(slots=True)
class Timings:
    """Counts and durations (ms) in llama-server's names; `ttft_ms` starts with the evaluation of the prompt."""

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
    None if no token was drawn. The last event has a `finish_reason`: stop, length, timeout, interrupt or error.
    """

    text: str
    id: int | None
    finish_reason: str | None
    timings: Timings
    seq_id: int = 0


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
