"""What a generation yields: one token of an answer, with counts and times."""

from dataclasses import dataclass
from time import perf_counter


@dataclass(slots=True)
class Timings:
    """Counts and durations (ms) in llama-server's names; `ttft_ms` runs from the start of the prompt."""

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
        """Of the tokens after the first, which falls out of the prompt."""
        return 1e3 * (self.predicted_n - 1) / self.predicted_ms if self.predicted_ms and self.predicted_n > 1 else 0.0


@dataclass(slots=True)
class Record:
    """One token of the answer, or its end.

    `text` is what became certain with this token: empty while characters or stop strings are open. `id` is None
    when no token was drawn. `finish_reason` is set on the last record: stop, length, timeout, interrupt or error.
    """

    text: str
    id: int | None
    finish_reason: str | None
    timings: Timings
    seq_id: int = 0


def now_ms() -> float:
    """A clock in milliseconds, for durations only."""
    return perf_counter() * 1e3
