"""The batches in which the tokens of a sequence were evaluated.

Quantized kernels round differently for batches of other sizes, so a replay must use the same batches.
"""

from collections.abc import Sequence
from itertools import groupby

# (rows of a batch, rows that were kept, number of such batches in succession)
Batches = Sequence[tuple[int, int, int]]


class Layout:
    """The batches of one sequence. Tokens that are not recorded were evaluated in batches of one row."""

    def __init__(self, recorded: Sequence[tuple[int, int, int]] = ()) -> None:
        self._recorded = list(recorded)  # (position of the first token, rows, rows that are tokens of the sequence)

    def note(self, start: int, rows: int, kept: int) -> None:
        """Record that the `kept` tokens from position `start` on were evaluated in a batch of `rows`."""
        self._recorded.append((start, rows, kept))

    def cut(self, keep: int) -> None:
        """Keep only the first `keep` tokens."""
        recorded = self._recorded
        while recorded and recorded[-1][0] >= keep:
            recorded.pop()
        if recorded:
            start, rows, kept = recorded[-1]
            recorded[-1] = start, rows, min(kept, keep - start)

    def copy(self) -> "Layout":
        """A copy, for a sequence that shares these tokens."""
        return Layout(self._recorded)

    def batches(self, n_tokens: int) -> list[tuple[int, int, int]]:
        """The batches of the first `n_tokens` tokens; equal ones in succession are counted."""
        batches, at = [], 0
        for start, rows, kept in [*self._recorded, (n_tokens, 0, 0)]:
            if start > at:
                batches.append((1, 1, start - at))
            if rows:
                batches.append((rows, kept, 1))
            at = start + kept
        groups = groupby(batches, key=lambda batch: batch[:2])
        return [(rows, kept, sum(times for _, _, times in group)) for (rows, kept), group in groups]


def without_last(layout: Batches) -> list[tuple[int, int, int]]:
    """All batches except the last one."""
    *before, (rows, kept, times) = layout
    return [*before, (rows, kept, times - 1)] if times > 1 else before


def batch_start(layout: Batches, n_tokens: int) -> int:
    """The position of the first token of the batch with token number `n_tokens`."""
    at = 0
    for _, kept, times in layout:
        if at + kept * times >= n_tokens:
            return at + (n_tokens - 1 - at) // kept * kept
        at += kept * times
    return at


def check_layout(layout: Batches, n_tokens: int, n_batch: int, n_ctx: int) -> None:
    """Check that `n_tokens` tokens can have been evaluated in these batches.

    Raises:
        ValueError: when they cannot.
    """
    at = 0
    for rows, kept, times in layout:
        if not 0 < kept <= rows <= n_batch or times < 1:
            raise ValueError(f"invalid batch: {kept} of {rows} rows, {times} times")
        at += kept * times
        if at - kept + rows > n_ctx or at > n_tokens:
            raise ValueError(f"the batches have more than {min(n_ctx, n_tokens)} tokens")
    if at != n_tokens:
        raise ValueError(f"the batches have {at} tokens, expected {n_tokens}")
