"""The devices of RPC servers in this process: reached directly or through ssh, checked, then given to llama.cpp."""

import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from llmcli.engine.events import Cancellation, FinishReason
from llmcli.engine.llama import bindings, hardware, rpc
from llmcli.errors import ExitStatus, UsageError
from llmcli.inference.rpc_protocol import RpcServer, RpcServerError, WrongServerError, ask_server
from llmcli.params.model import RpcAddress, read_rpc
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

if TYPE_CHECKING:
    from llmcli.engine.llama.rpc_watch import Watch

_MOST_SERVERS = 16  # llama.cpp, LLAMA_MAX_DEVICES
_START = 30.0  # seconds for ssh and the start of the other side
_PAUSE = 0.1  # seconds between two questions
_TRIES = 3  # of a tunnel, each with other ports
_END = 2.0  # seconds for the other side to end
_PORTS = range(49152, 65536)  # nobody registers those
_SSH_FAILED, _NOT_FOUND = 255, 127  # exit statuses of ssh, and of a shell without the command
_added: dict[str, RpcServer] = {}  # whose devices llama.cpp has
_opened = ExitStack()  # their tunnels
_watches: list["Watch"] = []


@contextmanager
def open_servers(settings: Settings) -> Iterator[Sequence[RpcServer]]:
    """The RPC servers of the settings, checked; tunnels are open within this block. Raises RpcServerError."""
    with ExitStack() as stack:
        yield [_open(name, settings, stack) for name in dict.fromkeys(settings.rpc)]


def memory_with_servers(settings: Settings, warn: Callable[[str, str], object]) -> tuple[int, int]:
    """Bytes that are free here (0 = not known) and on the RPC servers of the settings, and the number of these servers.

    `warn` gets what is missing; then none of them counts, as no model could be loaded with them.
    """
    own = hardware.available_memory()
    try:
        with open_servers(settings) as servers:
            at = {server.address: server.memory_free for server in servers}  # one may have two names
            return own + sum(at.values()) if own else 0, len(at)
    except RpcServerError as error:
        warn(f"only the memory of this machine counts: {error}", error.hint)
        return own, 0


def connect(settings: Settings, cancellation: Cancellation | None = None) -> None:
    """Give the devices of the RPC servers to llama.cpp, before it loads a model; once for each server in a process.

    With `cancellation`, what waits for a server is wanted no more when that is set: see `hurry`.
    From now on a server that ends, or gives no sign of life, ends this process with an error. Raises RpcServerError for
    a server that cannot be used, LlmcliError where llama.cpp is compiled without the backend.
    """
    if not settings.rpc:
        return
    if not rpc.is_supported():
        raise rpc.unsupported_error()
    names = dict.fromkeys(settings.rpc)
    if len(names) > _MOST_SERVERS:
        raise UsageError(f"rpc names {len(names)} servers, and llama.cpp has at most {_MOST_SERVERS} devices")
    found = [_open(name, settings, _opened) for name in names if name not in _added]
    if not _watches:
        from llmcli.engine.llama.rpc_watch import Watch  # few processes need it

        _watches.append(Watch(settings.rpc_timeout, _end))
        _watches[0].start()
    for server in found:
        with _watches[0].call():  # another client may have come since it was asked
            rpc.add_server(server.address)
        _added[server.name] = server
    if cancellation:
        cancellation.followers = (*cancellation.followers, _Hurry())


class _Hurry(Cancellation):
    def set(self, reason: FinishReason = "interrupt") -> None:
        super().set(reason)
        hurry()


def hurry() -> None:
    """Whoever has asked for the answer wants no more of it: end this process soon, if it waits for a server."""
    for watch in _watches:
        watch.hurry()


def disconnect() -> None:
    """End the tunnels, before this process ends."""
    _opened.close()


def _end(waited: float, is_unwanted: bool) -> None:
    if is_unwanted:
        bindings.end_process(
            f"an RPC server has not stopped within {waited:.0f} s", "look at it, and at the network", ExitStatus.NETWORK
        )
    bindings.end_process(
        f"an RPC server gave no sign of life for {waited:.0f} s",
        "raise --rpc-timeout or lower --ubatch-size if it is slow; else look whether it runs, and who uses it",
        ExitStatus.NETWORK,
    )


def _open(name: str, settings: Settings, stack: ExitStack) -> RpcServer:
    address, seconds = read_rpc(name), settings.rpc_timeout
    if settings.offline and not address.is_loopback:
        raise RpcServerError(f"{name} needs the network, but --offline is set", "remove --offline to allow it")
    if not address.is_ssh:
        return ask_server(name, address.host, address.port, seconds)
    return _open_tunnel(name, address, min(seconds, _START), stack)


def _open_tunnel(name: str, address: RpcAddress, seconds: float, stack: ExitStack) -> RpcServer:
    n_tries = 0
    while True:
        tunnel, n_tries = Tunnel(name, address), n_tries + 1
        try:
            server = tunnel.wait(seconds)
        except BaseException as error:
            tunnel.close()
            if not isinstance(error, PortTakenError) or n_tries == _TRIES:
                raise
        else:
            stack.callback(tunnel.close)
            return server


class PortTakenError(RpcServerError):
    """A port that was chosen for a tunnel is that of another program by now: another one may be free."""


class Tunnel:
    """An RPC server that `ssh` starts on another machine, and a tunnel to it."""

    def __init__(self, name: str, address: RpcAddress) -> None:
        self._name = name
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port: int = one.getsockname()[1]
        there = random.choice(_PORTS)
        options = ["BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=15", "ServerAliveCountMax=4"]
        command = ["ssh", "-T", *(word for one in options for word in ("-o", one))]
        command += ["-L", f"127.0.0.1:{self._port}:127.0.0.1:{there}"]
        command += ["-p", str(address.port)] if address.port else []
        command += ["-l", address.user] if address.user else []
        command += [address.host, f"llmcli rpc serve --port {there} --until-eof"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        detached: dict[str, Any] = {} if sys.platform == "win32" else {"start_new_session": True}
        try:
            # In a session of its own: a Ctrl-C is for the command, which then ends the tunnel. When this process is
            # killed, its end of the pipe closes, and the other side ends.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, **detached
            )
        except OSError:
            self._errors.close()
            raise RpcServerError(f"cannot start ssh for {name}", "install OpenSSH, or use HOST:PORT") from None

    def wait(self, seconds: float) -> RpcServer:
        """The server, once it answers. Raises RpcServerError."""
        end = monotonic() + seconds
        while True:
            try:
                return ask_server(self._name, "127.0.0.1", self._port, max(end - monotonic(), _PAUSE))
            except WrongServerError:
                raise
            except RpcServerError as error:
                if self._process.poll() is not None:
                    raise self._failure() from None
                if monotonic() > end:
                    raise RpcServerError(f"{error} (within {seconds:g} s)", "raise --rpc-timeout") from None
            sleep(_PAUSE)

    def _failure(self) -> RpcServerError:
        """What ssh said, in one line."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        said = [line for line in lines if not line.startswith(("  hint:", "Warning:"))]
        reason = ellipsize((said or [f"it ended with status {self._process.returncode}"])[-1].strip(), 160)
        hint = "start `llmcli rpc serve` there by hand to see why it ends"
        if self._process.returncode == _SSH_FAILED:
            hint = "`ssh` must reach it without a question: a key without a passphrase, or an agent; a known host"
        elif self._process.returncode == _NOT_FOUND:
            hint = "install llmcli there, where a shell without a terminal finds it"
        kind = PortTakenError if any("cannot listen" in line for line in said) else RpcServerError  # here, or there
        return kind(f"ssh to {self._name}: {reason}", hint)

    def close(self) -> None:
        """End the server and the tunnel."""
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        end_child(self._process)
        self._errors.close()


def end_child(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process ends by itself, because its stdin is closed; else end it."""
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
