"""The batches in which a prompt is evaluated. Their sizes decide about the rounding of the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from llmcli.engine.events import Batches, common_prefix

# Rows of the batches at the end of a prompt: another one with the same beginning has the same batches nearly up to
# where it differs. On CPUs they take no longer than a single batch, and have its results if the last has so many rows
# at least: ggml computes the attention of fewer rows in another way.
BLOCK = 64


@dataclass(frozen=True)
class SequenceState:
    """A copy of what a memory has of a sequence: tokens, the batches in which they were evaluated, llama.cpp's data."""

    tokens: Sequence[int]
    batches: Batches
    data: bytearray


@dataclass(frozen=True)
class BatchPlan:
    """How prompts are divided: llama.cpp makes micro-batches of `n_ubatch` tokens, and the rest comes in blocks.

    With a `block` of `n_ubatch` tokens, the rest is a single batch.
    """

    n_ubatch: int
    block: int

    def sizes(self, begin: int, end: int) -> list[int]:
        """The batches of these tokens of a prompt: a single one, or the full micro-batches and then blocks."""
        rest = (end - begin) % self.n_ubatch
        n_blocks = 0 if begin % self.block else max(rest // self.block - 1, 0)
        sizes = [end - begin - rest, *[self.block] * n_blocks, rest - n_blocks * self.block]
        return [size for size in (sizes if n_blocks else [end - begin]) if size]

    def rows(self, size: int) -> list[int]:
        """As in `layout_of`, the rows of the micro-batches of one batch."""
        sizes = [min(self.n_ubatch, size - at) for at in range(0, size, self.n_ubatch)]
        return [row for one in sizes for row in (one, *[0] * (one - 1))]

    def _micro_batches(self, prompt: Sequence[int]) -> list[int]:
        return [row for size in self.sizes(0, len(prompt)) for row in self.rows(size) if row]

    def exact_prefix(self, tokens: Sequence[int], batches: Batches, prompt: Sequence[int]) -> int:
        """How many of these `tokens`, which were evaluated in these batches, are as an empty context would have them.

        From there on it can evaluate the rest of the prompt, and gets exactly what it gets without them.
        """
        n_same, end = min(common_prefix(tokens, prompt), len(prompt) - 1), 0
        evaluated = ((rows, kept) for rows, kept, times in batches for _ in range(times))
        for size, (rows, kept) in zip(self._micro_batches(prompt), evaluated, strict=False):
            if not size == rows == kept or end + size > n_same:
                break
            end += size
        return end

    def last_end(self, prompt: Sequence[int], most: int) -> int:
        """The last place up to `most` tokens where the prompt is divided."""
        return max((end for end in accumulate(self._micro_batches(prompt)) if end <= most), default=0)


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
