"""Processors, devices and memory: what there is, and what a model needs."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmcli.engine.llama import bindings
from llmcli.errors import LlmcliError

_KINDS = {0: "CPU", 1: "GPU", 2: "IGPU", 3: "ACCEL", 4: "META"}  # ggml-backend.h, enum ggml_backend_dev_type
# Bytes per element of the K and V caches: bytes per block / elements per block (ggml.c, type traits).
CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32} | {
    "iq4_nl": 18 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
}
_USABLE = 0.9  # fraction of the free memory
_ALIGN = 256  # llama.cpp rounds the context size up to a multiple


@dataclass(frozen=True)
class Device:
    """One compute device; memory in bytes."""

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int


def devices() -> list[Device]:
    """Every device of the installed llama.cpp build."""
    bindings.load()
    lib = bindings.ggml()
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    return [_device(lib, lib.ggml_backend_dev_get(i)) for i in range(lib.ggml_backend_dev_count())]


def _device(lib: ctypes.CDLL, handle: int) -> Device:
    texts = []
    for function in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description):
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        texts.append((function(handle) or b"").decode("utf-8", "replace"))
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    kind = _KINDS.get(lib.ggml_backend_dev_type(handle), "other")
    return Device(texts[0], texts[1], kind, free.value, total.value)


def has_gpu() -> bool:
    """Whether the installed llama.cpp build can offload layers to a GPU of this machine."""
    return bool(bindings.load().llama_supports_gpu_offload())


def usable_cores() -> int:
    """The number of physical cores for this process, by affinity, SMT siblings and the container's CPU quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on Windows and macOS
    logical = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    physical = _physical(logical) or len(logical)
    quota = _cgroup_cpus()
    return max(1, min(physical, quota) if quota else physical)


def _physical(cpus: list[int]) -> int:
    """The number of physical cores among `cpus`; 0 if it is unknown."""
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
    if sys.platform == "win32":
        return len(cpus) if len(cpus) <= 4 else len(cpus) // 2  # llama.cpp's rule for an unknown topology
    cores = {_siblings(cpu) for cpu in cpus}
    return 0 if "" in cores else len(cores)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return ""


def _sysctl(name: str) -> int:
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    call = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if call is None or call(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        return 0
    return value.value


def _cgroup_cpus() -> int:
    """The number of CPUs in the container's quota, rounded up; 0 without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return 0 if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        amount = int((folder / "cpu.cfs_quota_us").read_text())
        return 0 if amount <= 0 else -(-amount // int((folder / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        return 0


def available_memory() -> int:
    """Bytes of RAM that can be allocated without swapping; 0 if it is unknown."""
    if sys.platform.startswith("linux"):
        system = _meminfo_available()
    else:  # the free memory of llama.cpp's CPU device
        system = next((device.memory_free for device in devices() if device.kind == "CPU"), 0)
    limit = _cgroup_memory()
    return min(system, limit) if system and limit else system or limit


def _meminfo_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _cgroup_memory() -> int:
    """Bytes left under the container's memory limit; 0 without one."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            top = int(Path("/sys/fs/cgroup", limit).read_text())
            return max(1, top - int(Path("/sys/fs/cgroup", used).read_text())) if top < 2**60 else 0
        except (OSError, ValueError):
            continue
    return 0


@cache
def machine() -> str:
    """The devices and the processor features that this build uses, such as "AMD EPYC: AVX2 FMA REPACK"."""
    try:
        names = dict.fromkeys(device.description or device.name for device in devices())
    except LlmcliError:  # this build has its libraries in another folder
        names = {"unknown": None}
    text = bindings.load().llama_print_system_info().decode("utf-8", "replace")
    facts = [fact.rpartition(":")[2].partition("=") for fact in text.split("|")]
    features = [name.strip() for name, _, value in facts if value.strip() == "1"]
    return f"{', '.join(names)}: {' '.join(features)}"


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that an estimate needs. `weights` is in bytes.

    `kv_width_k` and `kv_width_v` are elements per token over all layers: the sum of heads x head length.
    """

    weights: int
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    kv_width_k: int
    kv_width_v: int


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes by purpose."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


def estimate(shape: ModelShape, n_ctx: int, n_ubatch: int, type_k: str, type_v: str) -> MemoryNeed:
    """The memory for weights, KV cache and compute buffers; these are about logits and activations of a ubatch."""
    per_token = shape.kv_width_k * CACHE_BYTES[type_k] + shape.kv_width_v * CACHE_BYTES[type_v]
    compute = 4 * n_ubatch * (shape.n_vocab + 8 * shape.n_embd)
    return MemoryNeed(shape.weights, int(per_token * n_ctx), compute)


def fitting_context(shape: ModelShape, memory: int, n_ubatch: int, type_k: str, type_v: str) -> int:
    """The largest context size, up to that of the training, that fits into `memory` bytes (0 = unknown)."""
    one = estimate(shape, 1, n_ubatch, type_k, type_v)
    free = memory * _USABLE - one.weights - one.compute
    if memory <= 0 or one.kv_cache <= 0 or free >= shape.n_ctx_train * one.kv_cache:
        return shape.n_ctx_train
    return min(shape.n_ctx_train, max(_ALIGN, int(free / one.kv_cache) // _ALIGN * _ALIGN))


def fitting_layers(shape: ModelShape, n_ctx: int, n_ubatch: int, type_k: str, type_v: str, gpu_memory: int) -> int:
    """The number of layers, with the output layer, that fit into `gpu_memory` bytes with their part of the KV cache."""
    need = estimate(shape, n_ctx, n_ubatch, type_k, type_v)
    layers = shape.n_layers + 1
    per_layer = (need.weights + need.kv_cache) / layers
    free = gpu_memory * _USABLE - need.compute
    return max(0, min(layers, int(free / per_layer))) if per_layer else layers
