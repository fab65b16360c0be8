"""What fits in memory: the size of the context, and the layers on the GPU."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmcli.engine.llama import hardware
from llmcli.engine.llama.hardware import MemoryNeed, ModelShape, estimate, fitting_context, fitting_layers
from llmcli.engine.llama.model import ALL_LAYERS
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.models.gguf.header import GGUFHeader
from llmcli.params.settings import Settings
from llmcli.text import plural

_ROUND = 256  # llama.cpp rounds a context up to this
_GIB = 1 << 30
_MAX_WIDTH = 16  # answers at a time; more do not make a processor faster
_MIN_ROOM = 2048  # tokens that each of several answers of unlimited length gets at least, if the model has them


def shape_of(headers: Sequence[GGUFHeader]) -> ModelShape:
    """What the memory estimate needs, from the headers of all the model's files (metadata is in the first)."""
    header = headers[0]
    layers = header.block_count or 1
    heads = header.head_count_kv or 0
    n_heads = sum(heads) if isinstance(heads, list) else heads * layers
    return ModelShape(
        weights=sum(part.n_tensor_bytes for part in headers),
        n_layers=layers,
        n_ctx_train=header.n_ctx_train or 2048,
        n_embd=header.embedding_length or 0,
        n_vocab=header.n_vocab or 0,
        kv_width_k=n_heads * (header.head_length("key_length") or 0),
        kv_width_v=n_heads * (header.head_length("value_length") or 0),
    )


def choose_context(shape: ModelShape, settings: Settings, n_prompt: int) -> tuple[int, str]:
    """The context size in tokens, and a note for the user ("" for none).

    If not set, it is what this call can use: the prompt and `max_tokens` if that is known, else the trained
    context, and never more than fits into memory. A smaller context starts faster: its caches are zeroed. Raises
    ContextOverflowError when the prompt leaves no room for an answer.
    """
    n_ctx, note = settings.n_ctx or shape.n_ctx_train, ""
    if settings.n_ctx > shape.n_ctx_train:
        note = f"the context of {n_ctx} tokens is larger than the {shape.n_ctx_train} the model was trained on"
    if not settings.n_ctx:
        if settings.max_tokens >= 0:
            n_ctx = min(n_ctx, -(-(n_prompt + settings.max_tokens + 1) // _ROUND) * _ROUND)
        fits = fitting_context(shape, hardware.available_memory(), *_buffers(settings))
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
    fits = fitting_context(together, hardware.available_memory(), *_buffers(settings))
    rounds = -(-n_answers // min(max((fits - sum(prompts)) // room, 1), _MAX_WIDTH))
    width = -(-n_answers // rounds)
    n_ctx = -(-(sum(prompts) + width * room) // _ROUND) * _ROUND
    return SharedContext(n_ctx, longest + room, width, note)


def check_settings(shape: ModelShape, settings: Settings) -> list[str]:
    """Refuse what cannot work, before anything is loaded; the result is notes on what is slow or ignored.

    A model that fits only with its weights paged in from disk again and again is not refused. Raises LlmcliError for a
    context that does not fit in memory, UsageError for caches that llama.cpp cannot compute.
    """
    if settings.flash_attn == "off" and settings.cache_type_v not in ("f32", "f16", "bf16"):
        raise UsageError(f"cache_type_v {settings.cache_type_v} needs flash attention", "use -fa on, or -ctv f16")
    notes, n_ctx, memory = [], settings.n_ctx or 1, hardware.available_memory()
    need = memory_need(shape, settings, n_ctx)
    # The weights are mapped from the file and may be paged; the caches must be in memory.
    if memory and need.kv_cache + need.compute > memory:
        raise LlmcliError(
            f"a context of {n_ctx} tokens needs {need.kv_cache / _GIB:.1f} GiB of memory in addition to the "
            f"model's {need.weights / _GIB:.1f} GiB, and {memory / _GIB:.1f} GiB are free",
            "use a smaller --ctx-size, or --cache-type-k q8_0 --cache-type-v q8_0",
        )
    if memory and need.total > memory and settings.n_gpu_layers in (0, "auto"):
        notes.append(
            f"the model needs {need.total / _GIB:.1f} GiB of memory and {memory / _GIB:.1f} GiB are free: it is slow; "
            "a smaller quantization is faster"
        )
    if settings.n_gpu_layers not in ("auto", 0) and not hardware.has_gpu():
        notes.append("n_gpu_layers has no effect: this build of llama.cpp has no GPU support, see `llmcli doctor`")
    n_threads, n_cores = max(settings.n_threads, settings.n_threads_batch), os.cpu_count() or 1
    if n_threads > n_cores:  # they wait for each other
        notes.append(f"{n_threads} threads are slow: this machine has {plural(n_cores, 'core')}")
    return notes


def memory_need(shape: ModelShape, settings: Settings, n_ctx: int) -> MemoryNeed:
    """The memory for a model with a context of this size."""
    return estimate(shape, n_ctx, *_buffers(settings))


def choose_gpu_layers(shape: ModelShape, settings: Settings, n_ctx: int) -> int:
    """Layers for the GPU: the number that is set, all, or as many as fit in its free memory."""
    if settings.n_gpu_layers == "all":
        return ALL_LAYERS
    if isinstance(settings.n_gpu_layers, int):
        return settings.n_gpu_layers
    free = sum(device.memory_free for device in hardware.devices() if device.kind in ("GPU", "IGPU"))
    return fitting_layers(shape, n_ctx, *_buffers(settings), free) if free else 0


def memory_and_cores() -> tuple[int, int]:
    """Available memory in bytes (0 = not known), and usable cores."""
    return hardware.available_memory(), hardware.usable_cores()


def possible_gpu_layers(count: int) -> int:
    """So many layers, or 0 on a machine without a GPU."""
    return count if count and hardware.has_gpu() else 0


def _buffers(settings: Settings) -> tuple[int, str, str]:
    return settings.n_ubatch, settings.cache_type_k, settings.cache_type_v
