"""Samplers that llama.cpp lacks, made as `llama_sampler`s of our own: KoboldCpp's top-a and smoothing."""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

from llmcli.engine import binding

Apply = Callable[[Any], None]


class CustomSampler:
    """A `llama_sampler` whose `apply` is a Python function over the pointer to the candidates.

    Keep the object as long as llama.cpp may call it. Its C context is NULL, which is what lets llama.cpp clone
    the chain it stands in. An exception cannot cross C: it is kept in `failure` for the caller to raise.
    `owned` are llama.cpp's samplers that `apply` uses; `close` frees them.
    """

    def __init__(self, name: str, apply: Apply, owned: Sequence[Any] = ()) -> None:
        self._api = api = binding.load()
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
        """Free what `apply` used, once no chain holds the sampler any more; harmless when done twice."""
        while self._owned:
            self._api.llama_sampler_free(self._owned.pop())


def make_top_a(a: float, min_keep: int) -> CustomSampler:
    """Keep candidates with p >= a * max(p)^2 (KoboldCpp `sample_top_a`).

    That is min-p with the ratio a * max(p), so llama.cpp does the work at C speed whatever the number of
    candidates: `greedy` finds the best one, `dist` its probability, `min_p` cuts.
    """
    api = binding.load()
    greedy, dist = api.llama_sampler_init_greedy(), api.llama_sampler_init_dist(0)

    def apply(candidates: Any) -> None:
        array = candidates.contents
        api.llama_sampler_apply(greedy, candidates)
        best = array.selected
        api.llama_sampler_apply(dist, candidates)
        array.selected = -1
        cut = api.llama_sampler_init_min_p(a * array.data[best].p, min_keep)
        api.llama_sampler_apply(cut, candidates)
        api.llama_sampler_free(cut)

    return CustomSampler("top_a", apply, owned=(greedy, dist))


def make_smoothing(factor: float, curve: float) -> CustomSampler:
    """Bend each logit l towards the best one h (KoboldCpp quadratic sampling).

    l' = -k s d^2 + c s d^3 + h with d = l - h, s = factor, k = (3 - curve) / 2, c = (curve - 1) / 2.
    """
    import numpy as np  # 80 ms, only for those who smooth; a vocabulary is too long for a Python loop

    k, c = (3 - curve) / 2, (curve - 1) / 2

    def apply(candidates: Any) -> None:
        array = candidates.contents
        logits = rows_of(array)["logit"]
        best = logits.max()
        live = logits > -math.inf
        d = logits[live] - best
        with np.errstate(over="ignore"):  # a bent logit below every float is -inf, as it should
            logits[live] = d * d * factor * (c * d - k) + best
        array.sorted = array.sorted and k >= 0  # above curve 3 the order may change

    return CustomSampler("smoothing", apply)


def rows_of(array: Any) -> Any:
    """The candidates of a `llama_token_data_array` in place, as a numpy array with the fields id, logit and p."""
    import numpy as np

    row = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    block = (ctypes.c_char * (array.size * row.itemsize)).from_address(ctypes.addressof(array.data.contents))
    return np.frombuffer(block, dtype=row)
