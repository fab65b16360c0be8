"""In which batches were the tokens of a sequence evaluated? Quantized kernels round otherwise for other batches."""

from collections.abc import Sequence
from itertools import groupby

Batches = Sequence[tuple[int, int, int]]  # rows of a batch, how many of them stayed, how many such batches in a row


class Layout:
    """Of one sequence. A batch of one row costs nothing: what was not noted was evaluated alone."""

    def __init__(self, noted: Sequence[tuple[int, int, int]] = ()) -> None:
        self._noted = list(noted)  # position of the first token, rows, how many of them are tokens of the sequence

    def note(self, start: int, rows: int, kept: int) -> None:
        """The next `kept` tokens, from position `start` on, were evaluated in a batch of `rows`."""
        self._noted.append((start, rows, kept))

    def cut(self, keep: int) -> None:
        """Only the first `keep` tokens are left."""
        noted = self._noted
        while noted and noted[-1][0] >= keep:
            noted.pop()
        if noted:
            start, rows, kept = noted[-1]
            noted[-1] = start, rows, min(kept, keep - start)

    def copy(self) -> "Layout":
        """The same for a sequence that begins as this one does."""
        return Layout(self._noted)

    def batches(self, n_tokens: int) -> list[tuple[int, int, int]]:
        """The batches of the first `n_tokens` tokens, like ones counted."""
        found, at = [], 0
        for start, rows, kept in [*self._noted, (n_tokens, 0, 0)]:
            if start > at:
                found.append((1, 1, start - at))
            if rows:
                found.append((rows, kept, 1))
            at = start + kept
        groups = groupby(found, key=lambda batch: batch[:2])
        return [(rows, kept, sum(times for _, _, times in group)) for (rows, kept), group in groups]


def without_last(layout: Batches) -> list[tuple[int, int, int]]:
    """All batches but the one in which the last tokens were evaluated."""
    *before, (rows, kept, times) = layout
    return [*before, (rows, kept, times - 1)] if times > 1 else before


def batch_start(layout: Batches, n_tokens: int) -> int:
    """The position of the first token of the batch in which the last of the first `n_tokens` was evaluated."""
    at = 0
    for _, kept, times in layout:
        if at + kept * times >= n_tokens:
            return at + (n_tokens - 1 - at) // kept * kept
        at += kept * times
    return at


def check_layout(layout: Batches, n_tokens: int, n_batch: int, n_ctx: int) -> None:
    """See to it that `n_tokens` tokens can have lain so in a context.

    Raises:
        ValueError: saying what cannot be.
    """
    at = 0
    for rows, kept, times in layout:
        if not 0 < kept <= rows <= n_batch or times < 1:
            raise ValueError(f"{kept} of {rows} rows, {times} times: no batch is like that")
        at += kept * times
        if at - kept + rows > n_ctx or at > n_tokens:
            raise ValueError(f"its batches go past {min(n_ctx, n_tokens)} tokens")
    if at != n_tokens:
        raise ValueError(f"its batches hold {at} tokens, and there are {n_tokens}")
