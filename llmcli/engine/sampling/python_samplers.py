"""Samplers of the chain that are written in Python, and what is read from the logits of a token."""

import ctypes
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from llmcli.engine.events import Alternative, TokenLogprob
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.params.samplers import Args, Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_TYPE = [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]  # a llama_token_data for numpy
_ROW_BYTES = 12
_NEAR = 1e-4  # of the highest probability: only these are sorted, or all if they are fewer than requested


class CustomSampler:
    """A `llama_sampler` whose `apply` is a Python function of the candidates.

    Keep a reference to the object as long as llama.cpp can call it, and while a chain or a clone of it is freed.
    """

    def __init__(self, name: str, apply: "Callable[[bindings.Candidates], None]") -> None:
        api = bindings.load()
        self.failure: BaseException | None = None
        label = name.encode()

        def guarded(_sampler: object, candidates: "bindings.Candidates") -> None:
            try:
                apply(candidates)
            except BaseException as error:  # it cannot pass through C: the caller of llama.cpp raises it
                self.failure = error

        self._interface = api.llama_sampler_i(
            name=api.llama_sampler_i_name(lambda _sampler: label), apply=api.llama_sampler_i_apply(guarded)
        )
        # Without a function `clone`, llama.cpp can clone only a sampler whose context is NULL: the clone calls this
        # object as well. So the state of a Python sampler must not be part of a draw's state.
        self.pointer = api.llama_sampler_init(self._interface, None)


def python_sampler(sampler: Sampler, args: Args) -> CustomSampler:
    """A sampler that is written in Python, with its arguments."""
    import numpy as np  # takes 80 ms, so only here; a loop over a vocabulary is too slow

    def apply(candidates: "bindings.Candidates") -> None:
        array = candidates.contents
        rows = candidate_rows(array)
        logits = rows["logit"]
        live = logits > -math.inf
        if not live.any():
            return
        if sampler.transform:
            with np.errstate(over="ignore"):  # a logit below the smallest float becomes -inf, as it should
                logits[live] = sampler.transform(logits[live], *args)
            array.sorted = array.sorted and bool((logits[1:] <= logits[:-1]).all())
        if sampler.keep:
            weights = np.exp(logits[live] - logits.max())
            kept = rows[live][np.asarray(sampler.keep(weights / weights.sum(), *args))]
            rows[: len(kept)] = kept  # in the memory of llama.cpp, as its own samplers do
            array.size = len(kept)

    return CustomSampler(sampler.name, apply)


def candidate_rows(array: "bindings.CandidateArray") -> "NDArray[np.void]":
    """The candidates, not copied, as a numpy array with the fields id, logit and p."""
    import numpy as np

    block = (ctypes.c_char * (array.size * _ROW_BYTES)).from_address(ctypes.addressof(array.data.contents))
    return np.frombuffer(memoryview(block), ROW_TYPE)


def candidate_bytes(array: "bindings.CandidateArray") -> bytes:
    """A copy of the candidates: for some hundred of them, much faster than a loop over structures of ctypes."""
    return ctypes.string_at(array.data, array.size * _ROW_BYTES)


class DrawTracer(CustomSampler):
    """The last step of a chain, after the draw. It records the drawn token, its rank, and the candidates."""

    def __init__(self) -> None:
        self.p, self.rank = 0.0, 0
        self._rows = b""
        super().__init__("drawn", self._record)

    def _record(self, candidates: "bindings.Candidates") -> None:
        array = candidates.contents
        self._rows = candidate_bytes(array)  # now: the next draw writes into the same memory
        probabilities = memoryview(self._rows).cast("f")[2::3].tolist()
        self.p = probabilities[array.selected]
        self.rank = 1 + sum(map(self.p.__lt__, probabilities))

    def left(self) -> dict[int, float]:
        """The candidates of the last draw: probability by token id."""
        rows = memoryview(self._rows)
        return dict(zip(rows.cast("i")[::3].tolist(), rows.cast("f")[2::3].tolist(), strict=True))


def alternatives(ctx: int, row: int, vocab: Vocab, count: int, left: Mapping[int, float]) -> tuple[Alternative, ...]:
    """The most likely tokens in batch row `row` of the context `ctx`; `left` are the candidates after the chain."""
    _, weights, top = _most_likely(ctx, row, vocab.n_tokens, count)
    before = weights[top] / float(weights.sum())
    pairs = zip(top.tolist(), before.tolist(), strict=True)
    return tuple(Alternative(token, vocab.label(token), p, left.get(token, 0.0)) for token, p in pairs)


def token_logprob(ctx: int, row: int, n_vocab: int, token: int, count: int) -> TokenLogprob:
    """The log-probability of `token` and of the `count` most likely tokens, in batch row `row` of the context `ctx`.

    log softmax: l_i - max - ln sum exp(l_j - max).
    """
    import numpy as np

    logits, weights, top = _most_likely(ctx, row, n_vocab, count)
    logprobs = logits - (logits.max() + np.log(weights.sum()))
    return TokenLogprob(token, float(logprobs[token]), tuple(zip(top.tolist(), logprobs[top].tolist(), strict=True)))


def _most_likely(
    ctx: int, row: int, n_vocab: int, count: int
) -> "tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]":
    """The logits of a batch row, not copied; the weights exp(l - max); the ids of the most likely tokens, in order."""
    import numpy as np  # takes 80 ms, so only here

    logits = np.ctypeslib.as_array(bindings.load().llama_get_logits_ith(ctx, row), (n_vocab,))
    weights = np.exp(logits - logits.max())
    # To sort a whole vocabulary takes longer than to draw the token.
    near = (weights > _NEAR).nonzero()[0]
    if len(near) < count:
        near = (weights >= 0).nonzero()[0]
    return logits, weights, near[(-logits[near]).argsort(kind="stable")[:count]]
