"""Processors, devices and memory of this machine."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmcli.engine.llama import bindings
from llmcli.errors import LlmcliError

_KINDS = {0: "CPU", 1: "GPU", 2: "IGPU", 3: "ACCEL", 4: "META"}  # ggml-backend.h, enum ggml_backend_dev_type


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
    n_cores = len(logical)
    if sys.platform == "darwin":
        n_cores = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or n_cores
    elif sys.platform == "win32":
        n_cores = n_cores if n_cores <= 4 else n_cores // 2  # llama.cpp's rule for an unknown topology
    else:
        siblings = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in logical}
        n_cores = n_cores if "" in siblings else len(siblings)
    folder = "/sys/fs/cgroup/cpu/cpu.cfs_"
    for text in (_read("/sys/fs/cgroup/cpu.max"), f"{_read(folder + 'quota_us')} {_read(folder + 'period_us')}"):
        quota, _, period = text.partition(" ")  # "max" or -1 without a quota
        if quota.isdecimal() and period.isdecimal():
            return max(1, min(n_cores, -(-int(quota) // int(period))))
    return max(1, n_cores)


def _read(path: str) -> str:
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


def available_memory() -> int:
    """Bytes of RAM that can be allocated without swapping; 0 if it is unknown."""
    if sys.platform.startswith("linux"):
        lines = _read("/proc/meminfo").splitlines()
        system = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    else:  # the free memory of llama.cpp's CPU device
        system = next((device.memory_free for device in devices() if device.kind == "CPU"), 0)
    for folder, limit, used in (
        ("/sys/fs/cgroup/memory.", "max", "current"),
        ("/sys/fs/cgroup/memory/memory.", "limit_in_bytes", "usage_in_bytes"),
    ):
        top, taken = _read(folder + limit), _read(folder + used)
        if top.isdecimal() and taken.isdecimal():
            free = max(1, int(top) - int(taken))  # below the limit of the container
            return min(system or free, free) if int(top) < 2**60 else system  # more means: no limit
    return system


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
