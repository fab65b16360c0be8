"""Which states of contexts are stored and restored: those of sessions, and of the beginnings that prompts share.

A restored beginning gives exactly what its evaluation would give: it ends where a batch of the prompt begins, and its
batches are those of the prompt. A session continues where it was left, in the batches that it had.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import Batches, common_prefix
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.batches import BLOCK, rows_of
from llmcli.engine.llama.context import Context
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.locations import ModelFile
from llmcli.models.notes import fingerprint
from llmcli.params.model import RopeParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.inference.state_file import Identity, StoredState
    from llmcli.inference.state_store import StateStore

_SETTINGS = ("flash_attn", "cache_type_k", "cache_type_v", "swa_full", *fields_of(RopeParams), "override_kv")
# A state is read, checked and copied at this speed, and that must be faster than its evaluation by this factor.
_BYTES_PER_SECOND, _GAIN = 1e9, 2.0
_MIB = 1 << 20
_N_PROMPTS = 8  # the last prompts, with which later ones are compared
_MOST_SHARED, _N_STORED = 64, 4  # beginnings of several prompts that are counted, and of which are stored in the end
# Tokens at the end of a prompt that another question may not share. A memory that cannot remove tokens has none of them
# in its state; only the fewer of a short question, where much more would be missing.
_QUESTION, _SHORT_QUESTION = 128, 64


class ContextStates:
    """Restores and stores what the contexts of one model evaluate, unless the settings say that nothing is stored."""

    def __init__(self, file: ModelFile, header: GGUFHeader, settings: Settings, gpu_layers: int) -> None:
        self._file, self._header, self._settings, self._gpu_layers = file, header, settings, gpu_layers
        self._is_on, self._n_least = settings.kv_cache and settings.kv_cache_limit > 0, settings.kv_cache_min
        self._loaded = _stamps(file)  # of the files that are loaded; others may take their place
        self.is_conversation = False  # what is evaluated belongs to a session, and is stored only as such
        self._log: list[str] = []  # what was done, in words
        self._prompts: list[Sequence[int]] = []  # the last ones, each once
        self._shared: Counter[tuple[int, ...]] = Counter()  # beginnings of several prompts, and how often they came
        self._restored = (0, 0.0)  # tokens of restored states, and the seconds that their evaluation took

    @cached_property
    def _store(self) -> "StateStore":
        from llmcli.inference.state_store import StateStore  # a short prompt needs none of this

        return StateStore(self._settings.kv_cache_limit * _MIB)

    @cached_property
    def _facts(self) -> dict[str, object]:
        """What all states of this model depend on."""
        facts: dict[str, object] = {key: getattr(self._settings, key) for key in _SETTINGS}
        is_same = self._loaded == _stamps(self._file)
        # No state has a random identity: that of a file which is not the loaded one any more, or cannot be read.
        facts["model"] = (is_same and fingerprint(self._file.parts)) or os.urandom(16).hex()
        facts |= {"name": self._file.name, "gpu_layers": self._gpu_layers, "lora": []}
        facts["build"] = f"{bindings.bindings_version()}, {bindings.llama_build()}"
        return facts | {"machine": hardware.machine()}

    def _identity(self, context: Context) -> "Identity":
        # Models with this have other RoPE factors in a context that is longer than that of their first training.
        original = self._header.metadata.get(f"{self._header.architecture}.rope.scaling.original_context_length")
        is_long = isinstance(original, int) and context.n_cells > original
        facts = self._facts | {"threads": context.n_threads, "is_long": is_long}
        identity: Identity = json.loads(json.dumps(facts))  # as it is read from a file
        return identity

    # Restore

    def attach(self, context: Context) -> Context:
        """Let a context restore the beginnings of its prompts; returns it."""
        if self._is_on:
            context.recall = self._recall
        return context

    def _recall(self, context: Context, seq_id: int, tokens: Sequence[int]) -> None:
        """Restore what there is of a prompt that begins, and remember it as one whose beginning may be stored."""
        if len(tokens) < self._n_least:
            return
        is_first = not self._prompts
        self._note_prompt(tokens)
        if len(tokens) - context.evaluated(tokens, seq_id) >= self._n_least:
            self._restore_best(context, seq_id, tokens)
        if is_first and not (context.can_cut or self.is_conversation):
            context.snapshot_at = self._question_begin(context, tokens)

    def _note_prompt(self, tokens: Sequence[int]) -> None:
        """Remember a prompt, and count what it shares with those before it: a whole number of blocks."""
        for other in self._prompts:
            n_same = common_prefix(other, tokens)
            if n_same == len(other) == len(tokens):
                return
            if n_same >= self._n_least:
                self._shared[tuple(tokens[: n_same - n_same % BLOCK])] += 1
        self._prompts = [*self._prompts, list(tokens)][-_N_PROMPTS:]
        if len(self._shared) > _MOST_SHARED:
            self._shared = Counter(dict(self._shared.most_common(_N_STORED)))

    def _restore_best(self, context: Context, seq_id: int, tokens: Sequence[int]) -> None:
        """Restore the state that has most of a prompt, or the next one where it is damaged."""
        n_evaluated, states = context.evaluated(tokens, seq_id), self._usable_states(context, tokens)
        if not states and len(self._prompts) == 1:
            self._explain(context, tokens)
        for n_usable, stored in states:
            if n_usable - n_evaluated < self._n_least:
                return
            begin = perf_counter()
            if self._load(context, seq_id, stored):
                if n_usable < len(stored.tokens):
                    context.cut(seq_id, n_usable)
                took = (perf_counter() - begin) * 1e3
                self._log.append(f"restored {n_usable} tokens of the context in {took:.0f} ms")
                n_known, seconds = self._restored
                seconds += stored.seconds * n_usable / len(stored.tokens)
                self._restored = n_known + n_usable, seconds
                return
            n_evaluated = context.evaluated(tokens, seq_id)

    def _explain(self, context: Context, tokens: Sequence[int]) -> None:
        """Say in the log which settings keep a stored state from its use."""
        from llmcli.inference.state_store import differences

        identity = self._identity(context)
        found = [differences(other.identity, identity) for other in self._store.find_others(identity, tokens)]
        if reasons := min((one for one in found if "model" not in one), key=len, default=None):
            self._log.append(f"a stored context is of other settings, and is not used: {', '.join(reasons)}")

    def _load(self, context: Context, seq_id: int, stored: "StoredState") -> bool:
        """Make a sequence that of a stored state, or remove the state: it is damaged, or of another llama.cpp."""
        is_valid = max(stored.tokens) < context.model.vocab.n_tokens and stored.is_sound()
        if is_valid and context.restore_file(seq_id, stored.path, stored.tokens, stored.batches):
            self._store.touch(stored)
            return True
        self._store.drop(stored)
        self._log.append(f"the stored state {stored.path.name} is not valid")
        return False

    def _usable_states(self, context: Context, tokens: Sequence[int]) -> list["tuple[int, StoredState]"]:
        """How many tokens of each stored state begin a prompt as it would be evaluated; the most first."""
        found = []
        for stored in self._store.find(self._identity(context), tokens):
            if self.is_conversation and not self._store.is_of(stored, ""):
                n_usable = min(common_prefix(stored.tokens, tokens), len(tokens) - 1)
            else:
                n_usable = context.plan.exact_prefix(stored.tokens, stored.batches, tokens)
            is_whole = n_usable == len(stored.tokens)
            is_fast = _is_fast(stored.seconds * n_usable / len(stored.tokens), stored.n_bytes)
            if is_fast and len(stored.tokens) <= context.n_ctx and (is_whole or context.can_cut_restored):
                found.append((n_usable, stored))
        return sorted(found, key=lambda one: one[0], reverse=True)

    # Store

    def keep_all(self, session: str, *contexts: Context | None) -> Sequence[str]:
        """Store the first context for a session, or without one the beginnings in all.

        Returns what was restored and stored since the last call, or why not, in lines for --verbose.
        """
        for context in filter(None, contexts[:1] if session else contexts):
            if session and self._is_on:
                self._keep_session(context, session)
            elif not session:
                self.keep(context)
        done, self._log = self._log, []
        return done

    def _keep_session(self, context: Context, session: str) -> None:
        """Store the first sequence, unless it is short or stored already."""
        is_long = context.evaluated() >= self._n_least
        if is_long and not self._has(context, session):
            self._add(context, 0, session)

    def keep(self, context: Context) -> None:
        """Store the beginnings that later prompts can share; the sequences are cut, so it is the last use of them."""
        if self.is_conversation or not self._prompts:
            return
        if context.snapshot and self._is_new(context, self._prompts[0], len(context.snapshot.tokens)):
            context.restore(0, context.snapshot)
            self._add(context, 0)
        for prompt, most in self._beginnings(context):
            ends = [
                (context.plan.exact_prefix(context.tokens(seq_id)[:most], context.layout(seq_id), prompt), seq_id)
                for seq_id in range(context.n_seq_max)
            ]
            for n_tokens, seq_id in sorted(ends, reverse=True):
                if n_tokens < self._n_least or not self._is_new(context, prompt, n_tokens):
                    break
                # What was restored or shared behind a window cannot be cut: another sequence may be whole.
                if context.cut(seq_id, n_tokens) == n_tokens:
                    self._add(context, seq_id)
                    break

    def _beginnings(self, context: Context) -> list[tuple[Sequence[int], int]]:
        """Prompts, and how many of their first tokens to store at most: what several share, or all of a single one."""
        if len(self._prompts) == 1:
            (prompt,) = self._prompts
            return [(prompt, len(prompt) - 1 if context.can_cut_restored else self._question_begin(context, prompt))]
        shared = [tokens for tokens, _ in self._shared.most_common(_N_STORED)]
        return [
            (prompt, len(tokens))
            for tokens in shared
            for prompt in [one for one in self._prompts if tuple(one[: len(tokens)]) == tokens][:1]
        ]

    def _question_begin(self, context: Context, prompt: Sequence[int]) -> int:
        """Where a state of a prompt ends that must fit another question as a whole: where a batch ends."""
        usual, short = (context.plan.last_end(prompt, len(prompt) - n) for n in (_QUESTION, _SHORT_QUESTION))
        return short if short - usual >= self._n_least + _SHORT_QUESTION else usual

    def _is_new(self, context: Context, prompt: Sequence[int], n_tokens: int) -> bool:
        """Whether these tokens of a prompt would save more than what is stored."""
        states = self._usable_states(context, prompt)
        return n_tokens - (states[0][0] if states else 0) >= self._n_least

    def _has(self, context: Context, session: str) -> bool:
        """Whether the context of a session is stored as it is."""
        tokens = context.tokens()
        same = [
            stored
            for stored in self._store.find(self._identity(context), tokens)
            if self._store.is_of(stored, session) and stored.tokens == tokens
        ]
        for stored in same:
            self._store.touch(stored)
        return bool(same)

    def _add(self, context: Context, seq_id: int, session: str = "") -> None:
        """Store a sequence as it is now, if it will be restored faster than evaluated."""
        begin, size = perf_counter(), context.state_size(seq_id)
        tokens, batches = context.tokens(seq_id), context.layout(seq_id)
        # What was restored counts as it was measured: a few tokens that are read behind it are slow, each for itself.
        (n_read, seconds_read), (n_known, seconds_known) = context.read, self._restored
        seconds = len(tokens) * (seconds_read + seconds_known) / max(n_read + n_known, 1)
        if not _is_fast(seconds, size):
            return
        identity, write = self._identity(context), partial(context.save_file, seq_id)
        what = f"{len(tokens)} tokens of the context ({size >> 20} MiB)"
        try:
            is_stored = self._store.add(identity, tokens, batches, seconds, size, write, session)
        except OSError as error:
            self._log.append(f"cannot store {what}: {error.strerror or error}")
            return
        if not is_stored:
            self._log.append(f"no room for {what}: at most kv_cache_limit, and a tenth of the free disk")
            return
        self._log.append(f"stored {what} in {(perf_counter() - begin) * 1e3:.0f} ms")
        if not session and context.can_cut_restored:
            self._drop_shorter(identity, tokens, batches)

    def _drop_shorter(self, identity: "Identity", tokens: Sequence[int], batches: Batches) -> None:
        """Remove states that are only the beginning of another one."""
        rows = rows_of(batches)
        for stored in self._store.find(identity, tokens):
            n = len(stored.tokens)
            is_beginning = stored.tokens == tokens[:n] and rows_of(stored.batches) == rows[:n]
            if n < len(tokens) and is_beginning and self._store.is_of(stored, ""):
                self._store.drop(stored)


def _is_fast(seconds: float, n_bytes: int) -> bool:
    """Whether a state of so many bytes is restored much faster than evaluated, which took so long."""
    return seconds * _BYTES_PER_SECOND > _GAIN * n_bytes


def _stamps(file: ModelFile) -> list[tuple[int, int]]:
    """The size in bytes and the time of change in nanoseconds of each file of a model, to see whether one changes."""
    found = []
    for part in file.parts:
        with suppress(OSError):
            about = part.stat()
            found.append((about.st_size, about.st_mtime_ns))
    return found
