"""Generate several answers in one batch, in a separate context that shares the prompt of the conversation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from llmcli.engine.events import Record
from llmcli.engine.generation import Generation, Progress, generate
from llmcli.errors import LlmcliError
from llmcli.inference import sizing
from llmcli.inference.local import LocalModel, Prompt
from llmcli.params.settings import Settings

_WORTH = 64  # tokens; it is faster to evaluate fewer again than to copy them


@dataclass(frozen=True)
class Asked:
    """The request for one answer; `watched` goes to its `Generation`, `label` is for its errors."""

    prompt: Prompt
    settings: Settings
    grammar: str | None = None
    watched: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@contextmanager
def side_by_side(local: LocalModel, prompts: Sequence[Prompt], settings: Sequence[Settings]) -> Iterator[int]:
    """Within this block `generate_together` generates as many of these answers at a time as this yields.

    The context of a conversation stays as it is. Where there is none, the context of the answers becomes the model's.

    Raises:
        ContextOverflowError: when a prompt leaves no room for an answer.
        LlmcliError: when there is no memory for the context.
    """
    begin = perf_counter()
    limits = [one.max_tokens for one in settings]
    longest = replace(settings[0], max_tokens=-1 if min(limits) < 0 else max(limits))
    lengths = [len(tokens) for tokens in {tuple(prompt.tokens) for prompt in prompts}]
    shared = sizing.choose_shared(local.shape, longest, lengths, len(settings))
    own = local.exchange(None)
    try:
        n_ctx = max(shared.n_ctx, own.evaluated() + 1 if own else 0)
        context = local.new_context(longest, n_ctx, n_seq_max=shared.width, n_ctx_seq=shared.n_ctx_seq)
    except BaseException:
        local.exchange(own)
        raise
    local.exchange(context)
    if own is None:
        local.target.notes += [shared.note] if shared.note else []
        local.load_ms += (took := (perf_counter() - begin) * 1e3)
        local.waited_ms += took
        yield shared.width
        return
    try:
        if own.evaluated(prompts[0].tokens) >= _WORTH:
            context.receive(own)
        yield shared.width
    finally:
        local.exchange(own)
        context.close()


def generate_together(
    local: LocalModel, asked: Sequence[Asked], progress: Progress | None = None
) -> tuple[list[Generation], Iterator[Record]]:
    """Answers that are generated in the same batches: their states, and the records that drive them.

    `seq_id` of a record is the index of its answer. An answer that fails ends alone, and has a `failure`.

    Raises:
        UsageError: for settings or a grammar that are not valid.
    """
    generations: list[Generation] = []
    try:
        for seq_id, one in enumerate(asked):
            generations.append(_generation(local, one, seq_id))
    except BaseException:
        for generation in generations:
            generation.close()
        raise
    return generations, generate(local.context, generations, progress)


def _generation(local: LocalModel, one: Asked, seq_id: int) -> Generation:
    vocab, tokens = local.model.vocab, one.prompt.tokens
    try:
        return Generation(vocab, tokens, one.settings, one.grammar, seq_id, lenient=True, **one.watched)
    except LlmcliError as error:
        raise type(error)(f"{one.label}: {error}" if one.label else str(error), error.hint) from None
