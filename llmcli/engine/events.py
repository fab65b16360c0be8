"""The events of a generation: one token of an answer, with counts and timings."""

from dataclasses import dataclass
from time import perf_counter


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
class Record:
    """One token of the answer, or its end.

    `text` is final after this token: it is empty while a character is incomplete or a stop string is possible. `id` is
    None if no token was drawn. The last record has a `finish_reason`: stop, length, timeout, interrupt or error.
    """

    text: str
    id: int | None
    finish_reason: str | None
    timings: Timings
    seq_id: int = 0


def now_ms() -> float:
    """A clock in milliseconds, for durations."""
    return perf_counter() * 1e3
