"""`llmcli rpc serve`: the devices of this machine for llmcli on another one."""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from llmcli.cli.command_line import Option
from llmcli.cli.options import with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus, UsageError
from llmcli.files import cache_dir
from llmcli.params.settings import Layer
from llmcli.text import plural
from llmcli.ui.terminal.console import console

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@with_settings(only=("n_threads",))
def serve(
    flags: Layer,
    host: Annotated[str, Option("--host", metavar="ADDRESS", help="IPv4 address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", min=0, max=65535, help="Port to listen on; 0 = a free one.")] = 50052,
    devices: Annotated[
        str | None,
        Option(
            "--devices",
            metavar="NAME,...",
            show_default=False,
            help="Devices to offer, see `llmcli doctor` [default: all GPUs, else the CPU].",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        Option(
            "--memory",
            metavar="SIZE,...",
            show_default=False,
            help="Most memory to offer, such as 8G (a number alone is MiB): of each device, or one size for all "
            "[default: what is free].",
        ),
    ] = None,
    cache: Annotated[
        bool, Option("--cache", help="Keep large tensors on disk, so that they come over the network once.")
    ] = False,
    insecure: Annotated[
        bool, Option("--insecure", help="Let other machines reach it, without any protection.")
    ] = False,
    until_eof: Annotated[bool, Option("--until-eof", help="End when stdin ends, as --rpc ssh:// needs it.")] = False,
) -> int:
    from llmcli.inference.device_server import DeviceServer, TensorCache, address_of

    names = [name.strip() for name in (devices or "").split(",") if name.strip()]
    limits = [_parse_size(text) for text in memory.split(",")] if memory is not None else []
    ip, port = address_of(host, port, insecure)
    kept = TensorCache(cache_dir() / "rpc") if cache else None
    server = DeviceServer(names, limits, resolve_settings(flags), kept, console.note)
    told = server.start(ip, port)
    for name, device in zip(server.names, told.devices, strict=True):
        console.note(f"{name}: {device.free >> 20} of {device.total >> 20} MiB, {plural(server.n_threads, 'thread')}")
    if kept:
        console.note(f"large tensors are kept in {kept.folder}")
    if insecure:
        console.warn(f"whoever reaches {ip}:{port} can run code on this machine")
    console.note(f"offered at {ip}:{port}, to one client at a time (Ctrl-C ends it)")
    ended = threading.Event()
    if until_eof:
        threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with _ending_at_signal(ended):
        server.run(ended.is_set)
    return ExitStatus.OK


def _parse_size(text: str) -> int:
    """Bytes. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not size:
        raise UsageError(f"--memory must be sizes above 0 such as 8G or 512M, got {text[:40]!r}")
    return size


def _wait_for_end(ended: threading.Event) -> None:
    while sys.stdin and sys.stdin.buffer.read(1):
        pass
    ended.set()


@contextmanager
def _ending_at_signal(ended: threading.Event) -> Iterator[None]:
    """Within this block SIGTERM, and the end of the terminal, end the server in good order."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
