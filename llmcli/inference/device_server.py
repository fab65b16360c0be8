"""The devices of this machine for others: llama.cpp's RPC server in a thread, and what is known of its clients."""

import errno
import ipaddress
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from llmcli.engine.llama import bindings, hardware, rpc, structures
from llmcli.engine.llama.rpc_watch import bytes_moved, open_connections
from llmcli.errors import DiskError, LlmcliError, NetworkError, UsageError, error_text
from llmcli.files import make_private, read_json, write_json
from llmcli.inference.rpc_protocol import RpcServer, RpcServerError, ask_server
from llmcli.params.model import ModelParams
from llmcli.text import format_duration, format_size, plural

_LOOK = 0.5  # seconds between two looks at the client; a check by llmcli is shorter
_OF_A_CHECK = 4096  # bytes: a check has less, a load more
_SPARE = 64 << 20  # bytes of the disk: with less, a file may not have been written to its end
_START = 10.0  # seconds until it listens
_LOCK = "lock"  # the file in a folder that the server which uses it has locked
_locked: list[int] = []  # open until this process ends, and the locks with it
_ACCEPTED, _CLOSED = "Accepted client connection", "Client connection closed"  # ggml-rpc.cpp writes these lines


class _Client:
    """The client that is served; its connection is kept open until its end is seen, so that its bytes are known."""

    def __init__(self, port: int) -> None:
        self.since, self.is_logged = time.monotonic(), False
        self.peer = "a client"
        self._connection: socket.socket | None = None
        for one in open_connections():
            with suppress(OSError):  # it may end now
                if not self._connection and one.getsockname()[1] == port:
                    self.peer, self._connection = "{}:{}".format(*one.getpeername()), one
                    continue
            one.close()

    @property
    def is_there(self) -> bool:
        """Whether it is a connection, as far as this system tells."""
        return self._connection is not None or sys.platform == "win32"

    def end(self) -> int:
        """The bytes in both directions, if they are known."""
        if not self._connection:
            return 0
        with self._connection:
            return bytes_moved(self._connection)


def address_of(host: str, port: int, is_insecure: bool) -> tuple[str, int]:
    """The IPv4 address and the port to listen on; a port 0 becomes a free one.

    Raises UsageError for what others reach, unless that is allowed, and NetworkError for what cannot be listened on.
    """
    try:
        ip = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host[:60]!r} is not an address of this machine", "use 127.0.0.1") from None
    if not (ipaddress.ip_address(ip).is_loopback or is_insecure):
        raise UsageError(
            f"--host {host} is reached from other machines, and the protocol has no authentication and no encryption: "
            "whoever reaches the port can read what is computed, crash this machine, or run code on it",
            "leave it at 127.0.0.1 and use --rpc ssh://USER@HOST there, or give --insecure in a network that you trust",
        )
    try:
        with socket.socket() as one:
            if sys.platform != "win32":  # as ggml does it
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((ip, port))
            one.listen()
            return ip, one.getsockname()[1]
    except OSError as error:
        hints = {errno.EACCES: "use a --port of 1024 or more"}
        hints[errno.EADDRNOTAVAIL] = "this machine does not have the address: use 127.0.0.1 or 0.0.0.0"
        hint = hints.get(error.errno or 0, "use another --port")
        raise NetworkError(f"cannot listen on {host}:{port}: {error_text(error)}", hint) from None


class TensorCache:
    """The folder in which llama.cpp keeps large tensors by their hash.

    It reads a file back without a check. So the sizes of all files are noted when a client has left in good order.
    After a kill or a crash of the machine, or where the disk is full, other files are removed: they may be cut.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder, and remove what may be cut. Raises DiskError.

        Each server that runs has a folder of its own, this one or the first that is free beside it: a server notes what
        it finds there, also what another one is writing.
        """
        try:
            self.folder = next(one for one in _beside(folder) if _lock(make_private(one)))
            self._note = self.folder / "complete.json"
            self._remove_new()
            self._write()
        except OSError as error:
            raise DiskError(f"cannot use {folder}: {error_text(error)}", "leave --cache out") from None

    def keep(self) -> str:
        """A client has left: keep what it has sent. Returns why that is not possible, if it is not."""
        try:
            make_private(self.folder)  # a user may delete it at any time
            if shutil.disk_usage(self.folder).free > _SPARE:
                self._write()
                return ""
            self._remove_new()
        except (OSError, DiskError) as error:
            return f"{self.folder} cannot be written to ({error_text(error) if isinstance(error, OSError) else error})"
        return "the disk is full"

    def _files(self) -> Iterator[tuple[Path, int]]:
        with os.scandir(self.folder) as entries:
            for one in entries:
                if one.is_file(follow_symlinks=False) and one.name not in (self._note.name, _LOCK):
                    yield Path(one.path), one.stat().st_size

    def _write(self) -> None:
        write_json(self._note, {path.name: size for path, size in self._files()})

    def _remove_new(self) -> None:
        noted = read_json(self._note)  # empty where there is none, or a cut one: then no file is known to be complete
        for path, size in self._files():
            if noted.get(path.name) != size:
                path.unlink()


def _beside(folder: Path) -> Iterator[Path]:
    """The folder, then those of more servers that run at the same time."""
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in count(2))


def _lock(folder: Path) -> bool:
    """Whether no other server uses the folder. From now on this one does, until its process ends. Raises OSError."""
    if sys.platform == "win32":  # it has no `flock`: the servers of one machine share the folder
        return True
    import fcntl

    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # a file system without locks
        pass
    _locked.append(descriptor)
    return True


class DeviceServer:
    """Offers devices on an address; `log` gets a line about each client that stays."""

    def __init__(
        self,
        names: Sequence[str],
        limits: Sequence[int],
        settings: ModelParams,
        cache: TensorCache | None,
        log: Callable[[str], None],
    ) -> None:
        """`limits` are the most bytes that each device tells as free; one is for all of them, none for no limit.

        Raises LlmcliError for a device that is not there, or a build without the backend.
        """
        if not rpc.is_supported():
            raise rpc.unsupported_error()
        self._handles = rpc.offered_devices(names)
        if len(limits) not in (0, 1, len(self._handles)):
            devices = plural(len(self._handles), "device")
            raise UsageError(f"--memory has {len(limits)} sizes for {devices}", "give one for each")
        cpus = {one.name for one in hardware.devices() if one.kind == "CPU"}
        for number, handle in enumerate(self._handles):
            limit = limits[number if len(limits) > 1 else 0] if limits else 0
            is_cpu = hardware.device_texts(handle)[0] in cpus
            if (limit or is_cpu) and not rpc.limit_memory(handle, partial(_free, limit, is_cpu)) and limit:
                raise LlmcliError("this release of llama.cpp does not let --memory limit a device", "leave it out")
        self.n_threads, _ = structures.threads(settings)
        self._cache, self._log = cache, log
        self._client: _Client | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def names(self) -> Sequence[str]:
        """Names and descriptions of the devices."""
        return ["{} ({})".format(*hardware.device_texts(handle)) for handle in self._handles]

    def start(self, ip: str, port: int) -> RpcServer:
        """Listen from now on; returns what a client is told. Raises NetworkError."""
        self._port = port
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the pipe takes the number of a closed stream
            pass
        os.close(number)
        reader, writer = os.pipe()
        if sys.stdout:
            sys.stdout.flush()
        os.dup2(writer, 1)  # ggml writes about its clients to stdout, and nothing else of llmcli does
        threading.Thread(target=self._read, args=(reader,), daemon=True).start()
        folder = self._cache.folder if self._cache else None
        call = partial(rpc.start_server, f"{ip}:{port}", folder, self.n_threads, self._handles)
        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()
        end, own = time.monotonic() + _START, "127.0.0.1" if ip == "0.0.0.0" else ip
        while True:
            try:
                return ask_server(f"{ip}:{port}", own, port, _START)
            except RpcServerError:
                if time.monotonic() > end or not self._thread.is_alive():
                    raise NetworkError(f"cannot listen on {ip}:{port}", "use another --port") from None
            time.sleep(0.02)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Log who uses it, until `is_over`. Raises NetworkError when it has ended by itself."""
        while not is_over():
            time.sleep(_LOOK)
            client = self._client
            if client and client.is_there and not client.is_logged and time.monotonic() - client.since >= _LOOK:
                client.is_logged = True
                self._log(f"{client.peer} uses it")
            if not (self._thread and self._thread.is_alive()):
                raise NetworkError("the server of llama.cpp has ended", "start it again")

    def _read(self, reader: int) -> None:
        with open(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(_ACCEPTED):
                    bindings.clear_log()
                    self._client = _Client(self._port)
                elif line.startswith(_CLOSED) and self._client:
                    client, self._client = self._client, None
                    self._end(client)

    def _end(self, client: _Client) -> None:
        """Log the end of a client, unless it has only asked for the memory."""
        n_bytes, reason = client.end(), bindings.last_log_error()
        if 0 < n_bytes < _OF_A_CHECK and not client.is_logged:  # a load is preceded by many of them
            return
        lost = self._cache.keep() if self._cache else ""
        if not (n_bytes or client.is_logged):
            return
        if lost:
            self._log(f"{lost}: no tensor of this client is kept")
        seconds = format_duration(time.monotonic() - client.since)
        size = f", {format_size(n_bytes)} in both directions" if n_bytes else ""
        self._log(f"{client.peer} has left" + (f": {reason}" if reason else f" after {seconds}{size}"))


def _free(limit: int, is_cpu: bool, free: int, total: int) -> int:
    """What a device tells as free: ggml tells all memory of a machine for its CPU."""
    own = free
    if is_cpu and sys.platform.startswith("linux"):  # elsewhere it is the device that is asked, which would ask again
        own = min(hardware.available_memory() or free, total)
    return min(own, limit) if limit else own
