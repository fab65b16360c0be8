"""llama.cpp's RPC backend: the devices of other machines for this process, and those of this machine for others."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

from llmcli.engine.llama import bindings, hardware
from llmcli.errors import LlmcliError

_GET_MEMORY = 2 * ctypes.sizeof(ctypes.c_void_p)  # offset in ggml-backend-impl.h, `ggml_backend_device_i`
_GetMemory = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
_kept: list[object] = []  # callbacks of which llama.cpp has pointers


def is_supported() -> bool:
    """Whether the installed llama.cpp has the RPC backend."""
    return bool(bindings.load().llama_supports_rpc())


def unsupported_error() -> LlmcliError:
    """The error for a build without it."""
    version = bindings.bindings_version()
    return LlmcliError(
        "this build of llama.cpp has no RPC backend",
        "compile it again: CMAKE_ARGS=-DGGML_RPC=ON pip install --force-reinstall --no-cache-dir --no-deps "
        f"--no-binary llama-cpp-python llama-cpp-python=={version}",
    )


def _function(name: str, result: type | None, *arguments: type) -> Callable[..., int]:
    """A function of the backend. Raises LlmcliError in a build without it."""
    lib = bindings.ggml()
    lib.ggml_backend_reg_by_name.restype = lib.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    lib.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
    lib.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    registry = lib.ggml_backend_reg_by_name(b"RPC") if is_supported() else None
    address = registry and lib.ggml_backend_reg_get_proc_address(registry, name.encode())
    if not address:
        raise unsupported_error()
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def add_server(address: str) -> list[str]:
    """Add the devices of a server, `HOST:PORT` with an IPv4 address, and return their names.

    The server must be known to answer: otherwise ggml ends this process, or waits without an end.
    """
    before = len(hardware.device_handles())
    added = _function("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)(address.encode())
    if added:
        register = bindings.ggml().ggml_backend_register
        register.restype, register.argtypes = None, [ctypes.c_void_p]
        register(added)
    return [hardware.device_texts(handle)[0] for handle in hardware.device_handles()[before:]]


def has_servers() -> bool:
    """Whether there are devices of servers."""
    return any(hardware.RPC_NAME.fullmatch(hardware.device_texts(one)[0]) for one in hardware.device_handles())


def memory_of_servers() -> int:
    """Bytes that are free on the devices of servers."""
    if not has_servers():
        return 0
    return sum(one.memory_free for one in hardware.devices() if hardware.RPC_NAME.fullmatch(one.name))


def offered_devices(names: Sequence[str]) -> list[int]:
    """The `ggml_backend_dev_t` of the devices to offer: those named, else all GPUs, else the CPU.

    Raises LlmcliError for a name that is not one of a device.
    """
    by_name = {hardware.device_texts(handle)[0].lower(): handle for handle in hardware.device_handles()}
    for name in names:
        if name.lower() not in by_name:
            raise LlmcliError(f"device {name!r} does not exist", f"use {', '.join(by_name).upper()}")
    found = hardware.devices()
    gpus = [one.name.lower() for one in found if one.kind in ("GPU", "IGPU")]
    wanted = [name.lower() for name in names] or gpus or [one.name.lower() for one in found if one.kind == "CPU"]
    return [by_name[name] for name in dict.fromkeys(wanted)]


def limit_memory(handle: int, free_of: Callable[[int, int], int]) -> bool:
    """Let a device tell other memory: `free_of` gets its free and total bytes, and returns what is free.

    ggml tells all memory of the machine for a CPU, whatever is in use, and a server of RPC tells what the device says.
    So the pointer to the function that says it is replaced in the device, if it is where this release has it. Returns
    whether it is.
    """
    get = bindings.ggml().ggml_backend_dev_memory
    get.restype, get.argtypes = None, [ctypes.c_void_p] * 3

    def memory() -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        get(handle, ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    place = ctypes.c_void_p.from_address(handle + _GET_MEMORY)
    own, before = place.value, memory()
    if not own:
        return False
    original = _GetMemory(own)

    def changed(
        device: int, free: "ctypes._Pointer[ctypes.c_size_t]", total: "ctypes._Pointer[ctypes.c_size_t]"
    ) -> None:
        original(device, free, total)
        free[0] = free_of(free[0], total[0])

    callback = _GetMemory(changed)
    _kept.append(callback)
    place.value = ctypes.cast(callback, ctypes.c_void_p).value
    if memory() == (free_of(*before), before[1]):
        return True
    place.value = own
    return False


def start_server(address: str, cache_folder: Path | None, n_threads: int, handles: Sequence[int]) -> None:
    """Offer devices at `HOST:PORT`, one client after the other; returns only if it cannot listen.

    It writes about its clients to stdout.
    """
    serve = _function(
        "ggml_backend_rpc_start_server",
        None,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
    )
    bindings.serves_clients = True
    array = (ctypes.c_void_p * len(handles))(*handles)
    folder = bindings.path_bytes(cache_folder) if cache_folder else None
    serve(address.encode(), folder, n_threads, len(handles), ctypes.addressof(array))
