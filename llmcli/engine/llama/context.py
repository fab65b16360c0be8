"""A llama.cpp context: it evaluates tokens, and reuses what it evaluated before."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llmcli.engine.events import Batches, Cancellation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Model
from llmcli.errors import ContextOverflowError, LlmcliError

_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # llama.h, enum llama_flash_attn_type
_BF16 = 30  # ggml.h, enum ggml_type; the one type of a cache that llama-cpp-python does not name
_NO_SLOT, _ABORTED = 1, 2  # status of llama_decode
_MAX_SAVED_STATE = 2**29  # bytes


class AbortedError(Exception):
    """The cancellation was set during a computation; the context is still usable."""


@dataclass(frozen=True, kw_only=True)
class ContextParams:
    """Sizes in tokens, numbers of threads, cache types by llama.cpp's names.

    `n_seq_max` sequences have equal parts of the `n_ctx` tokens. With `n_ctx_seq` they share all of them, and each
    sequence has at most `n_ctx_seq` tokens.
    """

    n_ctx: int
    n_threads: int
    n_threads_batch: int
    n_batch: int = 2048
    n_ubatch: int = 512
    flash_attn: str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    n_seq_max: int = 1
    n_ctx_seq: int = 0


class Context:
    """Evaluates sequences of tokens, each under its own `seq_id` from 0 to n_seq_max - 1.

    Raises:
        LlmcliError: when llama.cpp cannot create the context (such as out of memory), with its reason.
    """

    def __init__(self, model: Model, params: ContextParams, cancellation: Cancellation | None = None) -> None:
        self._api = api = bindings.load()
        self.model = model
        self.params = params
        self._n_batch = max(min(params.n_batch, params.n_ctx), params.n_seq_max)  # for `step`
        bindings.clear_log()
        self.handle = api.llama_init_from_model(model.handle, self._c_params(params))
        if not self.handle:
            reason = bindings.last_log_error()
            hint = "" if reason and "alloc" not in reason else "try a smaller --ctx-size"
            reason = reason or "llama.cpp gives no reason"
            raise LlmcliError(f"cannot create a context of {params.n_ctx} tokens: {reason}", hint)
        n_ctx_seq: int = api.llama_n_ctx_seq(self.handle)
        # Of one sequence. llama.cpp rounds it up to a multiple of 256; the limit is the one that was asked for.
        asked = params.n_ctx_seq or (params.n_ctx if params.n_seq_max == 1 else n_ctx_seq)
        self.n_ctx = min(n_ctx_seq, asked)
        self._memory = api.llama_get_memory(self.handle)
        self._cancellation: Cancellation | None = None
        self.cancellation = cancellation or Cancellation()
        self._evaluated: list[list[int]] = [[] for _ in range(params.n_seq_max)]
        self._histories = [BatchHistory() for _ in range(params.n_seq_max)]
        self._batch_seq_id = -1  # the sequence to which all rows of the batch belong
        self._make_batch(params.n_seq_max)

    @property
    def cancellation(self) -> Cancellation:
        """What aborts the next evaluations."""
        assert self._cancellation
        return self._cancellation

    @cancellation.setter
    def cancellation(self, cancellation: Cancellation) -> None:
        if cancellation is self._cancellation:
            return
        self._cancellation = cancellation
        cancellation.attach(self._api, self.handle)

    @property
    def n_batch(self) -> int:
        """The maximum number of tokens in one batch."""
        return self._n_batch

    def evaluated(self, tokens: Sequence[int] | None = None, seq_id: int = 0) -> int:
        """The number of evaluated tokens of the sequence: all, or those in its common prefix with `tokens`."""
        evaluated = self._evaluated[seq_id]
        return len(evaluated) if tokens is None else common_prefix(evaluated, tokens)

    def layout(self, seq_id: int = 0) -> Batches:
        """The batches in which the tokens of the sequence were evaluated."""
        return self._histories[seq_id].batches(len(self._evaluated[seq_id]))

    def prefill(self, seq_id: int, tokens: Sequence[int], progress: Callable[[int, int], None] | None = None) -> int:
        """Make the sequence exactly `tokens`, with the logits of the last one; returns the number of evaluated tokens.

        The common prefix with the present sequence is reused. Models that cannot remove a part of their memory
        (recurrent, sliding window) start from the beginning. `progress(done, total)` counts tokens.

        Raises:
            ContextOverflowError: when the context is smaller than the tokens.
            AbortedError: when it was cancelled; the evaluated tokens are kept.
        """
        if len(tokens) > self.n_ctx:
            raise ContextOverflowError(f"{len(tokens)} tokens do not fit the context of {self.n_ctx} tokens")
        evaluated = self._evaluated[seq_id]
        keep = min(common_prefix(evaluated, tokens), len(tokens) - 1)  # the last one is evaluated again for its logits
        if keep < len(evaluated):
            keep = self._cut(seq_id, keep)
        step = min(self._n_batch, 512) if progress else self._n_batch
        for start in range(keep, len(tokens), step):
            self._evaluate(seq_id, tokens[start : start + step], last=start + step >= len(tokens))
            if progress:
                progress(len(evaluated), len(tokens))
        return len(tokens) - keep

    def step(self, tokens: Sequence[tuple[int, int]]) -> None:
        """Evaluate one more token for each (seq_id, token); row i of the logits belongs to pair i.

        Raises:
            AbortedError: when it was cancelled.
            ContextOverflowError: when the memory that the sequences share is full.
            LlmcliError: when llama.cpp cannot evaluate a token.
        """
        n = len(tokens)
        for row, (seq_id, token) in enumerate(tokens):
            self._tokens[row] = token
            self._positions[row] = len(self._evaluated[seq_id])
            self._wants_logits[row] = 1
            if n > 1 or self._batch_seq_id != seq_id:
                self._seq_pointers[row] = self._seq_ids[seq_id]
                self._batch_seq_id = -1
        self._decode(n, [seq_id for seq_id, _ in tokens])
        for seq_id, token in tokens:
            if n > 1:
                self._histories[seq_id].add(len(self._evaluated[seq_id]), n, 1)
            self._evaluated[seq_id].append(token)

    def share(self, source: int, target: int) -> None:
        """Make the sequence `target` equal to `source`, without an evaluation."""
        api, memory = self._api, self._memory
        api.llama_memory_seq_rm(memory, target, -1, -1)
        api.llama_memory_seq_cp(memory, source, target, -1, -1)
        self._evaluated[target], self._histories[target] = list(self._evaluated[source]), self._histories[source].copy()

    def clear(self, seq_id: int) -> None:
        """Remove all tokens of the sequence."""
        self._cut(seq_id, 0)

    def receive(self, other: "Context") -> None:
        """Copy the first sequence of `other`, a context of the same model and cache types, if it fits.

        The state goes through the memory of this process.
        """
        self._load(0, other._save(0))

    def prefill_as(self, seq_id: int, tokens: Sequence[int], layout: Batches) -> None:
        """Make the sequence exactly `tokens`, evaluated again in exactly these batches, without logits.

        A batch of which only a part was kept is filled up with other tokens, which are then removed: a row of a batch
        has no influence on the rows before it.

        Raises:
            ValueError: when the layout is not possible, or this memory cannot remove a part of a batch.
            AbortedError: when it was cancelled.
        """
        check_layout(layout, len(tokens), self._n_batch, self.n_ctx)
        self._cut(seq_id, 0)
        evaluated = self._evaluated[seq_id]
        for rows, kept, times in layout:
            for _ in range(times):
                part = tokens[len(evaluated) : len(evaluated) + kept]
                keep = len(evaluated) + kept
                self._evaluate(seq_id, [*part, *[part[-1]] * (rows - kept)], last=False)
                if keep < len(evaluated) and self._cut(seq_id, keep) != keep:
                    raise ValueError("the memory of this model cannot keep a part of a batch")

    def rewind(self, seq_id: int, tokens: Sequence[int]) -> None:
        """Remove the batch in which the last of `tokens` was evaluated, and everything after it.

        `prefill` then evaluates the same batch again, and gets exactly the same logits.
        """
        if self.evaluated(tokens, seq_id) == len(tokens):
            self._cut(seq_id, batch_start(self.layout(seq_id), len(tokens)))

    @contextmanager
    def untouched(self, seq_id: int = 0) -> Iterator[None]:
        """Restore the sequence after this block, bit by bit, whatever the block evaluated.

        A state of more than 512 MB is not saved: the next `prefill` then evaluates the removed tokens again.
        """
        is_small = self._api.llama_state_seq_get_size(self.handle, seq_id) <= _MAX_SAVED_STATE
        saved = self._save(seq_id) if is_small and self._evaluated[seq_id] else None
        try:
            yield
        finally:
            if saved:
                self._load(seq_id, saved)

    def close(self) -> None:
        """Free the memory; a second call has no effect."""
        handle, self.handle = self.handle, None
        if handle:
            self._api.llama_free(handle)

    def _c_params(self, params: ContextParams) -> Any:
        api = self._api
        c = api.llama_context_default_params()
        c.n_ctx, c.n_batch, c.n_ubatch = params.n_ctx, self._n_batch, min(params.n_ubatch, self._n_batch)
        c.n_seq_max = params.n_seq_max
        c.kv_unified = params.n_ctx_seq > 0  # sequences with a common prefix share its memory
        c.n_threads, c.n_threads_batch = params.n_threads, params.n_threads_batch
        c.flash_attn_type = _FLASH_ATTN[params.flash_attn]
        c.type_k = getattr(api, "GGML_TYPE_" + params.cache_type_k.upper(), _BF16)
        c.type_v = getattr(api, "GGML_TYPE_" + params.cache_type_v.upper(), _BF16)
        c.no_perf = True
        return c

    def _make_batch(self, n_seq_max: int) -> None:
        """The arrays of the `llama_batch`, allocated once; each evaluation writes into them."""
        n, api = self._n_batch, self._api
        self._tokens: Any = (ctypes.c_int32 * n)()
        self._positions: Any = (ctypes.c_int32 * n)()
        self._one_each = (ctypes.c_int32 * n)(*[1] * n)
        self._seq_ids = [(ctypes.c_int32 * 1)(seq) for seq in range(n_seq_max)]
        self._seq_pointers: Any = (ctypes.POINTER(ctypes.c_int32) * n)()
        self._wants_logits: Any = (ctypes.c_int8 * n)()
        self._batch = api.llama_batch(
            0, self._tokens, None, self._positions, self._one_each, self._seq_pointers, self._wants_logits
        )
        self._point_to(0, n)

    def _point_to(self, seq_id: int, n: int) -> None:
        """Make the first `n` rows of the batch tokens of one sequence."""
        pointer = ctypes.cast(self._seq_ids[seq_id], ctypes.POINTER(ctypes.c_int32))
        self._seq_pointers[:n] = [pointer] * n
        self._batch_seq_id = seq_id

    def _evaluate(self, seq_id: int, tokens: Sequence[int], last: bool) -> None:
        """Evaluate tokens of one sequence in one batch, with the logits of the last token if `last`."""
        evaluated, n = self._evaluated[seq_id], len(tokens)
        self._tokens[:n] = tokens
        self._positions[:n] = range(len(evaluated), len(evaluated) + n)
        self._wants_logits[:n] = bytes(n)
        self._wants_logits[n - 1] = last
        if self._batch_seq_id != seq_id:
            self._point_to(seq_id, self._n_batch)
        self._decode(n, [seq_id])
        if n > 1:
            self._histories[seq_id].add(len(evaluated), n, n)
        evaluated.extend(tokens)

    def _decode(self, n: int, seq_ids: list[int]) -> None:
        self._batch.n_tokens = n
        status = self._api.llama_decode(self.handle, self._batch)
        if status == 0:
            return
        for seq_id in seq_ids:  # remove what the failed batch left in the memory
            self._cut(seq_id, len(self._evaluated[seq_id]))
        if status == _ABORTED or self.cancellation.is_set():
            raise AbortedError
        if status == _NO_SLOT:
            raise ContextOverflowError(f"the context of {self.n_ctx} tokens is full")
        raise LlmcliError(f"llama.cpp cannot evaluate the tokens: {bindings.last_log_error() or f'status {status}'}")

    def _cut(self, seq_id: int, keep: int) -> int:
        """Keep the first `keep` tokens, or none where the memory cannot remove the others; returns the number kept.

        A recurrent memory refuses to remove a part. One with a sliding window does it, but may have overwritten cells
        that the kept tokens attend to: it is complete only while it still has the first position.
        """
        api, memory = self._api, self._memory
        is_complete = api.llama_memory_seq_pos_min(memory, seq_id) == 0
        if not (api.llama_memory_seq_rm(memory, seq_id, keep, -1) and is_complete):
            api.llama_memory_seq_rm(memory, seq_id, -1, -1)
            keep = 0
        del self._evaluated[seq_id][keep:]
        self._histories[seq_id].cut(keep)
        return keep

    def _save(self, seq_id: int) -> "tuple[Any, list[int], BatchHistory]":
        """A copy of the state of a sequence, its tokens and its batches."""
        size = self._api.llama_state_seq_get_size(self.handle, seq_id)
        state = (ctypes.c_uint8 * size)()
        self._api.llama_state_seq_get_data(self.handle, state, size, seq_id)
        return state, list(self._evaluated[seq_id]), self._histories[seq_id].copy()

    def _load(self, seq_id: int, saved: "tuple[Any, list[int], BatchHistory]") -> None:
        """Replace a sequence by a saved one; it is empty if that does not fit."""
        state, evaluated, history = saved
        self._cut(seq_id, 0)
        if self._api.llama_state_seq_set_data(self.handle, state, len(state), seq_id):
            self._evaluated[seq_id], self._histories[seq_id] = evaluated, history
        else:
            self._cut(seq_id, 0)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix of two sequences of tokens."""
    n = min(len(a), len(b))
    if list(a[:n]) == list(b[:n]):  # the usual case, compared at C speed
        return n
    return next(i for i in range(n) if a[i] != b[i])


class BatchHistory:
    """The batches of one sequence. Tokens that are not recorded were evaluated in batches of one row."""

    def __init__(self, recorded: Sequence[tuple[int, int, int]] = ()) -> None:
        self._recorded = list(recorded)  # (position of the first token, rows, rows that are tokens of the sequence)

    def add(self, start: int, rows: int, kept: int) -> None:
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

    def copy(self) -> "BatchHistory":
        """A copy, for a sequence that shares these tokens."""
        return BatchHistory(self._recorded)

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


def drop_last_batch(layout: Batches) -> list[tuple[int, int, int]]:
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
