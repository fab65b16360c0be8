"""Samplers in Python, as `llama_sampler`s: KoboldCpp's top-a and smoothing, which llama.cpp does not have."""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

from llmcli.engine.llama import bindings

Apply = Callable[[Any], None]


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
        logits = rows_of(array)["logit"]
        best = logits.max()
        live = logits > -math.inf
        d = logits[live] - best
        with np.errstate(over="ignore"):  # a logit below the smallest float becomes -inf, as it should
            logits[live] = d * d * factor * (c * d - k) + best
        array.sorted = array.sorted and k >= 0  # the order can change for a curve above 3

    return CustomSampler("smoothing", apply)


def rows_of(array: Any) -> Any:
    """The candidates of a `llama_token_data_array`, not copied, as a numpy array with the fields id, logit and p."""
    import numpy as np

    row = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    block = (ctypes.c_char * (array.size * row.itemsize)).from_address(ctypes.addressof(array.data.contents))
    return np.frombuffer(block, dtype=row)
