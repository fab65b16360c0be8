"""The structures that llama.cpp loads a model and makes a context with, filled from the settings."""

import ctypes
from types import ModuleType
from typing import TYPE_CHECKING

from llmcli.engine.llama import bindings, hardware
from llmcli.errors import UsageError

if TYPE_CHECKING:  # a start with little to import: the load of a model waits for it
    from llmcli.params.model import ModelParams

_LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "dio": 4}  # llama.h, llama_load_mode
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}  # llama.h, llama_split_mode
_ROPE_SCALING = {"auto": -1, "none": 0, "linear": 1, "yarn": 2}  # llama.h, llama_rope_scaling_type
_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # llama.h, llama_flash_attn_type
_OVERRIDES = {int: (0, "val_i64"), float: (1, "val_f64"), bool: (2, "val_bool"), str: (3, "val_str")}
POOLING_TYPES = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # llama.h, llama_pooling_type
_BF16 = 30  # ggml.h, enum ggml_type; the one type of a cache that llama-cpp-python does not name
# The weights of experts: llama.cpp, common/common.h, LLM_FFN_EXPS_REGEX and llm_ffn_exps_block_regex.
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
_MAX_THREADS = 512  # ggml.h, GGML_MAX_N_THREADS
DEFAULT_POLL = 50  # ggml.c, ggml_threadpool_params_init

Kept = list[object]  # what the pointers of a structure point to: it must live until llama.cpp has read it


class _BufferOverride(ctypes.Structure):
    """llama.h, `llama_model_tensor_buft_override`, which the bindings do not declare."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


class ThreadPoolParams(ctypes.Structure):
    """ggml.h, `ggml_threadpool_params`."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )
    n_threads: int
    poll: int


def model_params(settings: "ModelParams", n_gpu_layers: int) -> tuple[ctypes.Structure, Kept]:
    """The `llama_model_params` of the settings; a negative number of layers means all.

    Raises UsageError for a device that is not in this machine, or more shares than llama.cpp has places for.
    """
    api = bindings.load()
    c: ctypes.Structure = api.llama_model_default_params()
    c.n_gpu_layers = n_gpu_layers
    c.load_mode = _LOAD_MODES[settings.load_mode]
    c.check_tensors = settings.check_tensors
    c.split_mode, c.main_gpu = _SPLIT_MODES[settings.split_mode], settings.main_gpu
    kept: Kept = []
    if settings.device != "auto":
        handles = hardware.offload_handles(settings.device)
        devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        c.devices = ctypes.cast(devices, ctypes.c_void_p)
        kept.append(devices)
    if settings.tensor_split:
        c.tensor_split = _shares(settings.tensor_split, api.llama_max_devices())
        kept.append(c.tensor_split)
    if settings.override_kv:
        c.kv_overrides = _overrides(settings.override_kv)
        kept.append(c.kv_overrides)
    patterns = [_EXPERTS] if settings.cpu_moe else [rf"blk\.{n}{_EXPERTS}" for n in range(settings.n_cpu_moe)]
    if patterns:
        overrides = _buffer_overrides(patterns)
        c.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        kept.append(overrides)
    return c, kept


def context_params(
    settings: "ModelParams", n_batch: int, n_seq_max: int, is_shared: bool, pooling: str = ""
) -> ctypes.Structure:
    """The `llama_context_params` of the settings; sequences with a common prefix share its memory if `is_shared`.

    With a `pooling` type the context computes vectors, and no logits.
    """
    api = bindings.load()
    c: ctypes.Structure = api.llama_context_default_params()
    c.n_ctx, c.n_batch, c.n_ubatch = settings.n_ctx, n_batch, min(settings.n_ubatch, n_batch)
    c.n_seq_max, c.kv_unified = n_seq_max, is_shared
    c.n_threads, c.n_threads_batch = threads(settings)
    c.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
    c.type_k = getattr(api, "GGML_TYPE_" + settings.cache_type_k.upper(), _BF16)
    c.type_v = getattr(api, "GGML_TYPE_" + settings.cache_type_v.upper(), _BF16)
    c.swa_full = settings.swa_full
    c.rope_scaling_type = _ROPE_SCALING[settings.rope_scaling]
    c.rope_freq_base = settings.rope_freq_base
    c.rope_freq_scale = 1 / settings.rope_scale if settings.rope_scale else settings.rope_freq_scale
    c.yarn_orig_ctx = settings.yarn_orig_ctx
    for key in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(c, key, getattr(settings, key))
    c.no_perf = True
    if pooling:
        c.embeddings, c.pooling_type = True, POOLING_TYPES[pooling]
    return c


def threads(settings: "ModelParams") -> tuple[int, int]:
    """The numbers of threads for single tokens and for batches."""
    n_threads = settings.n_threads or hardware.usable_cores()
    return n_threads, settings.n_threads_batch or n_threads


def thread_pool_params(settings: "ModelParams") -> ThreadPoolParams | None:
    """The threads of a context, where they wait in another way than ggml's own; None for ggml's own."""
    if settings.poll == DEFAULT_POLL:
        return None
    c = ThreadPoolParams()
    initialize = bindings.ggml().ggml_threadpool_params_init
    initialize.restype, initialize.argtypes = None, [ctypes.c_void_p, ctypes.c_int]
    initialize(ctypes.byref(c), max(threads(settings)))
    c.poll = settings.poll
    return c


class ThreadPool:
    """Threads of ggml that compute for one context; `close` ends them, after the context is freed."""

    def __init__(self, ctx: int, params: ThreadPoolParams) -> None:
        self._lib = lib = bindings.ggml()
        lib.ggml_threadpool_new.restype, lib.ggml_threadpool_new.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        lib.ggml_threadpool_free.restype, lib.ggml_threadpool_free.argtypes = None, [ctypes.c_void_p]
        self._pointer: int | None = lib.ggml_threadpool_new(ctypes.byref(params))
        attach = bindings.load()._lib.llama_attach_threadpool
        attach.restype, attach.argtypes = None, [ctypes.c_void_p] * 3
        attach(ctx, self._pointer, None)

    def close(self) -> None:
        """End the threads; a second call has no effect."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            self._lib.ggml_threadpool_free(pointer)


def _shares(text: str, most: int) -> "ctypes.Array[ctypes.c_float]":
    from llmcli.params.model import read_shares

    shares = read_shares(text)
    if len(shares) > most:
        raise UsageError(f"tensor_split has {len(shares)} shares, and llama.cpp has at most {most} devices")
    return (ctypes.c_float * most)(*shares)


def _overrides(texts: tuple[str, ...]) -> "ctypes.Array[ctypes.Structure]":
    """An array of `llama_model_kv_override`; an empty key ends it."""
    from llmcli.params.model import read_override

    array: ctypes.Array[ctypes.Structure] = (bindings.load().llama_model_kv_override * (len(texts) + 1))()
    for entry, text in zip(array, texts, strict=False):
        key, value = read_override(text)
        entry.tag, member = _OVERRIDES[type(value)]
        entry.key = key.encode()
        setattr(entry.value, member, value.encode() if isinstance(value, str) else value)
    return array


def _buffer_overrides(patterns: list[str]) -> "ctypes.Array[_BufferOverride]":
    """The tensors with these names stay in the memory of the CPU; an empty pattern ends the array."""
    cpu = bindings.ggml().ggml_backend_cpu_buffer_type
    cpu.restype, cpu.argtypes = ctypes.c_void_p, []
    entries = [_BufferOverride(pattern.encode(), cpu()) for pattern in patterns]
    return (_BufferOverride * (len(entries) + 1))(*entries)


class TokenBatch:
    """The arrays of a `llama_batch` for `n` tokens, allocated once; each evaluation writes into them."""

    def __init__(self, api: ModuleType, n: int, n_seq_max: int) -> None:
        int32 = ctypes.c_int32
        self.tokens, self.positions = (int32 * n)(), (int32 * n)()
        self.n_seq_ids = (int32 * n)(*[1] * n)  # a token belongs to one sequence
        self._seq_ids = (int32 * n_seq_max)(*range(n_seq_max))
        # Pointers to the elements of the array above: a step only copies them.
        self.seq_pointer = [
            ctypes.cast(ctypes.byref(self._seq_ids, 4 * seq_id), ctypes.POINTER(int32)) for seq_id in range(n_seq_max)
        ]
        self.seq_pointers = (ctypes.POINTER(int32) * n)()
        self.wants_logits = (ctypes.c_int8 * n)()
        self.struct = api.llama_batch(
            0, self.tokens, None, self.positions, self.n_seq_ids, self.seq_pointers, self.wants_logits
        )
