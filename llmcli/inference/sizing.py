"""What a model needs, and what fits in memory: context, layers on the GPU, micro-batch, cache types, weights."""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcli.engine.llama import hardware, rpc
from llmcli.engine.llama.model import ALL_LAYERS
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.inference.fastest_settings import MEMORY
from llmcli.inference.placement import with_overrides
from llmcli.models.gguf.header import GGUFHeader
from llmcli.params.model import ModelParams
from llmcli.params.settings import Layer, Settings
from llmcli.text import plural

# Bytes per element of the K and V caches: bytes per block / elements per block (ggml.c, type traits).
CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32}
CACHE_BYTES |= {"iq4_nl": 18 / 32, "q5_0": 22 / 32, "q5_1": 24 / 32}
_USABLE = 0.9  # fraction of the free memory
# What is not used of the free memory, where only the caches must fit: the rest of this program, and other programs.
_SPARE_SHARE, _MOST_SPARE = 20, 1 << 30  # a twentieth, in bytes at most
_ROUND = 256  # llama.cpp rounds a context up to this
_CELL = 48  # bytes per token of the cache, whatever the model: its position and its sequences (llama-kv-cells.h)
_GIB, _MIB = 1 << 30, 1 << 20
_HEAD_BLOCK = 32  # elements of a block of the quantized cache types (ggml-common.h, QK8_0)
# The types that ggml's CPU backend can repack (ggml-cpu/repack.cpp), by their numbers in ggml.h.
_REPACKED = {2, 8, 10, 12, 13, 14, 20, 39}  # Q4_0, Q8_0, Q2_K, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4
_SMALLER_UBATCHES = (256, 128, 64)
_MAX_WIDTH = 16  # answers at a time; more do not make a processor faster
_BATCH_ROOM = 512  # tokens for each of many answers of unlimited length; few of them become longer
_MIN_ROOM = 2048  # tokens that each of several answers of unlimited length gets at least, if the model has them


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that an estimate needs."""

    weights: int  # bytes
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    kv_width_k: int  # elements per token over all layers: the sum of heads x head length
    kv_width_v: int
    n_heads: int = 0  # of attention
    has_window: bool = False  # some layers have a sliding window, and a mask of their own
    repacked: int = 0  # bytes of weights that the CPU can compute faster in another order, in memory of their own
    has_blocks: bool = True  # each head of K and V fills whole blocks of a quantized type


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes by purpose."""

    weights: int
    kv_cache: int
    compute: int
    total: int


def shape_of(headers: Sequence[GGUFHeader], settings: ModelParams | None = None) -> ModelShape:
    """What the memory estimate needs, from the headers of all the model's files (metadata is in the first).

    The overrides of the settings count as if they were in the file.
    """
    header = with_overrides(headers[0], settings) if settings else headers[0]
    layers = header.block_count or 1
    heads = header.head_count_kv or 0
    n_heads = sum(heads) if isinstance(heads, list) else heads * layers
    k_length, v_length = header.head_length("key_length") or 0, header.head_length("value_length") or 0
    return ModelShape(
        weights=sum(part.n_tensor_bytes for part in headers),
        n_layers=layers,
        n_ctx_train=header.n_ctx_train or 2048,
        n_embd=header.embedding_length or 0,
        n_vocab=header.n_vocab or 0,
        kv_width_k=n_heads * k_length,
        kv_width_v=n_heads * v_length,
        n_heads=max(n_own, default=0) if isinstance(n_own := header.head_count, list) else n_own or 0,
        has_window=bool(header.metadata.get(f"{header.architecture}.attention.sliding_window")),
        repacked=sum(one.n_bytes for part in headers for one in part.tensors if one.type_id in _REPACKED),
        has_blocks=not (k_length % _HEAD_BLOCK or v_length % _HEAD_BLOCK),
    )


def choose_context(shape: ModelShape, settings: Settings, n_prompt: int) -> tuple[int, str]:
    """The context size in tokens, and a note for the user ("" for none).

    If not set, it is what this call can use: the prompt and `max_tokens` if that is known, else the trained
    context, and never more than fits into memory. A smaller context starts faster: its caches are zeroed. Raises
    ContextOverflowError when the prompt leaves no room for an answer.
    """
    n_ctx, note = settings.n_ctx or shape.n_ctx_train, ""
    stretched = int(shape.n_ctx_train * max(1.0, settings.rope_scale, 1 / (settings.rope_freq_scale or 1)))
    if settings.n_ctx > stretched:
        note = f"the context of {n_ctx} tokens is larger than the {shape.n_ctx_train} the model was trained on"
    if not settings.n_ctx:
        if settings.max_tokens >= 0:
            n_ctx = min(n_ctx, -(-(n_prompt + settings.max_tokens + 1) // _ROUND) * _ROUND)
        fits = fitting_context(shape, settings, usable_memory(settings))
        if n_ctx > fits:
            n_ctx, note = fits, f"the context is {fits} of {shape.n_ctx_train} tokens: more does not fit in memory"
    if n_prompt >= n_ctx:
        raise ContextOverflowError(
            f"the prompt has {n_prompt} tokens, and the context has {n_ctx}" + (f" ({note})" if note else ""),
            "shorten the prompt" + (" or raise --ctx-size" if settings.n_ctx else ""),
        )
    return n_ctx, note


@dataclass(frozen=True)
class SharedContext:
    """A context for several answers: its tokens, those of one prompt with its answer, and how many at a time."""

    n_ctx: int
    n_ctx_seq: int
    width: int
    note: str = ""
    each: int = 0  # tokens that one of many answers is expected to fill, with its prompt


def choose_shared(shape: ModelShape, settings: Settings, prompts: Sequence[int], n_answers: int) -> SharedContext:
    """The context for `n_answers` answers to prompts of so many tokens; each prompt is in it once.

    With `max_tokens` set, an answer has as much room as it would have alone. Without, all answers share what one alone
    would have, or more where that is little for each. Answers that do not fit in memory together come in rounds.
    """
    longest = max(prompts)
    alone, note = choose_context(shape, settings, longest)
    open_ended = max((alone - longest) // n_answers, _MIN_ROOM)
    room = min(alone - longest, settings.max_tokens + 1 if settings.max_tokens >= 0 else open_ended)
    together = replace(shape, n_ctx_train=sum(prompts) + n_answers * room)
    fits = fitting_context(together, settings, usable_memory(settings))
    rounds = -(-n_answers // min(max((fits - sum(prompts)) // room, 1), _MAX_WIDTH))
    width = -(-n_answers // rounds)
    n_ctx = -(-(sum(prompts) + width * room) // _ROUND) * _ROUND
    return SharedContext(n_ctx, longest + room, width, note)


def choose_batch(shape: ModelShape, settings: Settings, longest: int, n_parallel: int) -> SharedContext:
    """The context for up to `n_parallel` answers at a time, to prompts of at most `longest` tokens.

    Each may become as long as it could alone. Where all of them become long, some wait until others end.
    """
    alone, note = choose_context(shape, settings, longest)
    each = min(alone, tokens_of_each(settings, longest))
    wanted = max(alone, -(-n_parallel * each // _ROUND) * _ROUND)
    fits = fitting_context(replace(shape, n_ctx_train=wanted), settings, usable_memory(settings))
    n_ctx = max(alone, fits)
    return SharedContext(n_ctx, alone, max(min(n_parallel, n_ctx // each), 1), note, each)


def tokens_of_each(settings: Settings, n_prompt: int) -> int:
    """The tokens that one of many answers is expected to fill, with its prompt."""
    return n_prompt + (settings.max_tokens + 1 if settings.max_tokens >= 0 else _BATCH_ROOM)


def fitting_layer(shape: ModelShape, settings: Settings) -> Layer:
    """A smaller micro-batch, or a cache of Q8_0, where the context does not fit in memory without; only if not set.

    The cache changes only for a context of a given size: one of any size becomes smaller instead, and stays exact.
    """
    n_ctx, memory = settings.n_ctx or min(_ROUND, shape.n_ctx_train), usable_memory(settings)

    def fits(values: Mapping[str, Any]) -> bool:
        need = memory_need(shape, replace(settings, **values), n_ctx)
        return not memory or need.kv_cache + need.compute <= memory

    possible: list[dict[str, Any]] = [{}]
    if "n_ubatch" not in settings.given:
        possible += [{"n_ubatch": size} for size in _SMALLER_UBATCHES if size < settings.n_ubatch]
    is_free = not {"cache_type_k", "cache_type_v", "flash_attn"} & settings.given.keys()
    if settings.n_ctx and shape.has_blocks and is_free:
        possible += [{**values, "cache_type_k": "q8_0", "cache_type_v": "q8_0"} for values in possible]
    return Layer(MEMORY, next(filter(fits, possible), {}))


def fits_repacked(shape: ModelShape, settings: Settings, gpu_layers: int) -> bool:
    """Whether the weights of the CPU fit in memory in another order, which is faster: that copy cannot be paged out."""
    share = 0.0 if gpu_layers < 0 else max(1 - gpu_layers / (shape.n_layers + 1), 0.0)
    need = memory_need(shape, settings, settings.n_ctx or min(_ROUND, shape.n_ctx_train))
    memory = usable_memory()
    return not memory or int(shape.repacked * share) + need.kv_cache + need.compute <= memory


def check_settings(shape: ModelShape, settings: Settings) -> list[str]:
    """Refuse what cannot work, before anything is loaded; the result is notes on what is slow or ignored.

    A model that fits only with its weights paged in from disk again and again is not refused. Raises LlmcliError for a
    context that does not fit in memory, or weights that are not mapped and do not fit; UsageError for caches that
    llama.cpp cannot compute.
    """
    if settings.flash_attn == "off" and settings.cache_type_v not in ("f32", "f16", "bf16"):
        raise UsageError(f"cache_type_v {settings.cache_type_v} needs flash attention", "use -fa on, or -ctv f16")
    notes, n_ctx, memory = [], settings.n_ctx or min(_ROUND, shape.n_ctx_train), usable_memory(settings)
    need = memory_need(shape, settings, n_ctx)
    # The weights are mapped from the file and may be paged; the caches must be in memory.
    if memory and need.kv_cache + need.compute > memory:
        raise LlmcliError(
            f"a context of {n_ctx} tokens needs {_size(need.kv_cache + need.compute)} of memory in addition to the "
            f"model's {_size(need.weights)}, and {_size(memory)} are free",
            _memory_hint(shape, settings, n_ctx, memory),
        )
    if memory and need.total > memory and settings.load_mode not in ("auto", "mmap") and not hardware.has_gpu():
        raise LlmcliError(
            f"load_mode {settings.load_mode} needs {_size(need.total)} of memory, and {_size(memory)} are free",
            "use --load-mode mmap, which reads the weights again and again, or a smaller quantization",
        )
    if memory and need.total > memory and settings.n_gpu_layers in (0, "auto"):
        notes.append(
            f"the model needs {_size(need.total)} of memory and {_size(memory)} are free: it is slow; "
            "a smaller quantization is faster"
        )
    notes += _check_devices(shape, settings, n_ctx) if settings.rpc else []
    n_threads, n_cores = max(settings.n_threads, settings.n_threads_batch), os.cpu_count() or 1
    if n_threads > n_cores:  # they wait for each other
        notes.append(f"{n_threads} threads are slow: this machine has {plural(n_cores, 'core')}")
    return notes


def _check_devices(shape: ModelShape, settings: Settings, n_ctx: int) -> list[str]:
    """Refuse more layers than RPC servers have room for: what they get is never paged, and the system may end them."""
    layers, free = choose_gpu_layers(shape, settings, n_ctx), sum(_memories(settings))
    if settings.n_gpu_layers == "auto":
        is_left = not layers and settings.device != "none"
        return ["the RPC servers have no room for a layer: this machine computes alone"] if is_left else []
    of_all = 1.0 if layers == ALL_LAYERS else min(layers / (shape.n_layers + 1), 1.0)
    need = memory_need(shape, settings, n_ctx)
    wanted = int(of_all * (need.weights + need.kv_cache)) + need.compute if of_all else 0
    if wanted > free:
        raise LlmcliError(
            f"the layers for the RPC servers need {_size(wanted)} of memory, and {_size(free)} are free there",
            "use --gpu-layers auto, or another server with --rpc",
        )
    return []


def _memory_hint(shape: ModelShape, settings: Settings, n_ctx: int, memory: int) -> str:
    """What makes a context fit in memory: the largest size beside the weights, and smaller caches if they suffice."""
    sizes = range(_ROUND, n_ctx, _ROUND)
    n_fitting = bisect_right(sizes, memory, key=lambda size: memory_need(shape, settings, size).total)
    if not settings.n_ctx or not n_fitting:
        return "use a smaller --ubatch-size or a smaller model, or free memory"
    n_ubatch = min(settings.n_ubatch, _SMALLER_UBATCHES[-1])
    least = memory_need(shape, replace(settings, cache_type_k="q8_0", cache_type_v="q8_0", n_ubatch=n_ubatch), n_ctx)
    is_enough = least.kv_cache + least.compute <= memory
    smaller = ", a smaller --ubatch-size, or --cache-type-k q8_0 --cache-type-v q8_0" if is_enough else ""
    return f"use --ctx-size {n_fitting * _ROUND} or less{smaller}"


def _size(n_bytes: int) -> str:
    """A size in the units of memory, with a figure that differs from zero."""
    return f"{n_bytes / _GIB:.1f} GiB" if n_bytes >= _GIB else f"{max(1, round(n_bytes / _MIB))} MiB"


def memory_need(shape: ModelShape, settings: ModelParams, n_ctx: int) -> MemoryNeed:
    """The memory for weights, KV cache and compute buffers.

    The compute buffers have place for the activations of a ubatch, and for its logits or its masks over the whole
    context, whichever are larger: llama.cpp uses the same memory for both. A sliding window has a mask of its own, and
    without flash attention each head has its scores beside the mask.
    """
    per_token_k = shape.kv_width_k * CACHE_BYTES[settings.cache_type_k]
    per_token_v = shape.kv_width_v * CACHE_BYTES[settings.cache_type_v]
    kv_cache = int((per_token_k + per_token_v + _CELL) * n_ctx) if shape.kv_width_k else 0
    n_masks = 1 + shape.has_window
    per_mask = 4 * (n_masks + shape.n_heads) if settings.flash_attn == "off" else 2 * n_masks
    n_ubatch = min(settings.n_ubatch, settings.n_batch, n_ctx)
    compute = n_ubatch * (32 * shape.n_embd + max(4 * shape.n_vocab, per_mask * n_ctx))
    return MemoryNeed(shape.weights, kv_cache, compute, shape.weights + kv_cache + compute)


def fitting_context(shape: ModelShape, settings: ModelParams, memory: int) -> int:
    """The largest context size, up to that of the training, that fits into `memory` bytes (0 = unknown)."""
    if memory <= 0 or memory_need(shape, settings, shape.n_ctx_train).total <= memory * _USABLE:
        return shape.n_ctx_train
    sizes = range(_ROUND, shape.n_ctx_train + 1, _ROUND)
    n_fitting = bisect_right(sizes, memory * _USABLE, key=lambda n_ctx: memory_need(shape, settings, n_ctx).total)
    return min(shape.n_ctx_train, max(1, n_fitting) * _ROUND)


def fitting_layers(shape: ModelShape, settings: ModelParams, n_ctx: int, memory: int) -> int:
    """The number of layers, with the output layer, that fit into `memory` bytes with their part of the cache."""
    need, layers = memory_need(shape, settings, n_ctx), shape.n_layers + 1
    per_layer = (need.weights + need.kv_cache) / layers
    free = memory * _USABLE - need.compute
    return max(0, min(layers, int(free / per_layer))) if per_layer else layers


def choose_gpu_layers(shape: ModelShape, settings: Settings, n_ctx: int) -> int:
    """Layers for the GPU: the number that is set, all, or as many as fit in its free memory."""
    if settings.n_gpu_layers == "all":
        return ALL_LAYERS
    if isinstance(settings.n_gpu_layers, int):
        return settings.n_gpu_layers
    free = _memories(settings)
    # Each device has compute buffers of its own, and `fitting_layers` counts those of one.
    usable = sum(free) - max(len(free) - 1, 0) * memory_need(shape, settings, n_ctx).compute
    return fitting_layers(shape, settings, n_ctx, usable) if usable > 0 else 0


def _memories(settings: ModelParams) -> list[int]:
    """Bytes that are free on each device to which layers can go."""
    names = [] if settings.device == "auto" else [name.strip().lower() for name in settings.device.split(",")]
    found = [one for one in hardware.devices() if one.kind in ("GPU", "IGPU")]
    return [one.memory_free for one in found if not names or one.name.lower() in names]


def usable_memory(settings: ModelParams | None = None) -> int:
    """Bytes of memory that caches and buffers may take (0 = not known): all that is free would end some program.

    With settings, the memory of the RPC servers that have a part of the model counts too.
    """
    free = hardware.available_memory()
    usable = free - min(free // _SPARE_SHARE, _MOST_SPARE)
    is_split = settings and settings.rpc and settings.n_gpu_layers != 0 and settings.device != "none"
    return usable + rpc.memory_of_servers() if usable and is_split else usable


def memory_and_cores() -> tuple[int, int]:
    """Available memory in bytes (0 = not known), and usable cores."""
    return hardware.available_memory(), hardware.usable_cores()


def possible_gpu_layers(count: int) -> int:
    """So many layers, or 0 on a machine without a GPU."""
    return count if count and hardware.has_gpu() else 0
