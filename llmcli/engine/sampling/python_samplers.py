"""Samplers of the chain that are written in Python, and what is read from the logits of a token."""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from llmcli.engine.events import Alternative, TokenLogprob
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.params.samplers import Args, Sampler

Apply = Callable[[Any], None]
ROW_BYTES = 12  # of a llama_token_data: id, logit, p
_NEAR = 1e-4  # of the highest probability: only these are sorted, or all if they are fewer than requested


class CustomSampler:
    """A `llama_sampler` whose `apply` is a Python function of the pointer to the candidates.

    Keep a reference to the object as long as llama.cpp can call it. Its C context is NULL, so that llama.cpp can clone
    its chain. An exception cannot pass through C: it is stored in `failure`, for the caller to raise. `owned` are the
    samplers of llama.cpp that `apply` uses; `close` frees them.
    """

    def __init__(self, name: str, apply: Apply, owned: Sequence[Any] = ()) -> None:
        self._api = api = bindings.load()
        self._owned = list(owned)
        self.failure: BaseException | None = None
        label = name.encode()

        def guarded(_sampler: Any, candidates: Any) -> None:
            try:
                apply(candidates)
            except BaseException as error:
                self.failure = error

        self._interface = api.llama_sampler_i(
            name=api.llama_sampler_i_name(lambda _sampler: label), apply=api.llama_sampler_i_apply(guarded)
        )
        self.pointer = api.llama_sampler_init(self._interface, None)

    def close(self) -> None:
        """Free the owned samplers, after all chains that contain this sampler. A second call has no effect."""
        while self._owned:
            self._api.llama_sampler_free(self._owned.pop())


def python_sampler(sampler: Sampler, args: Args) -> CustomSampler:
    """A sampler that is written in Python, with its arguments."""
    import numpy as np  # takes 80 ms, so only here; a loop over a vocabulary is too slow

    def apply(candidates: Any) -> None:
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
            kept = rows[live][sampler.keep(weights / weights.sum(), *args)]
            rows[: len(kept)] = kept
            array.size = len(kept)

    return CustomSampler(sampler.name, apply)


def candidate_rows(array: Any) -> Any:
    """The candidates of a `llama_token_data_array`, not copied, as a numpy array with the fields id, logit and p."""
    import numpy as np

    block = (ctypes.c_char * (array.size * ROW_BYTES)).from_address(ctypes.addressof(array.data.contents))
    return np.frombuffer(block, row_type())


@cache
def row_type() -> Any:
    """A llama_token_data as a numpy type."""
    import numpy as np

    return np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class DrawTracer(CustomSampler):
    """The last step of a chain, after the draw. It records the drawn token, its rank, and the candidates."""

    def __init__(self) -> None:
        self.p, self.rank = 0.0, 0
        self._rows = b""
        super().__init__("drawn", self._record)

    def _record(self, candidates: Any) -> None:
        array = candidates.contents
        self._rows = ctypes.string_at(array.data, array.size * ROW_BYTES)
        probabilities = memoryview(self._rows).cast("f")[2::3].tolist()
        self.p = probabilities[array.selected]
        self.rank = 1 + sum(map(self.p.__lt__, probabilities))

    def left(self) -> dict[int, float]:
        """The candidates of the last draw: probability by token id."""
        rows = memoryview(self._rows)
        return dict(zip(rows.cast("i")[::3].tolist(), rows.cast("f")[2::3].tolist(), strict=True))


def alternatives(ctx: Any, row: int, vocab: Vocab, count: int, left: Mapping[int, float]) -> tuple[Alternative, ...]:
    """The most likely tokens in batch row `row` of the context `ctx`; `left` are the candidates after the chain."""
    logits, weights = _softmax(ctx, row, vocab.n_tokens)
    top = _most_likely(logits, weights, count)
    before = (weights[top] / float(weights.sum())).tolist()
    return tuple(
        Alternative(token, vocab.label(token), p, left.get(token, 0.0))
        for token, p in zip(top.tolist(), before, strict=True)
    )


def token_logprob(ctx: Any, row: int, n_vocab: int, token: int, count: int) -> TokenLogprob:
    """The log-probability of `token` and of the `count` most likely tokens, in batch row `row` of the context `ctx`.

    log softmax: l_i - max - ln sum exp(l_j - max).
    """
    import numpy as np

    logits, weights = _softmax(ctx, row, n_vocab)
    logprobs = logits - (logits.max() + np.log(weights.sum()))
    top = _most_likely(logits, weights, count)
    return TokenLogprob(token, float(logprobs[token]), tuple(zip(top.tolist(), logprobs[top].tolist(), strict=True)))


def _softmax(ctx: Any, row: int, n_vocab: int) -> tuple[Any, Any]:
    """The logits of batch row `row`, not copied, and the weights exp(l - max)."""
    import numpy as np  # takes 80 ms, so only here

    pointer = bindings.load().llama_get_logits_ith(ctx, row)
    block: Any = (ctypes.c_float * n_vocab).from_address(ctypes.addressof(pointer.contents))
    logits = np.frombuffer(block, np.float32)
    return logits, np.exp(logits - logits.max())


def _most_likely(logits: Any, weights: Any, count: int) -> Any:
    """The ids of the `count` most likely tokens, the most likely first."""
    near = (weights > _NEAR).nonzero()[0]
    if len(near) < count:
        near = (weights >= 0).nonzero()[0]
    return near[(-logits[near]).argsort(kind="stable")[:count]]
