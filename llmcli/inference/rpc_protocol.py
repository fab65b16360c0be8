"""RPC servers as they are asked before llmcli relies on them: over a plain socket, with a time limit.

llama.cpp itself ends the process when a server is not there, is another program, or has another protocol; and it waits
without an end for one that does not answer. So a few commands of its protocol (ggml-rpc.cpp, version 7) are here too.
"""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

from llmcli.errors import NetworkError, error_text
from llmcli.text import ellipsize

PROTOCOL = 7  # ggml-rpc.h, RPC_PROTO_MAJOR_VERSION
DEFAULT_PORT = 50052
_MINOR = 0  # RPC_PROTO_MINOR_VERSION: a client takes no later one
_DEVICE_MEMORY, _HELLO, _DEVICE_COUNT = 11, 14, 15  # enum rpc_cmd
_CAPABILITIES = 24  # bytes, RPC_CONN_CAPS_SIZE; zeros: this client has TCP only
_LONGEST = 10.0  # seconds: a server that is free answers at once
_MOST_DEVICES, _MOST_BYTES = 64, 1 << 50
_BUSY = "it serves one client at a time: end the other one, or wait for it; or the port is that of another program"


class RpcServerError(NetworkError):
    """An RPC server cannot be used, or has ended."""


class ServerNotReachedError(RpcServerError):
    """Nobody takes a connection there: the server has ended, or the network has."""


class WrongServerError(RpcServerError):
    """What answers is another program, or has another protocol: to wait does not help."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device of a server."""

    free: int
    total: int


@dataclass(frozen=True)
class RpcServer:
    """A server that answers: as the user names it, where llama.cpp reaches it, and its devices."""

    name: str
    address: str  # HOST:PORT, with an IPv4 address
    devices: Sequence[DeviceMemory]

    @property
    def memory_free(self) -> int:
        return sum(device.free for device in self.devices)


def ask_server(name: str, host: str, port: int, seconds: float) -> RpcServer:
    """Ask a server for its devices, within so many seconds. Raises RpcServerError, whose hint says what to do."""
    end = monotonic() + min(seconds, _LONGEST)
    ip = _resolve(name, host, end)
    with _connected(name, ip, port, end) as connection:
        version = connection.ask(_HELLO, bytes(_CAPABILITIES), 4 + _CAPABILITIES, is_first=True)
        if version[0] != PROTOCOL or version[1] > _MINOR:
            raise WrongServerError(
                f"the RPC server {name} has version {version[0]}.{version[1]} of the protocol, and this llama.cpp has "
                f"{PROTOCOL}.{_MINOR}",
                "install the same release of llama-cpp-python on both machines",
            )
        (count,) = struct.unpack("<I", connection.ask(_DEVICE_COUNT, b"", 4))
        if not 0 < count <= _MOST_DEVICES:
            raise RpcServerError(f"the RPC server {name} has {count} devices", "look at its log")
        answers = [connection.ask(_DEVICE_MEMORY, struct.pack("<I", number), 16) for number in range(count)]
    devices = [DeviceMemory(*struct.unpack("<QQ", one)) for one in answers]
    if any(one.free > one.total or one.total > _MOST_BYTES for one in devices):
        raise RpcServerError(f"the RPC server {name} tells a wrong size of memory", "look at its log")
    return RpcServer(name, f"{ip}:{port}", devices)


def _resolve(name: str, host: str, end: float) -> str:
    """The IPv4 address of a host: llama.cpp has no other. A question to a name server has no time limit of its own."""
    with suppress(OSError):
        socket.inet_pton(socket.AF_INET, host)
        return host
    found: list[str | OSError] = []

    def ask() -> None:
        try:
            found.append(str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]))
        except OSError as error:
            found.append(error)
        except UnicodeError:  # an empty part, or one of more than 63 characters
            found.append(OSError("it is not a valid name"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(end - monotonic(), 0))
    if found and isinstance(found[0], str):
        return found[0]
    reason = error_text(found[0]) if found and isinstance(found[0], OSError) else "no name server answers"
    message = f"cannot find the host of the RPC server {ellipsize(name, 80)}: {reason}"
    raise RpcServerError(message, "check its name; it needs IPv4")


class _Connection:
    """A connection to a server: each answer must come in time and have the right size."""

    def __init__(self, name: str, connected: socket.socket, end: float) -> None:
        self._name, self._socket, self._end = name, connected, end

    def ask(self, command: int, data: bytes, size: int, is_first: bool = False) -> bytes:
        """The answer of `size` bytes to a command: | command | size | data | -> | size | answer |, little-endian."""
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(struct.pack("<BQ", command, len(data)) + data)
            head = self._receive(8)
            if len(head) == 8 and struct.unpack("<Q", head)[0] == size and len(answer := self._receive(size)) == size:
                return answer
        except TimeoutError:
            what = "does not answer" if is_first else "has stopped answering"
            raise RpcServerError(f"the RPC server {self._name} {what}", _BUSY if is_first else "look at it") from None
        except OSError as error:
            text = f"the RPC server {self._name} ended the connection: {error_text(error)}"
            raise RpcServerError(text, "look at its log; or the port is that of another program") from None
        if is_first and not head:
            text = f"the RPC server {self._name} ended the connection: it has an older protocol, or is another program"
            hint = "install the same release of llama-cpp-python on both machines; behind a tunnel, see if it runs"
            raise RpcServerError(text, hint)
        if is_first:
            begin = ellipsize(head.decode("ascii", "replace"), 20)
            what = (
                "an HTTP server" if head.startswith(b"HTTP/") else f"not an RPC server of llama.cpp (it says {begin!r})"
            )
            raise WrongServerError(f"{self._name} is {what}", f"give the port of `llmcli rpc serve` ({DEFAULT_PORT})")
        raise RpcServerError(f"the RPC server {self._name} sent a wrong answer", "look at its log")

    def _left(self) -> float:
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _receive(self, size: int) -> bytes:
        """So many bytes, or fewer where the connection ends before."""
        data = b""
        while len(data) < size:
            self._socket.settimeout(self._left())
            part = self._socket.recv(size - len(data))
            if not part:
                break
            data += part
        return data


@contextmanager
def _connected(name: str, ip: str, port: int, end: float) -> Iterator[_Connection]:
    try:
        connected = socket.create_connection((ip, port), timeout=max(end - monotonic(), 0.001))
    except TimeoutError:
        message = f"the RPC server {name} is not reached: no answer from {ip}"
        # A server that is in use takes only a few connections into its queue, and answers no more of them.
        raise ServerNotReachedError(
            message, "check the network and the firewall, and end other clients that wait for it"
        ) from None
    except OSError as error:
        is_named = port != DEFAULT_PORT and name.endswith(f":{port}")  # not the end of a tunnel
        options = f" --port {port}" if is_named else ""
        hint = f"start it there with `llmcli rpc serve{options}`"
        raise ServerNotReachedError(f"the RPC server {name} is not reached: {error_text(error)}", hint) from None
    with connected:
        yield _Connection(name, connected, end)
