"""A context that stays for the next command: its first prompt keeps of the last one what an empty context would have.

The results of a row depend on which kernels its batch has, not on the other rows of it. So a prompt can begin in the
middle of a batch of another one, if both batches have the same kernels: `rounds_alike` checks it on this machine.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from llmcli.engine.events import Cancellation, Progress, common_prefix
from llmcli.engine.llama import hardware
from llmcli.engine.llama.batches import BLOCK
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.errors import LlmcliError
from llmcli.params.model import ModelParams

# Kernels take several rows at a time, and others take the rest: a batch is divided where all of them begin anew.
_GRAIN = 8
_KINDS = ("few", "many")  # of batches, by the kernel of the attention: below and from BLOCK rows on


class KeptContext(Context):
    """A context of one sequence, which several users have in turn.

    `lend` begins the time of a user.
    """

    def __init__(self, model: Model, params: ModelParams) -> None:
        super().__init__(model, params)
        self.most = self.n_ctx  # tokens, for whoever has it
        self.is_lent_anew = True  # no prompt of this user has begun
        self.session = ""  # whose conversation it has
        self.is_conversation = False  # whether its user continues one, in the batches that it had
        self.alike: frozenset[str] = frozenset()  # the kinds of batches that can be divided: see `rounds_alike`
        self.missed = ""  # the kind of a batch that could have been divided, if that was known
        self._last_prompt = 0  # its tokens
        self._logits = b""  # at its end
        self._is_whole = False  # the prompt is the last one: its logits are known
        # Of the batches that a prompt shares in part: where they begin, what is kept, and where the rest of them ends.
        self._divided: tuple[int, int, int] | None = None

    def lend(self, params: ModelParams) -> None:
        """Begin the time of a user, who wants a context of this size, which is not larger than it was made."""
        self.n_ctx = params.n_ctx
        n_ubatch = min(params.n_ubatch, params.n_batch, params.n_ctx)
        self.plan = replace(self.plan, n_ubatch=n_ubatch, block=n_ubatch if hardware.has_gpu() else BLOCK)
        self.is_lent_anew, self.recall, self._begun, self.read = True, None, (), (0, 0.0)
        self.snapshot_at, self.snapshot, self._divided = 0, None, None
        self.is_conversation = self._is_whole = False
        self.watch([])

    def forget(self) -> None:
        """Overwrite what it has evaluated."""
        if pointer := self._last_logits():
            ctypes.memset(pointer, 0, 4 * self.model.vocab.n_tokens)
        self._api.llama_memory_clear(self._memory, True)
        self._batch.tokens[:] = [0] * len(self._batch.tokens)
        self._evaluated[0].clear()
        self._rows[0].clear()
        self._begun, self._logits, self._last_prompt, self.session = (), b"", 0, ""

    def evaluated(self, tokens: Sequence[int] | None = None, seq_id: int = 0) -> int:
        """As of `Context`, without what the last user has left."""
        return 0 if self.is_lent_anew else super().evaluated(tokens, seq_id)

    def n_usable(self, tokens: Sequence[int]) -> int:
        """How many tokens of a first prompt need no evaluation."""
        return self._usable(tokens)[0]

    def begin(self, seq_id: int, tokens: Sequence[int]) -> None:
        self._divided = None
        if self.is_lent_anew and len(tokens) <= self.n_ctx:
            self.is_lent_anew = False
            n_usable, divided = self._usable(tokens)
            if self.cut(seq_id, n_usable) == n_usable:
                self._divided = divided
            self._is_whole = 0 < n_usable == len(tokens) == len(self._evaluated[seq_id])
        super().begin(seq_id, tokens)

    def prefill_batch(self, seq_id: int, tokens: Sequence[int], progress: Progress | None = None) -> int:
        n_read = 0
        is_whole, self._is_whole = self._is_whole, False
        if is_whole and self._evaluated[seq_id] == list(tokens) and (pointer := self._last_logits()):
            ctypes.memmove(pointer, self._logits, len(self._logits))
            return 0
        if self._divided and self._divided[1] == len(self._evaluated[seq_id]):
            n_read = self._read_rest(seq_id, tokens, *self._divided)
            if progress:
                progress(len(self._evaluated[seq_id]), len(tokens))
        if len(self._evaluated[seq_id]) < len(tokens) or not n_read:
            n_read += super().prefill_batch(seq_id, tokens, progress)
        if len(self._evaluated[seq_id]) == len(tokens):
            self._last_prompt, self._logits = len(tokens), self.logits_as_bytes(-1)
        return n_read

    def _read_rest(self, seq_id: int, tokens: Sequence[int], at: int, keep: int, end: int) -> int:
        """Evaluate the rest of some batches, and note them as they are: later evaluations of them give the same."""
        self._evaluate(seq_id, tokens[keep:end], last=end == len(tokens))
        self._divided = None
        self._rows[seq_id][at:] = self._rows_of(tokens)[at:end]
        return end - keep

    def _ends(self, prompt: Sequence[int]) -> list[int]:
        """0, and where the micro-batches of a prompt end in an empty context."""
        return [at for at, n_rows in enumerate(self._rows_of(prompt)) if n_rows] + [len(prompt)]

    def _rows_of(self, prompt: Sequence[int]) -> list[int]:
        return [row for size in self.plan.sizes(0, len(prompt)) for row in self.plan.rows(size)]

    def _usable(self, tokens: Sequence[int]) -> tuple[int, tuple[int, int, int] | None]:
        """How many tokens can stay; where that is in the middle of a batch of the prompt, as `_divided`."""
        known, layout, n = self._evaluated[0], self._rows[0], len(tokens)
        n_same, ends = common_prefix(known, tokens), self._ends(tokens)
        is_last = n_same == self._last_prompt == n and layout[:n] == self._rows_of(tokens)
        if is_last and self._logits and self._last_logits():
            return (n, None) if self.can_cut or len(known) == n else (0, None)
        if self.is_conversation and self.session and n_same >= self._last_prompt > 0:  # it goes on
            return min(n_same, n - 1), None
        usable = 0
        for number, (at, end) in enumerate(pairwise(ends)):
            is_equal = layout[at : at + 1] == [end - at] and not any(layout[at + 1 : end])
            if not is_equal or end > min(n_same, n - 1):
                return self._divide(ends[number:], n_same)
            usable = end
        return usable, None

    def _divide(self, ends: Sequence[int], n_same: int) -> tuple[int, tuple[int, int, int] | None]:
        """Where the first of these batches of a prompt, or one behind it, can begin later: its first rows are there."""
        at, kind = ends[0], _kind(ends[1] - ends[0])
        n_rows = size = 0
        for row in self._rows[0][at:n_same] if kind else ():
            size = row or size
            if not size or _kind(size) != kind:
                break
            n_rows += 1
        most = at + n_rows - n_rows % _GRAIN
        found: tuple[int, tuple[int, int, int] | None] = at, None
        for before, end in pairwise(ends):
            keep = min(most, end - (BLOCK if kind == "many" else _GRAIN))
            keep -= (keep - at) % _GRAIN
            if _kind(end - before) != kind or end - keep > self.plan.n_ubatch or found[0] == most:
                break
            if keep > found[0]:
                found = keep, (at, keep, end)
        if found[1] and kind not in self.alike:
            self.missed = kind
            return at, None
        return found

    def _last_logits(self) -> int:
        """Where the logits of the last evaluation are; 0 if it had none."""
        if not self._rows[0]:
            return 0
        pointer = self._api.llama_get_logits_ith(self.handle, -1)
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _kind(n_rows: int) -> str:
    """The kernels of a batch; "" for a single row, which has others."""
    return "" if n_rows < 2 else _KINDS[n_rows >= BLOCK]


def rounds_alike(model: Model, params: ModelParams, kind: str, cancellation: Cancellation) -> bool | None:
    """Whether the rows of a batch of this kind are the same when it is evaluated in two parts; None if cancelled.

    The first part stays of a batch with other tokens behind it, as in `KeptContext`.
    """
    n, keep, n_before = (24, 16, 31) if kind == "few" else (BLOCK + 32, 32, 90)
    try:
        context = Context(model, replace(params, n_ctx=256, n_batch=256, n_ubatch=256))
    except LlmcliError:
        return False
    context.watch([cancellation])
    length, n_vocab = max(n, n_before), model.vocab.n_tokens
    tokens, other = ([(at * step + 1) % n_vocab for at in range(length)] for step in (7919, 104729))
    try:
        context._evaluate(0, tokens[:n], last=True)
        whole, logits = context.save(), context.logits_as_bytes(-1)
        context.cut(0)
        context._evaluate(0, [*tokens[:keep], *other[keep:n_before]], last=True)
        if context.cut(0, keep) != keep:
            return False
        context._evaluate(0, tokens[keep:n], last=True)
        parts = context.save()
        return bool(whole and parts and whole.data == parts.data and logits == context.logits_as_bytes(-1))
    except AbortedError:
        return None
    except LlmcliError:
        return False
    finally:
        context.close()
