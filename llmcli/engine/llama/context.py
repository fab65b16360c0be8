"""A llama.cpp context: it evaluates tokens, and reuses what it evaluated before."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import Batches, Cancellation, Progress, common_prefix
from llmcli.engine.llama import bindings, hardware, structures
from llmcli.engine.llama.batches import BLOCK, BatchPlan, SequenceState, check_layout, layout_of, rows_of
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.waiting import thread_waits
from llmcli.errors import ContextOverflowError, LlmcliError, ModelInvalidError

if TYPE_CHECKING:
    from llmcli.params.model import ModelParams

_NO_SLOT, _ABORTED = 1, 2  # status of llama_decode
_MAX_SAVED_STATE = 2**29  # bytes


class AbortedError(Exception):
    """The cancellation was set during a computation; the context is still usable."""


class Context:
    """Evaluates sequences of tokens, each under its own `seq_id` from 0 to n_seq_max - 1.

    The sequences have equal parts of the `params.n_ctx` tokens (which is not 0). With `n_ctx_seq` they share all of
    them, and each sequence has at most `n_ctx_seq` tokens.

    Raises LlmcliError when llama.cpp cannot create the context (such as out of memory), with its reason.
    """

    def __init__(
        self, model: Model, params: "ModelParams", n_seq_max: int = 1, n_ctx_seq: int = 0, pooling: str = ""
    ) -> None:
        self._api = api = bindings.load()
        self.model = model
        self.n_seq_max = n_seq_max
        self.n_threads = structures.threads(params)  # for single tokens, and for batches
        self.n_batch = max(min(params.n_batch, params.n_ctx), n_seq_max)  # `step` has a row per sequence
        n_ubatch = min(params.n_ubatch, self.n_batch)
        self.plan = BatchPlan(n_ubatch, n_ubatch if hardware.has_gpu() else BLOCK)
        # Called with the sequence and the tokens of a prompt that begins: it can `restore` a state.
        self.recall: Callable[[Context, int, Sequence[int]], None] | None = None
        self._begun: Sequence[int] = ()  # the last prompt that has begun
        self.snapshot_at = 0  # after so many tokens of a prompt, a copy of the sequence is made
        self.snapshot: SequenceState | None = None
        n_swa = api.llama_model_n_swa(model.handle)
        # Whether a part of a sequence can be removed, and of a restored one, which has only what a window still sees.
        self.can_cut = not model.is_recurrent and (n_swa == 0 or params.swa_full)
        self.can_cut_restored = not model.is_recurrent and n_swa == 0
        self.read = (0, 0.0)  # tokens of prompts that were evaluated, and the seconds
        bindings.clear_log()
        c_params = structures.context_params(params, self.n_batch, n_seq_max, n_ctx_seq > 0, pooling)
        self.handle = api.llama_init_from_model(model.handle, c_params)
        if not self.handle:
            reason = bindings.last_log_error()
            hint = "" if reason and "alloc" not in reason else "try a smaller --ctx-size"
            reason = reason or "llama.cpp gives no reason"
            raise LlmcliError(f"cannot create a context of {params.n_ctx} tokens: {reason}", hint)
        self._changes_positions = params.changes_positions
        pool = structures.thread_pool_params(params)
        self._thread_pool = structures.ThreadPool(self.handle, pool) if pool else None
        self.n_cells: int = api.llama_n_ctx_seq(self.handle)  # tokens that the memory of a sequence has room for
        # Of one sequence. llama.cpp rounds it up to a multiple of 256; the limit is the one that was asked for.
        self.n_ctx: int = min(self.n_cells, n_ctx_seq or (params.n_ctx if n_seq_max == 1 else self.n_cells))
        self._memory = api.llama_get_memory(self.handle)
        # What the memory of each sequence holds: the tokens, and for each the number of rows of its batch if it was
        # the first one there, else 0. So a cut of both lists is all that a removal of tokens takes.
        self._evaluated: list[list[int]] = [[] for _ in range(n_seq_max)]
        self._rows: list[list[int]] = [[] for _ in range(n_seq_max)]
        self._batch = structures.TokenBatch(api, self.n_batch, n_seq_max)
        self._batch_seq_id = -1  # the sequence to which all rows of the batch belong, or -1
        # Threads wait for a device or a server, whatever else this machine computes.
        self.waits = thread_waits() if max(self.n_threads) > 1 and not hardware.has_gpu() else None
        # llama.cpp calls its abort callback after every tensor operation, about 1,000 times per token, so it must not
        # be Python. The C library's `strlen` has the right form: over this flag it returns 0 (continue) for an empty
        # string, else 1 (abort). Only the CPU backend calls it (see llama.h).
        self._abort_flag = ctypes.create_string_buffer(2)
        self._abort_callback = ctypes.cast(bindings.C_LIBRARY.strlen, api.ggml_abort_callback)
        api.llama_set_abort_callback(self.handle, self._abort_callback, ctypes.cast(self._abort_flag, ctypes.c_void_p))
        self._watched: list[Cancellation] = []

    def watch(self, cancellations: Sequence[Cancellation]) -> None:
        """Let any of these, and no other, abort the next evaluations."""
        if cancellations == self._watched:
            return
        for one in self._watched:
            one.flags = tuple(flag for flag in one.flags if flag is not self._abort_flag)
        self._watched = list(cancellations)
        for one in self._watched:
            one.flags = (*one.flags, self._abort_flag)

    def evaluated(self, tokens: Sequence[int] | None = None, seq_id: int = 0) -> int:
        """The number of evaluated tokens of the sequence: all, or those in its common prefix with `tokens`."""
        evaluated = self._evaluated[seq_id]
        return len(evaluated) if tokens is None else common_prefix(evaluated, tokens)

    def tokens(self, seq_id: int = 0) -> list[int]:
        """The evaluated tokens of the sequence."""
        return list(self._evaluated[seq_id])

    def layout(self, seq_id: int = 0) -> Batches:
        """The batches in which the tokens of the sequence were evaluated."""
        return layout_of(self._rows[seq_id])

    def prefill(self, seq_id: int, tokens: Sequence[int], progress: Progress | None = None) -> int:
        """Make the sequence exactly `tokens`, with the logits of the last one; returns the number of evaluated tokens.

        The common prefix with the present sequence is reused. Models that cannot remove a part of their memory
        (recurrent, sliding window) start from the beginning. Raises ContextOverflowError when the context is smaller
        than the tokens, and AbortedError when it is cancelled; what is evaluated then is kept.
        """
        self.begin(seq_id, tokens)
        n_evaluated = self.prefill_batch(seq_id, tokens, progress)
        while len(self._evaluated[seq_id]) < len(tokens):
            n_evaluated += self.prefill_batch(seq_id, tokens, progress)
        return n_evaluated

    def begin(self, seq_id: int, tokens: Sequence[int]) -> None:
        """Let `recall` restore what it has of this prompt, once."""
        if self.recall and len(tokens) <= self.n_ctx and tokens != self._begun:
            self._begun = list(tokens)
            self.recall(self, seq_id, tokens)

    def prefill_batch(self, seq_id: int, tokens: Sequence[int], progress: Progress | None = None) -> int:
        """Evaluate some of what `prefill` evaluates; `evaluated` then tells whether it was the end of it."""
        if len(tokens) > self.n_ctx:
            raise ContextOverflowError(f"{len(tokens)} tokens do not fit the context of {self.n_ctx} tokens")
        evaluated, keep = self._evaluated[seq_id], self.keep_prefix(seq_id, tokens)
        # With progress a micro-batch at a time: larger batches would move the bar in long jumps.
        n_ubatch, begin = self.plan.n_ubatch, perf_counter()
        end = min(keep + (n_ubatch if progress else self.n_batch // n_ubatch * n_ubatch), len(tokens))
        for at, until in pairwise(accumulate(self.plan.sizes(keep, end), initial=keep)):
            self._evaluate(seq_id, tokens[at:until], last=until == len(tokens))
            if until == self.snapshot_at:
                self.snapshot_at, self.snapshot = 0, self.save(seq_id)
        self.read = self.read[0] + end - keep, self.read[1] + perf_counter() - begin
        if progress:
            progress(len(evaluated), len(tokens))
        return len(evaluated) - keep

    def keep_prefix(self, seq_id: int, tokens: Sequence[int]) -> int:
        """Remove all but the common prefix with `tokens`, without the last of them; returns the number kept."""
        evaluated = self._evaluated[seq_id]
        # The logits of the last token may be overwritten, and a context has no others: it is evaluated again.
        keep = min(common_prefix(evaluated, tokens), len(tokens) - 1)
        return self.cut(seq_id, keep) if keep < len(evaluated) else keep

    def step(self, tokens: Sequence[tuple[int, int]]) -> None:
        """Evaluate one more token for each (seq_id, token) in one batch; row i of the logits belongs to pair i.

        Raises AbortedError when it is cancelled, ContextOverflowError when the memory that the sequences share is full.
        """
        n = len(tokens)
        for row, (seq_id, token) in enumerate(tokens):
            self._batch.tokens[row] = token
            self._batch.positions[row] = len(self._evaluated[seq_id])
            self._batch.wants_logits[row] = 1
            if n > 1 or self._batch_seq_id != seq_id:  # alone, a sequence finds its pointers in place
                self._batch.seq_pointers[row] = self._batch.seq_pointer[seq_id]
                self._batch_seq_id = -1
        self._decode(n, [seq_id for seq_id, _ in tokens])
        for seq_id, token in tokens:
            self._evaluated[seq_id].append(token)
            self._rows[seq_id].append(n)
        for row, (seq_id, _) in enumerate(tokens):
            self._check_logits(row, seq_id)

    def extend(self, rows: Sequence[tuple[int, int]], shared: Sequence[int] = (), is_draft: bool = False) -> None:
        """Evaluate (seq_id, token) pairs in one batch, each behind the tokens of its sequence, all with their logits.

        Unlike in `step`, a sequence can have several tokens, in order. Before them stand the `shared` tokens, which are
        the next ones of sequence 0 and of all others up to the last one of `rows`: these must be equal so far. Only the
        last one of them has logits. There are at most `n_batch` tokens. With `is_draft`, each row is a batch of its
        own in `layout`: a replay does without drafts, and evaluates these tokens one by one. Raises as `step`.
        """
        n_shared, n_sharing = len(shared), 1 + max(seq_id for seq_id, _ in rows)
        new = {seq_id: [*shared] for seq_id in (range(n_sharing) if shared else (seq_id for seq_id, _ in rows))}
        for row, token in enumerate(shared):
            self._batch.tokens[row], self._batch.positions[row] = token, len(self._evaluated[0]) + row
            self._batch.wants_logits[row] = row == n_shared - 1
            # A row has as many sequences as its pointer has numbers: it points to 0, and 1, 2, ... stand behind it.
            self._batch.seq_pointers[row], self._batch.n_seq_ids[row] = self._batch.seq_pointer[0], n_sharing
        for row, (seq_id, token) in enumerate(rows, n_shared):
            self._batch.tokens[row], self._batch.positions[row] = token, len(self._evaluated[seq_id]) + len(new[seq_id])
            self._batch.seq_pointers[row], self._batch.wants_logits[row] = self._batch.seq_pointer[seq_id], 1
            new[seq_id].append(token)
        self._batch_seq_id, n = -1, n_shared + len(rows)
        try:
            self._decode(n, [*new])
        finally:
            self._batch.n_seq_ids[:n_shared] = [1] * n_shared
        for seq_id, tokens in new.items():
            self._evaluated[seq_id] += tokens
            self._rows[seq_id] += [1] * len(tokens) if is_draft else [n, *[0] * (len(tokens) - 1)]
        if shared:
            self._check_logits(n_shared - 1, 0)
        for row, (seq_id, _) in enumerate(rows, n_shared):
            self._check_logits(row, seq_id)

    def share(self, source: int, target: int) -> None:
        """Make the sequence `target` equal to `source`, without an evaluation (in a unified cache, without a copy)."""
        api, memory = self._api, self._memory
        api.llama_memory_seq_rm(memory, target, -1, -1)
        api.llama_memory_seq_cp(memory, source, target, -1, -1)
        self._evaluated[target], self._rows[target] = list(self._evaluated[source]), list(self._rows[source])

    def cut(self, seq_id: int, keep: int = 0) -> int:
        """Keep the first `keep` tokens, or none where the memory cannot remove the others; returns the number kept.

        A recurrent memory refuses to remove a part. One with a sliding window does it, but may have overwritten cells
        that the kept tokens attend to: it is complete only while it still has the first position.
        """
        api, memory = self._api, self._memory
        is_complete = api.llama_memory_seq_pos_min(memory, seq_id) == 0
        if not (api.llama_memory_seq_rm(memory, seq_id, keep, -1) and is_complete):
            api.llama_memory_seq_rm(memory, seq_id, -1, -1)
            keep = 0
        del self._evaluated[seq_id][keep:], self._rows[seq_id][keep:]
        return keep

    def receive(self, other: "Context") -> None:
        """Copy the first sequence of `other`, a context of the same model and cache types, if it fits."""
        if state := other.save():
            self.restore(0, state)

    def prefill_as(self, seq_id: int, tokens: Sequence[int], layout: Batches) -> Iterator[None]:
        """Evaluate all of these batches of `tokens` again except the last one, which `prefill` then evaluates.

        It yields after each of them.

        A batch of which only a part was kept is filled up with other tokens, which are then removed: the number of rows
        decides about the rounding, but a row has no influence on the rows before it. Raises ValueError when the layout
        is not possible, or this memory cannot remove a part of a batch.
        """
        check_layout(layout, len(tokens), self.n_batch, self.n_ctx)
        self.cut(seq_id)
        evaluated = self._evaluated[seq_id]
        *batches, _ = [(rows, kept) for rows, kept, times in layout for _ in range(times)]
        for rows, kept in batches:
            keep = len(evaluated) + kept
            part = tokens[len(evaluated) : keep]
            self._evaluate(seq_id, [*part, *[part[-1]] * (rows - kept)], last=False)
            if keep < len(evaluated) and self.cut(seq_id, keep) != keep:
                raise ValueError("the memory of this model cannot keep a part of a batch")
            yield

    def rewind(self, seq_id: int, tokens: Sequence[int]) -> None:
        """Remove the batch in which the last of `tokens` was evaluated, and everything after it.

        `prefill` then evaluates the same batch again, and gets exactly the same logits.
        """
        if self.evaluated(tokens, seq_id) == len(tokens):
            self.cut(seq_id, max(at for at, n_rows in enumerate(self._rows[seq_id][: len(tokens)]) if n_rows))

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore the first sequence after this block, bit by bit, whatever the block evaluated.

        To evaluate the removed tokens again would give almost the same state: other batches have other rounding. It is
        what the next `prefill` does where the state has more than 512 MB and is not saved.
        """
        is_small = self._api.llama_state_seq_get_size(self.handle, 0) <= _MAX_SAVED_STATE
        state = self.save() if is_small and self._evaluated[0] else None
        try:
            yield
        finally:
            if state:
                self.restore(0, state)

    def save(self, seq_id: int = 0) -> SequenceState | None:
        """A copy of a sequence; None if a signal has ended an evaluation in the middle."""
        if not self._is_sound(seq_id):
            return None
        data = bytearray(self.state_size(seq_id))
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        size = self._api.llama_state_seq_get_data(self.handle, buffer, len(data), seq_id)
        return SequenceState(self.tokens(seq_id), self.layout(seq_id), data) if size == len(data) else None

    def restore(self, seq_id: int, state: SequenceState) -> bool:
        """Make a sequence that of a state; where it does not fit this context, the sequence is empty."""
        self.cut(seq_id)
        buffer = (ctypes.c_uint8 * len(state.data)).from_buffer(state.data)
        size = self._api.llama_state_seq_set_data(self.handle, buffer, len(state.data), seq_id)
        return self._note_restored(seq_id, state.tokens, state.batches, size == len(state.data))

    def state_size(self, seq_id: int) -> int:
        """The bytes of the state of a sequence."""
        return int(self._api.llama_state_seq_get_size(self.handle, seq_id))

    def save_file(self, seq_id: int, path: Path) -> None:
        """Write a sequence to a file, without a copy of it in memory. Raises OSError, also where `save` gives None."""
        tokens = self.tokens(seq_id)
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        args = self.handle, bindings.path_bytes(path), seq_id, array, len(tokens)
        size = self._is_sound(seq_id) and self._api.llama_state_seq_save_file(*args)
        if not size or path.stat().st_size != size:  # the end of a file can be missing without an error
            raise OSError(f"llama.cpp cannot write to {path.parent}: is the disk full?")

    def restore_file(self, seq_id: int, path: Path, tokens: Sequence[int], batches: Batches) -> bool:
        """As `restore`, from a file of `save_file` that is known to be whole; it must have these tokens."""
        self.cut(seq_id)
        found, count = (ctypes.c_int32 * len(tokens))(), ctypes.c_size_t()
        args = self.handle, bindings.path_bytes(path), seq_id, found, len(tokens), ctypes.byref(count)
        size = self._api.llama_state_seq_load_file(*args)
        return self._note_restored(seq_id, tokens, batches, size > 0 and list(found) == list(tokens))

    def _note_restored(self, seq_id: int, tokens: Sequence[int], batches: Batches, is_whole: bool) -> bool:
        self._evaluated[seq_id], self._rows[seq_id] = list(tokens), rows_of(batches)
        if is_whole and self._is_sound(seq_id):
            return True
        self.cut(seq_id)  # a part of it can be there
        return False

    def _is_sound(self, seq_id: int) -> bool:
        """Whether the memory ends with the last of the tokens that the sequence has, of which there is one."""
        n_tokens, n_rows = len(self._evaluated[seq_id]), len(self._rows[seq_id])
        last: int = self._api.llama_memory_seq_pos_max(self._memory, seq_id)
        return 0 < n_tokens == n_rows == last + 1

    def logits(self, n_vocab: int, row: int = -1) -> Sequence[float]:
        """A copy of the logits of one row of the last evaluation."""
        values: list[float] = self._api.llama_get_logits_ith(self.handle, row)[:n_vocab]
        return values

    def logits_as_bytes(self, row: int) -> bytes:
        """A copy of the logits of one row of the last evaluation, to compare."""
        return ctypes.string_at(self._api.llama_get_logits_ith(self.handle, row), 4 * self.model.vocab.n_tokens)

    def keeps_all(self, seq_id: int = 0) -> bool:
        """Whether the memory has all tokens of a sequence, so that its last ones can be removed without the others."""
        return not self.model.is_recurrent and self._api.llama_memory_seq_pos_min(self._memory, seq_id) == 0

    def not_a_number(self, expected: str = "probabilities") -> ModelInvalidError:
        """The error for results that are NaN."""
        hint = "check the file with `llmcli models verify`, or use another one"
        if self._changes_positions:
            hint = "remove the settings for RoPE and YaRN, and --override-kv"
        elif hardware.has_gpu():
            hint = "compute on the CPU with -ngl 0, or check the file with `llmcli models verify`"
        return ModelInvalidError(f"{self.model.path.name} computes NaN (not a number) instead of {expected}", hint)

    def close(self) -> None:
        """Free the memory; a second call has no effect."""
        self.watch([])
        handle, self.handle = self.handle, None
        if handle and not bindings.is_process_ending:
            self._api.llama_free(handle)
        if self._thread_pool and not bindings.is_process_ending:
            self._thread_pool.close()

    def _evaluate(self, seq_id: int, tokens: Sequence[int], last: bool) -> None:
        """Evaluate tokens of one sequence in one batch, with the logits of the last token if `last`."""
        evaluated, n = self._evaluated[seq_id], len(tokens)
        self._batch.tokens[:n] = list(tokens)
        self._batch.positions[:n] = list(range(len(evaluated), len(evaluated) + n))
        self._batch.wants_logits[:n] = [0] * n
        self._batch.wants_logits[n - 1] = last  # the output layer is evaluated only for rows that want logits
        if self._batch_seq_id != seq_id:
            self._batch.seq_pointers[:] = [self._batch.seq_pointer[seq_id]] * self.n_batch
            self._batch_seq_id = seq_id
        self._decode(n, [seq_id])
        evaluated.extend(tokens)
        self._rows[seq_id] += self.plan.rows(n)
        if last:
            self._check_logits(-1, seq_id)

    def _check_logits(self, row: int, seq_id: int) -> None:
        """Raise ModelInvalidError if the first logit of a row is NaN: it is if any activation of the row is (1 us)."""
        logit = self._api.llama_get_logits_ith(self.handle, row)[0]
        if logit != logit:
            self.cut(seq_id)  # no later answer may attend to what is NaN too
            raise self.not_a_number()

    def _decode(self, n: int, seq_ids: list[int]) -> None:
        # The flag is cleared before the question: a `set` in another thread is seen here, or writes to the flag later.
        self._abort_flag[0] = b"\0"
        if any(one.is_set() for one in self._watched):
            raise AbortedError
        self._batch.struct.n_tokens = n
        decode, arguments = self._api.llama_decode, (self.handle, self._batch.struct)
        status = self.waits.compute(self.n_threads[n > 1], decode, *arguments) if self.waits else decode(*arguments)
        if status == 0:
            return
        if status == _NO_SLOT:  # llama.cpp looks for space before it evaluates: the memory is as before
            raise ContextOverflowError(f"the context of {self.n_ctx} tokens is full")
        for seq_id in seq_ids:  # remove what the micro-batches before the failure left in the memory
            self.cut(seq_id, len(self._evaluated[seq_id]))
        if status == _ABORTED or self._abort_flag[0] != b"\0":
            raise AbortedError
        raise LlmcliError(f"llama.cpp cannot evaluate the tokens: {bindings.last_log_error() or f'status {status}'}")
