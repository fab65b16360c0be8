"""The loop: one step over the active generations at a time."""

from collections.abc import Callable, Iterator, Sequence

from llmcli.engine.context import AbortedError, Context
from llmcli.engine.generation import Generation, Record, now_ms
from llmcli.errors import ContextOverflowError

Progress = Callable[[int, int], None]


def generate(context: Context, generations: Sequence[Generation], progress: Progress | None = None) -> Iterator[Record]:
    """Yield a record per token until each generation has finished, then free their samplers.

    `progress(done, total)` counts the prompt's tokens as they are evaluated. When the context's abort flag is
    set, each unfinished generation ends with the flag's reason and keeps its text.

    Raises:
        ContextOverflowError: before anything is evaluated, when a prompt leaves no room for a token.
        ConstraintError: when no token fits grammar, bans and biases.
    """
    try:
        for generation in generations:
            _check_room(context, generation)
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
    active = list(generations)
    try:
        while active:
            for generation in active:
                if generation.stale:
                    yield _read(context, generation, progress)
            active = [generation for generation in active if not generation.finish_reason]
            ready = [generation for generation in active if not generation.stale]
            if ready:
                yield from _step(context, ready)
            active = [generation for generation in active if not generation.finish_reason]
    except AbortedError:
        for generation in active:
            if not generation.finish_reason:
                yield generation.finish(context.abort.reason)


def _read(context: Context, generation: Generation, progress: Progress | None) -> Record:
    """Evaluate what the context lacks of the tokens (the prompt, or the place a ban went back to), and draw."""
    begin = now_ms()
    count = context.prefill(generation.seq_id, generation.tokens, progress)
    generation.stale = False
    timings = generation.timings
    if len(generation.tokens) > len(generation.prompt) or timings.prompt_ms:
        timings.predicted_ms += now_ms() - begin
        return generation.advance(context.handle, -1, context.n_ctx)
    timings.prompt_n, timings.prompt_ms = count, now_ms() - begin
    if generation.full(context.n_ctx):
        return generation.finish("length")
    record = generation.advance(context.handle, -1, context.n_ctx)
    timings.ttft_ms = now_ms() - begin
    return record


def _step(context: Context, generations: Sequence[Generation]) -> Iterator[Record]:
    begin = now_ms()
    context.step([(generation.seq_id, generation.tokens[-1]) for generation in generations])
    shared = now_ms() - begin
    for row, generation in enumerate(generations):
        begin = now_ms()  # what the caller does with a record is not generation time
        record = generation.advance(context.handle, row, context.n_ctx)
        generation.timings.predicted_ms += shared + now_ms() - begin
        yield record
