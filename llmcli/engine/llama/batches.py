"""The batches in which a prompt is evaluated. Their sizes decide about the rounding of the results."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from llmcli.engine.events import Batches, common_prefix

# Rows of the batches at the end of a prompt: another one with the same beginning has the same batches nearly up to
# where it differs. On CPUs they take no longer than a single batch, and have its results if the last has so many rows
# at least: ggml computes the attention of fewer rows in another way.
BLOCK = 64


def batch_sizes(begin: int, end: int, n_ubatch: int, block: int) -> list[int]:
    """The sizes for these tokens of a prompt: all of them, or the full micro-batches and then blocks.

    llama.cpp makes micro-batches of a batch. With a `block` of `n_ubatch` tokens there is one size.
    """
    rest = (end - begin) % n_ubatch
    n_blocks = 0 if begin % block else max(rest // block - 1, 0)
    last = rest - n_blocks * block
    sizes = [end - begin - rest, *[block] * n_blocks, last] if n_blocks else [end - begin]
    return [size for size in sizes if size]


def exact_prefix(tokens: Sequence[int], batches: Batches, prompt: Sequence[int], n_ubatch: int, block: int) -> int:
    """How many of these `tokens`, which were evaluated in these batches, are as an empty context would have them.

    From there on it can evaluate the rest of the prompt, and gets exactly what it gets without them.
    """
    n_same, end = min(common_prefix(tokens, prompt), len(prompt) - 1), 0
    evaluated = ((rows, kept) for rows, kept, times in batches for _ in range(times))
    fresh = (one for size in batch_sizes(0, len(prompt), n_ubatch, block) for one in micro_batches(size, n_ubatch))
    for size, (rows, kept) in zip(fresh, evaluated, strict=False):
        if not size == rows == kept or end + size > n_same:
            break
        end += size
    return end


def micro_batches(size: int, n_ubatch: int) -> Iterator[int]:
    """The sizes of the batches that llama.cpp makes of one."""
    for at in range(0, size, n_ubatch):
        yield min(n_ubatch, size - at)


def layout_of(rows: Sequence[int]) -> Batches:
    """The batches of tokens that have the rows of their batch where they are its first token, else 0."""
    starts = [at for at, n_rows in enumerate(rows) if n_rows]
    batches = [(rows[start], end - start) for start, end in pairwise([*starts, len(rows)])]
    return [(*batch, len(list(group))) for batch, group in groupby(batches)]


def rows_of(batches: Batches) -> list[int]:
    """What `layout_of` made the batches of."""
    return [row for rows, kept, times in batches for _ in range(times) for row in (rows, *[0] * (kept - 1))]


def check_layout(layout: Batches, n_tokens: int, n_batch: int, n_ctx: int) -> None:
    """Raise a ValueError if `n_tokens` tokens cannot have been evaluated in these batches."""
    at = 0
    for rows, kept, times in layout:
        if not 0 < kept <= rows <= n_batch or times < 1:
            raise ValueError(f"invalid batch: {kept} of {rows} rows, {times} times")
        at += kept * times
        if at - kept + rows > n_ctx or at > n_tokens:
            raise ValueError(f"the batches have more than {min(n_ctx, n_tokens)} tokens")
    if at != n_tokens:
        raise ValueError(f"the batches have {at} tokens, expected {n_tokens}")
