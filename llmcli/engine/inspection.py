"""Inspection of a token of an answer: it is drawn again, to capture what each step of the chain did."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

from llmcli.engine.film import Film, Frame
from llmcli.engine.generate import generate
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.stepwise import Stepwise, stepwise
from llmcli.engine.trace import TokenTrace
from llmcli.params.chain import plan
from llmcli.params.settings import Settings

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)
# Samplers with a state that depends on the draws before.
_STATEFUL = frozenset({"xtc", "mirostat", "mirostat_v2", "adaptive_p"})


@dataclass(frozen=True)
class Subject:
    """The answer to inspect: its tokens, and a factory for generations like the one that drew them."""

    settings: Settings
    grammar: str | None
    tokens: Sequence[int]
    make: Callable[[Settings, str | None, Film], Generation]

    @property
    def remembering(self) -> list[str]:
        """The stateful steps: because of them, the answer is generated again up to the token."""
        constraints = ["grammar"] * (self.grammar is not None) + ["banned_strings"] * bool(self.settings.banned_strings)
        return [step.name for step in plan(self.settings) if step.name in _STATEFUL] + constraints


@dataclass(frozen=True, slots=True)
class Dissection:
    """How token `at` was drawn.

    `trace` describes the temperature step. `refused` is the text of the token that was drawn first and that the grammar
    rejected. `exact` is False where the state of a stateful step had to be reset.
    """

    at: int
    drawn: int
    stepwise: Stepwise
    trace: TokenTrace
    refused: str | None
    exact: bool = True


def dissect(context: Context, subject: Subject, at: int, count: int, progress: Progress | None = None) -> Dissection:
    """Inspect token `at`: the `count` most likely candidates before and after the chain, and the drawn token.

    If a step is stateful, the answer is generated again. If that gives other tokens, the state of such steps is reset,
    grammar and banned strings are omitted, and the result is not exact.

    Raises:
        AbortedError: when the abort flag was set.
        ContextOverflowError: when the context has no room for the answer.
    """
    is_stateful = bool(subject.remembering)
    with context.untouched():
        if is_stateful:
            generation = subject.make(subject.settings, subject.grammar, film := Film())
            if _regenerate(context, generation, film, subject.tokens[: at + 1], progress):
                return _dissection(generation, film, subject, at, count, generation.traces[at])
        generation = subject.make(replace(subject.settings, banned_strings=()), None, film := Film())
        _draw_after(context, generation, subject.tokens[:at], progress)
    found = _dissection(generation, film, subject, at, count, generation.traces[0])
    return replace(found, exact=not is_stateful)


def entropies(context: Context, subject: Subject, progress: Progress | None = None) -> list[float]:
    """The entropy (nats) of the candidates before the temperature step, for each token of an answer.

    Raises:
        AbortedError, ContextOverflowError: as `dissect` does.
    """
    found = []
    with context.untouched():
        for at in range(len(subject.tokens)):
            generation = subject.make(replace(subject.settings, banned_strings=()), None, Film(lambda: False))
            _draw_after(context, generation, subject.tokens[:at], None)
            found.append(generation.traces[0].entropy or 0.0)
            if progress:
                progress(at + 1, len(subject.tokens))
    return found


def likeliest(context: Context, subject: Subject, at: int, rank: int, progress: Progress | None = None) -> int:
    """The `rank`-th most likely token (from 1) of the model, before the chain, at token `at`.

    Raises:
        AbortedError, ContextOverflowError: as `dissect` does.
    """
    generation = subject.make(replace(subject.settings, banned_strings=()), None, film := Film())
    with context.untouched():
        _draw_after(context, generation, subject.tokens[:at], progress)
    return stepwise(film.frames[:1], generation.vocab.label, rank).candidates[rank - 1].id


def _draw_after(context: Context, generation: Generation, tokens: Sequence[int], progress: Progress | None) -> None:
    """Draw one token after `tokens`."""
    with closing(generation):
        generation.follow(tokens)
        context.rewind(generation.seq_id, generation.tokens)
        context.prefill(generation.seq_id, generation.tokens, progress)
        generation.advance(context.handle, -1, context.n_ctx)


def _regenerate(
    context: Context, generation: Generation, film: Film, tokens: Sequence[int], progress: Progress | None
) -> bool:
    """Generate the answer again and capture the last of `tokens`; returns whether the tokens are the same."""
    last = len(tokens) - 1
    film.wants = lambda: len(generation.traces) == last
    context.rewind(generation.seq_id, generation.tokens)
    with closing(generation):
        for _ in generate(context, [generation]):
            if generation.finish_reason and context.abort.is_set():
                raise AbortedError
            if generation.settled > last:
                break
            if progress:
                progress(generation.settled, last)
    return [trace.id for trace in generation.traces[: last + 1]] == list(tokens)


def _dissection(
    generation: Generation, film: Film, subject: Subject, at: int, count: int, trace: TokenTrace
) -> Dissection:
    text_of, drawn = generation.vocab.label, subject.tokens[at]
    frames = _effective(film.frames, subject.settings)
    first = film.first if any(frame.name == "grammar" for frame in frames) else None
    refused = None if first is None else text_of(first)
    return Dissection(at, drawn, stepwise(frames, text_of, count, drawn), trace, refused)


def _effective(frames: Sequence[Frame], settings: Settings) -> list[Frame]:
    """The frames without the draw at the end, and without a temperature step that only reads."""
    names = {step.name for step in plan(settings)}
    kept = list(frames[:1])
    for before, frame in pairwise(frames):
        is_reading = frame.name == "temperature" and "temperature" not in names
        if frame.name != "dist" and (not is_reading or frame.rows != before.rows):
            kept.append(frame)
    return kept
