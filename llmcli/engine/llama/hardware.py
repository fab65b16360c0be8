"""Processors, devices and memory of this machine."""

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmcli.engine.llama import bindings
from llmcli.errors import LlmcliError, UsageError

_KINDS = {0: "CPU", 1: "GPU", 2: "IGPU", 3: "ACCEL", 4: "META"}  # ggml-backend.h, enum ggml_backend_dev_type
_NUMA = {"off": 0, "distribute": 1, "isolate": 2, "numactl": 3}  # ggml-cpu.h, enum ggml_numa_strategy
RPC_NAME = re.compile(r"RPC\d+")  # of a device of an RPC server
_numa_started = False


@dataclass(frozen=True)
class Device:
    """One compute device; memory in bytes."""

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int


def devices() -> list[Device]:
    """Every device: those of this machine, then those of the RPC servers that were added, which are asked."""
    lib, found = _functions(), []
    for handle in device_handles():
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        lib.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        name, description = device_texts(handle)
        found.append(Device(name, description, _kind_of(handle), free.value, total.value))
    return found


def device_handles() -> list[int]:
    """The `ggml_backend_dev_t` of every device."""
    lib = _functions()
    return [lib.ggml_backend_dev_get(number) for number in range(lib.ggml_backend_dev_count())]


def device_texts(handle: int) -> tuple[str, str]:
    """Name and description of a device."""
    lib = _functions()
    texts = lib.ggml_backend_dev_name(handle), lib.ggml_backend_dev_description(handle)
    name, description = ((text or b"").decode("utf-8", "replace") for text in texts)
    return name, description


def _kind_of(handle: int) -> str:
    return _KINDS.get(_functions().ggml_backend_dev_type(handle), "other")


@cache
def _functions() -> ctypes.CDLL:
    """The ggml library with the types of its functions for devices, none of which llama-cpp-python declares."""
    lib = bindings.ggml()
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] * 3
    for function in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description):
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    return lib


def offload_handles(names: str) -> list[int]:
    """The `ggml_backend_dev_t` of each device in a list with commas; none for `none`.

    Raises UsageError for a name that is not one of a device that layers can be offloaded to.
    """
    wanted = [] if names == "none" else [name.strip() for name in names.split(",")]
    possible = [device.name for device in devices() if device.kind != "CPU"]
    by_name = bindings.ggml().ggml_backend_dev_by_name
    by_name.restype, by_name.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    for name in wanted:
        if name.lower() not in map(str.lower, possible):
            known = (
                f"use {', '.join(possible)}, auto or none" if possible else "this build of llama.cpp has no GPU support"
            )
            raise UsageError(f"device {name!r} does not exist", known)
    return [by_name(name.encode()) for name in wanted]


def start_numa(strategy: str) -> None:
    """Let ggml place its threads on several NUMA nodes: once in a process, before the first model is loaded."""
    global _numa_started
    if strategy != "off" and not _numa_started:
        _numa_started = True
        bindings.load().llama_numa_init(_NUMA[strategy])


def numa_nodes() -> int:
    """The number of NUMA nodes of this machine; 1 where the system does not tell."""
    return max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))))


def uses_openmp() -> bool:
    """Whether this build has OpenMP's threads instead of ggml's: they wait as the variables of OpenMP say."""
    return b"OPENMP = 1" in bindings.load().llama_print_system_info()


def has_gpu() -> bool:
    """Whether the installed llama.cpp build can offload layers to a GPU of this machine, or of an RPC server in use.

    `llama_supports_gpu_offload` is true in every build with the RPC backend, also without a server.
    """
    bindings.load()
    by_type = bindings.ggml().ggml_backend_dev_by_type
    by_type.restype, by_type.argtypes = ctypes.c_void_p, [ctypes.c_int]
    return any(by_type(number) for number, kind in _KINDS.items() if kind in ("GPU", "IGPU"))


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
    quota = _cpu_quota()
    # A thread that waits for its share of a core holds up all others: only seven tenths of a core are worth one.
    return max(1, min(n_cores, int(quota + 0.3)) if quota else n_cores)


def _cpu_quota() -> float:
    """The CPUs that the process may use, by the narrowest of its control groups; 0 without a limit."""
    quotas = []
    for folder in _cgroups("cpu"):
        legacy = f"{_read(f'{folder}/cpu.cfs_quota_us')} {_read(f'{folder}/cpu.cfs_period_us')}"
        for text in (_read(f"{folder}/cpu.max"), legacy):
            quota, _, period = text.partition(" ")  # "max" or -1 without a quota
            if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
    return min(quotas, default=0.0)


def _free_in_cgroups() -> int | None:
    """Bytes below the narrowest memory limit of the control groups of the process; None without a limit."""
    free = []
    for folder in _cgroups("memory"):
        names = ("memory.max", "memory.current"), ("memory.high", "memory.current")
        for limit, usage in (*names, ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            top, used = _read(f"{folder}/{limit}"), _read(f"{folder}/{usage}")
            if top.isdecimal() and used.isdecimal() and int(top) < 2**60:  # more means: no limit
                free.append(max(1, int(top) - max(0, int(used) - _reclaimable(folder))))
    return min(free, default=None)


def _reclaimable(folder: str) -> int:
    """Bytes of files in memory that nobody has used for long: they count as used, and go before anything is killed."""
    stat = dict(line.split()[:2] for line in _read(f"{folder}/memory.stat").splitlines() if len(line.split()) > 1)
    found = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"  # v1 has both: of the group alone
    return int(found) if found.isdecimal() else 0


def _cgroups(controller: str) -> list[str]:
    """The folders of the control group of this process and of those above it, of version 1 or 2.

    A limit can be in any of them: of a systemd unit, of a job of Slurm, of a container. `/proc/self/cgroup` has the
    path from the root of the hierarchy, of which a container sees only the part that `/proc/self/mountinfo` names.
    """
    paths: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if not names or controller in names.split(","):
            paths["cgroup" if names else "cgroup2"] = path
    found = []
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        is_mounted = len(fields) > 4 and len(kind) > 2 and kind[0] in paths
        if is_mounted and (kind[0] == "cgroup2" or controller in kind[2].split(",")):
            root, point, path = fields[3], fields[4], paths[kind[0]]
            is_below = root == "/" or path == root or path.startswith(root + "/")
            inside = path.removeprefix(root).strip("/") if is_below else ""
            parts = [part for part in inside.split("/") if part not in ("", "..")]
            found += ["/".join([point, *parts[:length]]) for length in range(len(parts), -1, -1)]
    return found or ["/sys/fs/cgroup", f"/sys/fs/cgroup/{controller}"]  # where systems have them


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
    free = _free_in_cgroups()
    return system if free is None else min(system or free, free)


@cache
def machine() -> str:
    """The devices and the processor features that this build uses, such as "AMD EPYC: AVX2 FMA REPACK"."""
    try:
        found = devices()
        names = dict.fromkeys("RPC" if RPC_NAME.fullmatch(one.name) else one.description or one.name for one in found)
    except LlmcliError:  # this build has its libraries in another folder
        names = {"unknown": None}
    text = bindings.load().llama_print_system_info().decode("utf-8", "replace")
    facts = [fact.rpartition(":")[2].partition("=") for fact in text.split("|")]
    features = [name.strip() for name, _, value in facts if value.strip() == "1"]
    return f"{', '.join(names)}: {' '.join(features)}"
