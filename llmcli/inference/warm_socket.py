"""The connection to a warm process: messages of bytes over a private socket, and a proof on both sides.

`multiprocessing` has the first, and takes 10 ms to import. Its framing is used here, so that its listener reads it.
"""

import hashlib
import hmac
import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.inference.engine_messages import Wire

_NONCE = 32  # bytes of a random number that is used once
_PROOF = 32  # bytes of an HMAC-SHA256
_CHUNK = 1 << 16  # bytes that are read at once, if they are there
_LARGE = 0x7FFFFFFF  # bytes of a message; a longer one has another header


class SocketWire:
    """A connected Unix socket with the messages of `multiprocessing.connection.Connection`."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._unread = connected, bytearray()
        self._waiting = select.poll() if hasattr(select, "poll") else None  # `select` fails from file number 1024 on
        if self._waiting:
            self._waiting.register(connected, select.POLLIN)

    def send_bytes(self, data: bytes) -> None:
        """Send one message. Raises OSError."""
        n = len(data)
        header = struct.pack("!i", n) if n <= _LARGE else struct.pack("!iQ", -1, n)
        self._socket.sendall(header + data)

    def recv_bytes(self) -> bytes:
        """Wait for the next message. Raises EOFError at the end, OSError."""
        (n,) = struct.unpack("!i", self._read(4))
        if n == -1:
            (n,) = struct.unpack("!Q", self._read(8))
        return self._read(n)

    def _read(self, n: int) -> bytes:
        unread = self._unread
        while len(unread) < n:
            part = self._socket.recv(max(n - len(unread), _CHUNK))  # a message whole, with its header
            if not part:
                raise EOFError
            unread += part
        data = bytes(unread[:n])
        del unread[:n]
        return data

    def poll(self, timeout: float) -> bool:
        """Whether a message comes in these seconds, or the other side has ended. Raises OSError."""
        if self._unread:
            return True
        if self._waiting:
            return bool(self._waiting.poll(timeout * 1e3))
        return bool(select.select([self._socket], [], [], timeout)[0])

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        self._socket.close()


def connect(address: str) -> "Wire":
    """A connection to who listens there. Raises OSError."""
    if sys.platform == "win32":
        from multiprocessing.connection import Client  # named pipes

        return Client(address)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return SocketWire(connected)


def prove(wire: "Wire", secret: bytes, purpose: bytes, patience: float) -> None:
    """Show that this command knows the secret, say what it comes for, and see that the process knows it too.

    Raises ConnectionError if it does not, TimeoutError if it does not answer, EOFError or OSError when it has ended.
    """
    theirs, ours = _received(wire, patience), os.urandom(_NONCE)
    wire.send_bytes(ours + _proof(secret, b"command", theirs, ours, purpose) + purpose)
    if not hmac.compare_digest(_received(wire, patience), _proof(secret, b"process", theirs, ours, purpose)):
        raise ConnectionError("it does not know the secret")


def check(wire: "Wire", secret: bytes, patience: float) -> bytes:
    """What a command comes for, which knows the secret. Raises as `prove`."""
    ours = os.urandom(_NONCE)
    wire.send_bytes(ours)
    data = _received(wire, patience)
    theirs, proof, purpose = data[:_NONCE], data[_NONCE : _NONCE + _PROOF], data[_NONCE + _PROOF :]
    if not hmac.compare_digest(proof, _proof(secret, b"command", ours, theirs, purpose)):
        raise ConnectionError("it does not know the secret")
    wire.send_bytes(_proof(secret, b"process", ours, theirs, purpose))
    return purpose


def _received(wire: "Wire", patience: float) -> bytes:
    if not wire.poll(patience):  # it is stopped, or hangs
        raise TimeoutError("it does not answer")
    return wire.recv_bytes()


def _proof(secret: bytes, side: bytes, of_process: bytes, of_command: bytes, purpose: bytes) -> bytes:
    parts = b"".join(hashlib.sha256(part).digest() for part in (side, of_process, of_command, purpose))
    return hmac.digest(secret, parts, "sha256")
