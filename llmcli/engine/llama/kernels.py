"""Kernels with which a row of a step has the same results whatever is evaluated beside it.

llmcli's steps of one token and its drafted steps use them, so that drafts do not change a text, and a text does not
depend on the number of threads. Prompts and several answers side by side have llama.cpp's usual kernels.
"""

import ctypes

from llmcli.engine.llama import bindings

# llama.cpp has no function for the backends of a context; this is `llama_context::get_sched() const`, as GCC and Clang
# name it. A library on Windows has no such name: there, drafts are used only where all kernels round alike.
_GET_SCHEDULER = "_ZNK13llama_context9get_schedEv"
_SET_REFERENCE = "ggml_backend_cpu_set_use_ref"
_CPU = b"CPU"
_CHUNKS = 4  # for each thread, that ggml makes of the heads of a layer (ops.cpp, flash_attn_ext)
# These kernels give whole heads to threads, and the usual one the same part of the cache of each head. A layer may take
# so many times as long by that: as much as the usual one loses by the unused rest of the cache at 1,000 tokens.
_MOST_IMBALANCE = 1.15


class RowKernels:
    """The switch for these kernels in one context."""

    def __init__(self, backend: int) -> None:
        self._backend, self._is_on = backend, False
        self._set = bindings.ggml()[_SET_REFERENCE]
        self._set.restype, self._set.argtypes = None, [ctypes.c_void_p, ctypes.c_bool]

    def use(self, is_on: bool) -> None:
        """Use them in the next evaluation, or the usual ones."""
        if is_on != self._is_on:
            self._set(self._backend, is_on)
            self._is_on = is_on


def row_kernels(ctx: int, n_heads: int, n_threads: int) -> RowKernels | None:
    """The switch of a llama.cpp context; None where there is none, or the kernels would be slow."""
    if imbalance(n_heads, n_threads) > _MOST_IMBALANCE:
        return None
    get_scheduler = getattr(bindings.load()._lib, _GET_SCHEDULER, None)
    lib = bindings.ggml()
    if not (get_scheduler and hasattr(lib, _SET_REFERENCE)):
        return None
    get_scheduler.restype, get_scheduler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    count, backend_at, name_of = (
        lib.ggml_backend_sched_get_n_backends,
        lib.ggml_backend_sched_get_backend,
        lib.ggml_backend_name,
    )
    count.restype, count.argtypes = ctypes.c_int, [ctypes.c_void_p]
    backend_at.restype, backend_at.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    scheduler = get_scheduler(ctx)
    backends = [backend_at(scheduler, index) for index in range(count(scheduler))]
    cpu = next((one for one in backends if name_of(one) == _CPU), None)
    return RowKernels(cpu) if cpu else None


def imbalance(n_heads: int, n_threads: int) -> float:
    """The time until the last thread has done its heads, beside that of equal parts."""
    if not n_heads:
        return 1.0
    size = -(-n_heads // (_CHUNKS * n_threads))
    chunks = [min(size, n_heads - start) for start in range(0, n_heads, size)]
    done = [0] * n_threads
    for chunk in chunks:  # each goes to the thread that is ready first
        done[done.index(min(done))] += chunk
    return max(done) * n_threads / n_heads
