"""Samplers of the chain that are written in Python, and what is read from the logits of a token."""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from llmcli.engine.events import Alternative, TokenLogprob
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab

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


def make_top_a(a: float, min_keep: int) -> CustomSampler:
    """Keep candidates with p >= a * max(p)^2 (KoboldCpp `sample_top_a`).

    It is min-p with the ratio a * max(p), so samplers of llama.cpp do the work at C speed: `greedy` finds the most
    likely candidate, `dist` its probability, `min_p` removes the others.
    """
    api = bindings.load()
    greedy, dist = api.llama_sampler_init_greedy(), api.llama_sampler_init_dist(0)

    def apply(candidates: Any) -> None:
        array = candidates.contents
        api.llama_sampler_apply(greedy, candidates)
        best = array.selected  # set by `greedy`
        api.llama_sampler_apply(dist, candidates)
        array.selected = -1
        cut = api.llama_sampler_init_min_p(a * array.data[best].p, min_keep)
        api.llama_sampler_apply(cut, candidates)
        api.llama_sampler_free(cut)

    return CustomSampler("top_a", apply, owned=(greedy, dist))


def make_smoothing(factor: float, curve: float) -> CustomSampler:
    """Transform each logit l relative to the highest one h (KoboldCpp quadratic sampling).

    l' = -k s d^2 + c s d^3 + h with d = l - h, s = factor, k = (3 - curve) / 2, c = (curve - 1) / 2.
    """
    import numpy as np  # takes 80 ms, so only here; a loop over a vocabulary is too slow

    k, c = (3 - curve) / 2, (curve - 1) / 2

    def apply(candidates: Any) -> None:
        array = candidates.contents
        logits = candidate_rows(array)["logit"]
        best = logits.max()
        live = logits > -math.inf
        d = logits[live] - best
        with np.errstate(over="ignore"):  # a logit below the smallest float becomes -inf, as it should
            logits[live] = d * d * factor * (c * d - k) + best
        array.sorted = array.sorted and k >= 0  # the order can change for a curve above 3

    return CustomSampler("smoothing", apply)


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


class Alternatives:
    """The most likely tokens of the model, with their probabilities before and after the chain."""

    def __init__(self, vocab: Vocab, count: int) -> None:
        import numpy as np  # takes 80 ms, so only here

        self._vocab, self._count = vocab, count
        self._buffer = np.empty(vocab.n_tokens, np.float32)

    def of(self, ctx: Any, row: int, left: Mapping[int, float]) -> tuple[Alternative, ...]:
        """The alternatives of batch row `row` of the context `ctx`; `left` are the candidates after the chain."""
        import numpy as np

        logits, buffer = _logits(ctx, row, self._vocab.n_tokens), self._buffer
        np.exp(np.subtract(logits, logits.max(), out=buffer), out=buffer)
        total = float(buffer.sum())
        near = np.flatnonzero(buffer > _NEAR)
        if len(near) < self._count:
            near = np.arange(len(buffer))
        top = near[np.argsort(-logits[near], kind="stable")[: self._count]]
        before = (buffer[top] / total).tolist()
        return tuple(
            Alternative(token, self._vocab.label(token), p, left.get(token, 0.0))
            for token, p in zip(top.tolist(), before, strict=True)
        )


def token_logprob(ctx: Any, row: int, n_vocab: int, token: int, count: int) -> TokenLogprob:
    """The log-probability of `token` and of the `count` most likely tokens, in batch row `row` of the context `ctx`.

    log softmax: l_i - max - ln sum exp(l_j - max).
    """
    import numpy as np  # takes 80 ms, so only here

    logits = _logits(ctx, row, n_vocab)
    best = logits.max()
    logprobs = logits - (best + np.log(np.exp(logits - best).sum()))
    count = min(count, n_vocab)
    top = np.argpartition(logprobs, -count)[-count:]
    top = top[np.argsort(-logprobs[top], kind="stable")]
    return TokenLogprob(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in top))


def _logits(ctx: Any, row: int, n_vocab: int) -> Any:
    """The logits of batch row `row`, not copied."""
    import numpy as np

    pointer = bindings.load().llama_get_logits_ith(ctx, row)
    block: Any = (ctypes.c_float * n_vocab).from_address(ctypes.addressof(pointer.contents))
    return np.frombuffer(block, np.float32)
