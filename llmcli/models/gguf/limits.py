"""Refuse metadata on which llama.cpp aborts the whole process, or that it cannot use.

The limits are those of `llama_model_base::load_hparams` in src/llama-model.cpp, where they are GGML_ASSERTs.
"""

from collections.abc import Mapping

from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.cursor import Value, damaged, quote

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_TEMPLATE = 1 << 20  # characters; the longest known chat templates have about 20,000
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

_NOT_LOADABLE = "get another version of the model: llama.cpp cannot load this file"


def check_metadata(metadata: Mapping[str, Value], n_tensors: int) -> None:
    """Raise ModelInvalidError for metadata that no valid model has."""
    parts, part = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if isinstance(parts, int) and isinstance(part, int) and 0 < part < parts:
        return  # only the first part of a split model describes it
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelInvalidError("this GGUF file is not a model (no general.architecture)", _NOT_LOADABLE)
    if not n_tensors and "split.count" not in metadata and "tokenizer.ggml.model" not in metadata:
        raise ModelInvalidError("the file has neither tensors nor a vocabulary", _NOT_LOADABLE)
    _check_layers(metadata, architecture)
    _check_experts(metadata, architecture)
    for key, value in metadata.items():
        if key.startswith("tokenizer.chat_template") and isinstance(value, str) and len(value) > MAX_TEMPLATE:
            raise damaged(f"{quote(key)} has {len(value)} characters, the limit is {MAX_TEMPLATE}")


def alignment_of(metadata: Mapping[str, Value]) -> int:
    """general.alignment in bytes: a power of two up to 1 MiB (default 32)."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment & (alignment - 1) or not 1 <= alignment <= MAX_ALIGNMENT:
        raise damaged(f"general.alignment is {alignment!r}, not a power of two up to 1 MiB")
    return alignment


def _check_layers(metadata: Mapping[str, Value], architecture: str) -> None:
    layers = metadata.get(f"{architecture}.block_count")
    if not isinstance(layers, int):
        return  # llama.cpp has a clean error for a missing value
    if not 1 <= layers <= MAX_LAYERS:
        raise damaged(f"block_count must be 1 to {MAX_LAYERS}, got {layers}")
    for key in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
        extra = metadata.get(f"{architecture}.{key}", 0)
        if isinstance(extra, int) and extra > layers:
            raise damaged(f"{key} must be at most block_count ({layers}), got {extra}")


def _check_experts(metadata: Mapping[str, Value], architecture: str) -> None:
    experts = _largest(metadata.get(f"{architecture}.expert_count"))
    used = _largest(metadata.get(f"{architecture}.expert_used_count"))
    groups = _largest(metadata.get(f"{architecture}.expert_group_count"))
    used_groups = _largest(metadata.get(f"{architecture}.expert_group_used_count"))
    is_valid = experts <= MAX_EXPERTS and used <= experts and (used > 0) == (experts > 0)
    is_valid = is_valid and (groups == 0 or groups < experts)
    if groups > 1:
        is_valid = is_valid and experts % groups == 0 and 0 < used_groups < groups
    if not is_valid:
        raise damaged(f"invalid expert counts: {used} of {experts} used, {used_groups} of {groups} groups")


def _largest(value: Value | None) -> int:
    """The largest value of a setting that is one number or a list with one per layer; 0 if it is missing."""
    numbers = value if isinstance(value, list) else [value]
    return max((number for number in numbers if isinstance(number, int)), default=0)
