"""How does one get back to a token of an answer, to see how its chain drew it?"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

from llmcli.engine.context import AbortedError, Context
from llmcli.engine.film import Film, Frame
from llmcli.engine.generate import generate
from llmcli.engine.generation import Generation
from llmcli.engine.stepwise import Stepwise, stepwise
from llmcli.engine.trace import TokenTrace
from llmcli.params.samplers import plan
from llmcli.params.settings import Settings

Progress = Callable[[int, int], None]  # tokens done, and of how many
# What they do hangs on how the tokens before were drawn.
_REMEMBERING = frozenset({"xtc", "mirostat", "mirostat_v2", "adaptive_p"})


@dataclass(frozen=True)
class Subject:
    """An answer to look into: the tokens that were drawn, and what makes such a generation as drew them."""

    settings: Settings
    grammar: str | None
    tokens: Sequence[int]
    make: Callable[[Settings, str | None, Film], Generation]

    @property
    def remembering(self) -> list[str]:
        """The steps for which the answer is gone through from its beginning to the token that is looked at."""
        gates = ["grammar"] * (self.grammar is not None) + ["banned_strings"] * bool(self.settings.banned_strings)
        return [step.name for step in plan(self.settings) if step.name in _REMEMBERING] + gates


@dataclass(frozen=True, slots=True)
class Dissection:
    """How token `at` was drawn.

    `trace` tells what the temperature saw and did. `refused` was drawn at first, and the grammar did not allow it.
    `exact` is False where a step that remembers what was drawn had to begin anew.
    """

    at: int
    drawn: int
    stepwise: Stepwise
    trace: TokenTrace
    refused: str | None
    exact: bool = True


def dissect(context: Context, subject: Subject, at: int, count: int, progress: Progress | None = None) -> Dissection:
    """Look at token `at`: at the `count` likeliest candidates by the model and in the end, and at the drawn one.

    Where a step remembers what was drawn, the answer is generated again; if that gives other tokens, such steps begin
    anew, grammar and banned strings are left out, and the result is not exact.

    Raises:
        AbortedError: when the abort flag was set.
        ContextOverflowError: when the context has no room for the answer.
    """
    remembering = bool(subject.remembering)
    with context.untouched():
        if remembering:
            generation = subject.make(subject.settings, subject.grammar, film := Film())
            if _again(context, generation, film, subject.tokens[: at + 1], progress):
                return _seen(generation, film, subject, at, count, generation.traces[at])
        generation = subject.make(replace(subject.settings, banned_strings=()), None, film := Film())
        _straight(context, generation, subject.tokens[:at], progress)
    found = _seen(generation, film, subject, at, count, generation.traces[0])
    return replace(found, exact=not remembering)


def entropies(context: Context, subject: Subject, progress: Progress | None = None) -> list[float]:
    """The entropy (nats) at each token of an answer, where the temperature stands.

    Raises:
        AbortedError, ContextOverflowError: as `dissect` does.
    """
    found = []
    with context.untouched():
        for at in range(len(subject.tokens)):
            generation = subject.make(replace(subject.settings, banned_strings=()), None, Film(lambda: False))
            _straight(context, generation, subject.tokens[:at], None)
            found.append(generation.traces[0].entropy or 0.0)
            if progress:
                progress(at + 1, len(subject.tokens))
    return found


def likeliest(context: Context, subject: Subject, at: int, rank: int, progress: Progress | None = None) -> int:
    """The token that the model itself held the `rank`-th likeliest (from 1) at token `at`.

    Raises:
        AbortedError, ContextOverflowError: as `dissect` does.
    """
    generation = subject.make(replace(subject.settings, banned_strings=()), None, film := Film())
    with context.untouched():
        _straight(context, generation, subject.tokens[:at], progress)
    return stepwise(film.frames[:1], generation.vocab.label, rank).candidates[rank - 1].id


def _straight(context: Context, generation: Generation, tokens: Sequence[int], progress: Progress | None) -> None:
    """Draw one token as if `tokens` had just been drawn."""
    with closing(generation):
        generation.follow(tokens)
        context.rewind(generation.seq_id, generation.tokens)
        context.prefill(generation.seq_id, generation.tokens, progress)
        generation.advance(context.handle, -1, context.n_ctx)


def _again(
    context: Context, generation: Generation, film: Film, tokens: Sequence[int], progress: Progress | None
) -> bool:
    """Generate the answer again, with the last of `tokens` on film; whether the same ones came."""
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


def _seen(generation: Generation, film: Film, subject: Subject, at: int, count: int, trace: TokenTrace) -> Dissection:
    text_of, drawn = generation.vocab.label, subject.tokens[at]
    frames = _planned(film.frames, subject.settings)
    first = film.first if any(frame.name == "grammar" for frame in frames) else None
    refused = None if first is None else text_of(first)
    return Dissection(at, drawn, stepwise(frames, text_of, count, drawn), trace, refused)


def _planned(frames: Sequence[Frame], settings: Settings) -> list[Frame]:
    """Without the draw at the end, and without a temperature that is there to be read and changes nothing."""
    planned = {step.name for step in plan(settings)}
    kept = list(frames[:1])
    for before, frame in pairwise(frames):
        idle = frame.name == "dist" or (frame.name == "temperature" and "temperature" not in planned)
        if not idle or (frame.name == "temperature" and frame.rows != before.rows):
            kept.append(frame)
    return kept
