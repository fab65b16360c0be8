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
CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32}
CACHE_BYTES |= {"iq4_nl": 18 / 32, "q5_0": 22 / 32, "q5_1": 24 / 32}
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
    lib = bindings.ggml()  # llama-cpp-python declares none of these functions
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] * 3
    for function in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description):
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    found = []
    for handle in map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count())):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        lib.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        texts = lib.ggml_backend_dev_name(handle), lib.ggml_backend_dev_description(handle)
        name, description = ((text or b"").decode("utf-8", "replace") for text in texts)
        kind = _KINDS.get(lib.ggml_backend_dev_type(handle), "other")
        found.append(Device(name, description, kind, free.value, total.value))
    return found


def has_gpu() -> bool:
    """Whether the installed llama.cpp build can offload layers to a GPU of this machine."""
    return bool(bindings.load().llama_supports_gpu_offload())


def usable_cores() -> int:
    """The number of physical cores for this process, by affinity, SMT siblings and the container's CPU quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on Windows and macOS
    logical = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    physical = _physical_cores(logical) or len(logical)
    quota = _cpu_quota()
    return max(1, min(physical, quota) if quota else physical)


def _physical_cores(cpus: list[int]) -> int:
    """The number of physical cores among `cpus`; 0 if it is unknown."""
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
    if sys.platform == "win32":
        return len(cpus) if len(cpus) <= 4 else len(cpus) // 2  # llama.cpp's rule for an unknown topology
    cores = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    return 0 if "" in cores else len(cores)


def _read(path: str) -> str:
    """The text of a file of the system; empty if there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _sysctl(name: str) -> int:
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    call = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if call is None or call(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        return 0
    return value.value


def _cpu_quota() -> int:
    """The number of CPUs in the container's quota, rounded up; 0 without a quota."""
    folder = "/sys/fs/cgroup/cpu/cpu.cfs_"
    for text in (_read("/sys/fs/cgroup/cpu.max"), f"{_read(folder + 'quota_us')} {_read(folder + 'period_us')}"):
        quota, _, period = text.partition(" ")  # "max" or -1 without a quota
        if quota.isdecimal() and period.isdecimal():
            return -(-int(quota) // int(period))
    return 0


def available_memory() -> int:
    """Bytes of RAM that can be allocated without swapping; 0 if it is unknown."""
    if sys.platform.startswith("linux"):
        lines = _read("/proc/meminfo").splitlines()
        system = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    else:  # the free memory of llama.cpp's CPU device
        system = next((device.memory_free for device in devices() if device.kind == "CPU"), 0)
    limit = _memory_limit()
    return min(system, limit) if system and limit else system or limit


def _memory_limit() -> int:
    """Bytes left under the container's memory limit; 0 without one."""
    for folder, limit, used in (
        ("/sys/fs/cgroup/memory.", "max", "current"),
        ("/sys/fs/cgroup/memory/memory.", "limit_in_bytes", "usage_in_bytes"),
    ):
        top, taken = _read(folder + limit), _read(folder + used)
        if top.isdecimal() and taken.isdecimal():
            return max(1, int(top) - int(taken)) if int(top) < 2**60 else 0  # more means: no limit
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
    """The numbers of a model that an estimate needs."""

    weights: int  # bytes
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    kv_width_k: int  # elements per token over all layers: the sum of heads x head length
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
