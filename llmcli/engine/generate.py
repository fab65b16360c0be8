"""The loop: one step over the active generations at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llmcli.engine.context import AbortedError, Context
from llmcli.engine.generation import Generation
from llmcli.engine.record import Record, now_ms
from llmcli.errors import ContextOverflowError, LlmcliError

Progress = Callable[[int, int], None]


def generate(context: Context, generations: Sequence[Generation], progress: Progress | None = None) -> Iterator[Record]:
    """Yield a record per token until each generation has finished, then free their samplers.

    What several prompts begin with is evaluated once. `progress(done, total)` counts the tokens of a prompt as they
    are evaluated. When the context's abort flag is set, each unfinished generation ends with the flag's reason and
    keeps its text.

    Raises:
        ContextOverflowError: before anything is evaluated, when a prompt leaves no room for a token.
        ConstraintError, PolicyError: when a generation cannot go on that is not lenient.
    """
    try:
        for generation in generations:
            _check_room(context, generation)
            generation.beside = len(generations) - 1
            generation.conditions = replace(context.params, n_ctx=context.n_ctx)
        yield from _run(context, generations, progress)
    finally:
        for generation in generations:
            generation.close()


def _check_room(context: Context, generation: Generation) -> None:
    if len(generation.prompt) >= context.n_ctx:
        raise ContextOverflowError(
            f"the prompt has {len(generation.prompt)} tokens and the context holds {context.n_ctx}",
            "shorten the prompt or raise --ctx-size",
        )


def _run(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[Record]:
    try:
        yield from _begin(context, generations, progress)
        active = [generation for generation in generations if not generation.finish_reason]
        while active:
            for generation in active:
                if generation.stale:
                    yield _return(context, generation)
            ready = [generation for generation in active if not generation.stale and not generation.finish_reason]
            if ready:
                yield from _step(context, ready)
            active = [generation for generation in active if not generation.finish_reason]
    except AbortedError:
        for generation in generations:
            if not generation.finish_reason:
                yield generation.finish(context.abort.reason)


def _begin(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[Record]:
    """Evaluate each prompt once, and draw the first token of all that have it from the same logits."""
    begin = now_ms()
    alike: dict[tuple[int, ...], list[Generation]] = {}
    for generation in generations:
        alike.setdefault(tuple(generation.tokens), []).append(generation)
    read: list[int] = []
    for group in alike.values():
        _read(context, group[0], read, progress)
        for generation in group[1:]:
            context.share(group[0].seq_id, generation.seq_id)
        read.append(group[0].seq_id)
        for generation in group:
            generation.layout, generation.stale = context.layout(generation.seq_id), False
            record = _first(context, generation)
            generation.timings.ttft_ms = now_ms() - begin
            yield record


def _read(context: Context, generation: Generation, read: Sequence[int], progress: Progress | None) -> None:
    """Evaluate what the context lacks of the prompt; of the sequences in `read`, the one most like it lends a copy."""
    begin, tokens, own = now_ms(), generation.tokens, generation.seq_id
    nearest = max([own, *read], key=lambda seq_id: context.evaluated(tokens, seq_id))
    if nearest != own:
        context.share(nearest, own)
    generation.timings.prompt_n = context.prefill(own, tokens, progress)
    generation.timings.prompt_ms = now_ms() - begin


def _first(context: Context, generation: Generation) -> Record:
    if generation.full(context.n_ctx):
        return generation.finish("length")
    return _advance(context, generation, -1)


def _return(context: Context, generation: Generation) -> Record:
    """Go back to the place that a ban leads to, and draw there."""
    begin = now_ms()
    context.prefill(generation.seq_id, generation.tokens)
    generation.stale = False
    record = _advance(context, generation, -1)
    generation.timings.predicted_ms += now_ms() - begin
    return record


def _step(context: Context, generations: Sequence[Generation]) -> Iterator[Record]:
    begin = now_ms()
    try:
        context.step([(generation.seq_id, generation.tokens[-1]) for generation in generations])
    except ContextOverflowError:  # they have used up the room that they share
        yield from [generation.finish("length") for generation in generations]
        return
    shared = now_ms() - begin
    for row, generation in enumerate(generations):
        begin = now_ms()  # what the caller does with a record is not generation time
        record = _advance(context, generation, row)
        generation.timings.predicted_ms += shared + now_ms() - begin
        yield record


def _advance(context: Context, generation: Generation, row: int) -> Record:
    try:
        return generation.advance(context.handle, row, context.n_ctx)
    except LlmcliError as error:
        if not generation.lenient:
            raise
        generation.failure = error
        return generation.finish("error")
