"""What a server counts, and its text in the form of Prometheus, under the names of llama-server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from llmcli.engine.events import GenerationRecord, Request, TokenEvent


@dataclass
class Metrics:
    """Counts of one model since its start; only the thread of the model changes them."""

    n_prompt: int = 0  # tokens of prompts that were evaluated
    n_cached: int = 0  # tokens of prompts that were known from before
    prompt_ms: float = 0.0
    n_predicted: int = 0
    predicted_ms: float = 0.0
    n_rated: int = 0  # of the predicted tokens, those whose time is known: the first one comes with the prompt
    n_steps: int = 0  # batches that were evaluated
    n_stepped: int = 0  # answers that had a token in these
    n_drafted: int = 0  # tokens
    n_accepted: int = 0  # of these
    n_drafts: int = 0  # steps with a draft
    n_longest: int = 0  # tokens of the longest prompt with its answer
    _seen: set[int] = field(default_factory=set, init=False)  # answers that have an event of the present step

    @classmethod
    def of(cls, several: Sequence["Metrics"]) -> "Metrics":
        """The counts of several models together."""
        total = cls()
        for one in several:
            for key in fields(cls):
                if key.init and key.name != "n_longest":
                    setattr(total, key.name, getattr(total, key.name) + getattr(one, key.name))
            total.n_longest = max(total.n_longest, one.n_longest)
        return total

    def count_event(self, event: TokenEvent) -> None:
        """Count an event; a second one of the same answer is that of a new step."""
        if event.index in self._seen:
            self._seen.clear()
        self.n_steps += not self._seen
        self.n_stepped += 1
        self._seen.add(event.index)

    def count_answer(self, record: GenerationRecord, request: Request, is_last: bool) -> None:
        """Count an answer that has ended; after the last one of those that run, a new step comes."""
        if is_last:
            self._seen.clear()
        t, n_prompt = record.timings, len(request.prompt.tokens)
        self.n_prompt += t.prompt_n
        self.n_cached += max(n_prompt - t.prompt_n, 0) if t.predicted_n else 0
        self.prompt_ms += t.prompt_ms
        self.n_predicted += t.predicted_n
        self.predicted_ms += t.predicted_ms
        self.n_rated += max(t.predicted_n - 1, 0)
        self.n_longest = max(self.n_longest, n_prompt + t.predicted_n)
        self.n_drafted += t.draft_n
        self.n_accepted += t.draft_n_accepted
        self.n_drafts += t.draft_steps
        self.n_steps -= t.draft_n_accepted  # each of them was counted as a step
        self.n_stepped -= t.draft_n_accepted
        self.n_steps += max(-(-t.prompt_n // request.settings.n_batch) - 1, 0)  # the last one gives a token


def prometheus_text(models: Sequence[Metrics], n_running: int, n_waiting: int) -> str:
    """The counts of all models together."""
    m = Metrics.of(models)
    counters = [
        ("prompt_tokens_total", "Number of prompt tokens processed, excluding cached tokens", m.n_prompt),
        ("prompt_tokens_cached_total", "Number of prompt tokens reused from the cache", m.n_cached),
        ("prompt_seconds_total", "Total time spent processing prompts", m.prompt_ms / 1e3),
        ("tokens_predicted_total", "Number of generation tokens processed", m.n_predicted),
        ("tokens_predicted_seconds_total", "Total time spent generating tokens", m.predicted_ms / 1e3),
        ("n_decode_total", "Total number of batches evaluated", m.n_steps),
        ("n_tokens_max", "Largest observed sequence length (prompt + generation)", m.n_longest),
        ("spec_decode_num_draft_tokens_total", "Speculative: Total draft tokens generated", m.n_drafted),
        ("spec_decode_num_accepted_tokens_total", "Speculative: Total draft tokens accepted", m.n_accepted),
        ("spec_decode_num_drafts_total", "Speculative: Total verification steps", m.n_drafts),
    ]
    gauges = [
        ("prompt_tokens_seconds", "Average prompt throughput in tokens/s", _rate(m.n_prompt, m.prompt_ms)),
        ("predicted_tokens_seconds", "Average generation throughput in tokens/s", _rate(m.n_rated, m.predicted_ms)),
        ("requests_processing", "Number of requests processing", n_running),
        ("requests_deferred", "Number of requests deferred", n_waiting),
        ("n_busy_slots_per_decode", "Average number of answers per batch", m.n_stepped / max(m.n_steps, 1)),
    ]
    return "".join([*_lines("counter", counters), *_lines("gauge", gauges)])


def _rate(count: int, ms: float) -> float:
    return 1e3 * count / ms if ms else 0.0


def _lines(kind: str, values: Iterable[tuple[str, str, float]]) -> Iterable[str]:
    for name, text, value in values:
        yield f"# HELP llamacpp:{name} {text}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value:.15g}\n"
