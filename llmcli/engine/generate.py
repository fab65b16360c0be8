"""The generation loop: one step of all active generations at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llmcli.engine.events import Record, now_ms
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.errors import ContextOverflowError, LlmcliError

Progress = Callable[[int, int], None]


def generate(context: Context, generations: Sequence[Generation], progress: Progress | None = None) -> Iterator[Record]:
    """Yield a record per token until each generation has finished, then free their samplers.

    A common prefix of several prompts is evaluated once. `progress(done, total)` counts the evaluated tokens of a
    prompt. When the abort flag of the context is set, each unfinished generation ends with the reason of the flag and
    keeps its text.

    Raises:
        ContextOverflowError: before anything is evaluated, when the context has no space for a token after a prompt.
        ConstraintError, PolicyError: when a generation that is not lenient cannot continue.
    """
    try:
        for generation in generations:
            _check_space(context, generation)
            generation.beside = len(generations) - 1
            generation.conditions = replace(context.params, n_ctx=context.n_ctx)
        yield from _run(context, generations, progress)
    finally:
        for generation in generations:
            generation.close()


def _check_space(context: Context, generation: Generation) -> None:
    if len(generation.prompt) >= context.n_ctx:
        raise ContextOverflowError(
            f"the prompt has {len(generation.prompt)} tokens, the context has {context.n_ctx}",
            "shorten the prompt or raise --ctx-size",
        )


def _run(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[Record]:
    try:
        yield from _begin(context, generations, progress)
        active = [generation for generation in generations if not generation.finish_reason]
        while active:
            for generation in active:
                if generation.stale:
                    yield _backtrack(context, generation)
            ready = [generation for generation in active if not generation.stale and not generation.finish_reason]
            if ready:
                yield from _step(context, ready)
            active = [generation for generation in active if not generation.finish_reason]
    except AbortedError:
        for generation in generations:
            if not generation.finish_reason:
                yield generation.finish(context.abort.reason)


def _begin(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[Record]:
    """Evaluate each different prompt once, and draw the first token of all its generations from the same logits."""
    begin = now_ms()
    by_prompt: dict[tuple[int, ...], list[Generation]] = {}
    for generation in generations:
        by_prompt.setdefault(tuple(generation.tokens), []).append(generation)
    read: list[int] = []
    for group in by_prompt.values():
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
    """Evaluate the prompt, after a copy of the longest common prefix from one of the sequences in `read`."""
    begin, tokens, seq_id = now_ms(), generation.tokens, generation.seq_id
    source = max([seq_id, *read], key=lambda other: context.evaluated(tokens, other))
    if source != seq_id:
        context.share(source, seq_id)
    generation.timings.prompt_n = context.prefill(seq_id, tokens, progress)
    generation.timings.prompt_ms = now_ms() - begin


def _first(context: Context, generation: Generation) -> Record:
    if generation.full(context.n_ctx):
        return generation.finish("length")
    return _advance(context, generation, -1)


def _backtrack(context: Context, generation: Generation) -> Record:
    """Evaluate the tokens before a removed banned string, and draw the next one."""
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
    except ContextOverflowError:  # the context that the sequences share is full
        yield from [generation.finish("length") for generation in generations]
        return
    shared_ms = now_ms() - begin
    for row, generation in enumerate(generations):
        begin = now_ms()  # the time that the caller spends on a record does not count
        record = _advance(context, generation, row)
        generation.timings.predicted_ms += shared_ms + now_ms() - begin
        yield record


def _advance(context: Context, generation: Generation, row: int) -> Record:
    try:
        return generation.advance(context.handle, row, context.n_ctx)
    except LlmcliError as error:
        if not generation.lenient:
            raise
        generation.failure = error
        return generation.finish("error")
