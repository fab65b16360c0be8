"""What the settings for loading come to on this machine, and with this model: checks, notes, and facts for people."""

import sys
from collections.abc import Mapping
from dataclasses import replace

from llmcli.engine.llama import hardware, structures
from llmcli.engine.llama.waiting import thread_waits
from llmcli.errors import UsageError
from llmcli.models.gguf.header import GGUFHeader
from llmcli.params.model import ModelParams, PlacementParams, RopeParams, read_override
from llmcli.params.param import fields_of, format_value
from llmcli.text import plural

_FOR_GPUS = ("split_mode", "tensor_split", "main_gpu", "cpu_moe", "n_cpu_moe")
_TYPES = {bool: "bool", int: "int", float: "float", str: "str"}
_MIB = 1 << 20


def with_overrides(header: GGUFHeader, settings: ModelParams) -> GGUFHeader:
    """The header with the values of `override_kv`, as llama.cpp sees it."""
    if not settings.override_kv:
        return header
    return replace(header, metadata={**header.metadata, **dict(map(read_override, settings.override_kv))})


def check(header: GGUFHeader, settings: ModelParams) -> list[str]:
    """Refuse what llama.cpp would ignore or cannot load; the result is notes on what has no effect.

    Raises UsageError for an override of another type than the value in the file, for a split that needs a GPU, and for
    two names of one factor.
    """
    if settings.rope_scale and settings.rope_freq_scale:
        raise UsageError("rope_scale and rope_freq_scale are two names of one factor", "remove one of them")
    if settings.split_mode == "tensor" and not hardware.has_gpu():
        raise UsageError("split_mode tensor needs a GPU", "remove it; `llmcli doctor` shows the devices")
    notes = [note for text in settings.override_kv if (note := _check_override(header, text))]
    if settings.rpc and (settings.n_gpu_layers == 0 or settings.device == "none"):
        reason = "device is none" if settings.device == "none" else "n_gpu_layers is 0"
        notes.append(f"rpc has no effect: {reason}")
    chosen = [key for key in _FOR_GPUS if getattr(settings, key) != fields_of(ModelParams)[key].default]
    if settings.n_gpu_layers not in ("auto", 0):
        chosen.insert(0, "n_gpu_layers")
    if chosen and not hardware.has_gpu():
        verb = "has" if len(chosen) == 1 else "have"
        names = " and ".join(chosen)
        notes.append(f"{names} {verb} no effect: this build of llama.cpp has no GPU support, see `llmcli doctor`")
    elif (settings.cpu_moe or settings.n_cpu_moe) and not header.metadata.get(f"{header.architecture}.expert_count"):
        notes.append("the settings for experts have no effect: this is not a mixture-of-experts model")
    if settings.numa != "off" and hardware.numa_nodes() == 1:
        notes.append("numa has no effect: this machine has one NUMA node")
    if settings.poll != fields_of(ModelParams)["poll"].default and hardware.uses_openmp():
        notes.append("poll has no effect: this build of llama.cpp uses OpenMP, see its variable OMP_WAIT_POLICY")
    limit = _lockable() if "mlock" in settings.load_mode else None
    if limit is not None and limit < header.n_tensor_bytes:
        notes.append(f"only {limit // _MIB} MiB of the weights may be locked in memory: raise `ulimit -l`")
    return notes


def _check_override(header: GGUFHeader, text: str) -> str:
    """A note on an override of a value that the file does not have."""
    key, value = read_override(text)
    if key not in header.metadata:
        return f"override_kv: the model has no value {key}; is it the right name?"
    present = _TYPES.get(type(header.metadata[key]))
    if present is None:
        raise UsageError(f"override_kv: {key} is a list, and llama.cpp replaces single values only")
    if present != _TYPES[type(value)]:
        raise UsageError(
            f"override_kv: {key} has the type {present}, not {_TYPES[type(value)]}", f"use {key}={present}:…"
        )
    if key.endswith(".context_length") and isinstance(value, int) and value < 1:
        raise UsageError(f"override_kv: {key} must be at least 1")
    return ""


def _lockable() -> int | None:
    """Bytes of memory that this process may lock; None without a limit, or where it is not known."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if limit == resource.RLIM_INFINITY else limit


def placement_facts(settings: ModelParams) -> Mapping[str, str]:
    """How a model is loaded and computed on this machine with these settings, by name."""
    n_threads, n_threads_batch = structures.threads(settings)
    offload = [device.name for device in hardware.devices() if device.kind in ("GPU", "IGPU")]
    offload = [*settings.rpc, *offload]
    if settings.device != "auto":
        if not settings.rpc:  # the names of their devices are known where a model is loaded
            hardware.offload_handles(settings.device)
        offload = [] if settings.device == "none" else settings.device.split(",")
    split = f", split by {settings.split_mode}" if settings.split_mode != "none" else f", GPU {settings.main_gpu} only"
    split += f" in the shares {settings.tensor_split}" if settings.tensor_split else ""
    experts = "all layers" if settings.cpu_moe else f"the first {settings.n_cpu_moe} layers"
    mode = settings.load_mode if settings.load_mode != "auto" else "mmap, unless a device does not support it"
    limit = _lockable()
    lockable = "" if limit is None or "mlock" not in settings.load_mode else f" (at most {limit // _MIB} MiB locked)"
    facts = {
        "threads": f"{n_threads} for generation, {n_threads_batch} for prompts",
        "load mode": mode + lockable + (", weights checked" if settings.check_tensors else ""),
        "offload": ", ".join(offload) + (split if len(offload) > 1 else "")
        if offload
        else "none, only the CPU computes",
        "NUMA": f"{plural(hardware.numa_nodes(), 'node')}, placement {settings.numa}",
        "waiting threads": _waiting(settings),
    }
    if settings.cpu_moe or settings.n_cpu_moe:
        facts["experts on the CPU"] = experts
    return facts


def _waiting(settings: ModelParams) -> str:
    if not hardware.uses_openmp():
        return f"poll {settings.poll}"
    return "sleep soon while other programs compute" if thread_waits() else "as OpenMP says (OMP_WAIT_POLICY)"


def loading_settings(settings: ModelParams) -> Mapping[str, str]:
    """The settings for loading, positions and metadata that differ from their defaults, as a user types them."""
    keys = {**fields_of(PlacementParams), **fields_of(RopeParams)}.keys() | {"override_kv", "swa_full"}
    known = fields_of(ModelParams)
    values = {key: getattr(settings, key) for key in known if key in keys}
    return {key: format_value(value) for key, value in values.items() if value != known[key].default}
