"""One origin of the test Hub: a socket on loopback, its connections, and how a reply is sent."""

import os
import select
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote

from tests.hub.replies import OriginName, Piece, Reply, Request

_PIECE = 1 << 18
_SEND_BUFFER = 1 << 16
_ENDLESS_LIMIT = 1 << 28  # enough to prove that a client reads without bound, and kind to the machine


class Control(Protocol):
    """What the origins share."""

    throttle: int | None
    hold_at: int | None
    hold_if: Callable[[], bool]
    log: list[Request]
    errors: list[BaseException]
    stopped: threading.Event


class GoneError(Exception):
    """The client went away, or the hub stops."""


class Origin(socketserver.ThreadingTCPServer):
    """A server that answers with what `answer` returns."""

    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, name: OriginName, host: str, control: Control, answer: Callable[[Request], Reply]) -> None:
        super().__init__((host, 0), _Handler)
        self.name, self.control, self.answer = name, control, answer
        self.port: int = self.server_address[1]
        self.connections: set[Any] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,))
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, end all connections, and wait until no thread is left."""
        self.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.name == "cdn":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the FIN before: a reset must be the first that the client hears

    def close_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (as the base class has it)
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.control.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def _serve(self) -> None:
        control = self.server.control
        raw, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(min(int(headers.get("content-length", "0")), 1 << 20))
        parts = tuple(unquote(part) for part in raw.strip("/").split("/"))
        request = Request(
            self.server.name, self.command, unquote(raw), query, headers, headers.get("range"), parts, body
        )
        control.log.append(request)
        try:
            _Sending(self.connection, control, request).send(self.server.answer(request))
        except (GoneError, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815 (the names that http.server calls)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (as the base class has it)
        """Nothing is printed: tests read the log of the hub."""


class _Sending:
    """One answer on its way over one connection."""

    def __init__(self, connection: socket.socket, control: Control, request: Request) -> None:
        self._socket, self._control, self._request = connection, control, request

    def send(self, reply: Reply) -> None:
        if not reply.mute:
            self._request.status = reply.status
            self._socket.sendall(_head(reply))
            for piece in reply.body if self._request.method != "HEAD" else ():
                self._send_piece(piece)
        if reply.ending == "endless":
            self._send_without_end()
        if reply.ending == "stall":
            self._wait_while(lambda: True)
        if reply.ending == "reset":
            _drain(self._socket)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if reply.ending:
            raise GoneError

    def _send_piece(self, piece: Piece) -> None:
        if isinstance(piece.source, bytes):
            view = memoryview(piece.source)
            self._send_by(piece, lambda start, count: self._socket.send(view[start : start + count]))
            return
        with piece.source.open("rb") as file:
            self._send_by(piece, lambda start, count: self._send_from(file, start, count))

    def _send_from(self, file: BinaryIO, start: int, count: int) -> int:
        if hasattr(os, "sendfile"):
            return os.sendfile(self._socket.fileno(), file.fileno(), start, count)
        file.seek(start)
        return self._socket.send(file.read(count))

    def _send_by(self, piece: Piece, send: Callable[[int, int], int]) -> None:
        start = piece.start
        while start < piece.end:
            count = min(piece.end - start, self._allowed(piece.position + start - piece.start))
            rate = self._control.throttle
            if rate is not None:
                count = min(count, max(1, rate // 20))
            count = send(start, count)
            if count == 0:
                raise EOFError(f"{piece.source!r} became shorter")
            start += count
            self._request.sent += count
            if rate is not None:
                self._control.stopped.wait(count / rate)

    def _allowed(self, position: int) -> int:
        """How many bytes may go out now; waits while the hub holds this position back."""
        if self._request.origin != "cdn":
            return _PIECE
        self._wait_while(
            lambda: self._control.hold_if() or ((hold := self._control.hold_at) is not None and position >= hold)
        )
        hold = self._control.hold_at
        return _PIECE if hold is None else max(1, min(_PIECE, hold - position))

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            readable = select.select([self._socket], [], [], 0.02)[0]
            if readable and not self._socket.recv(1, socket.MSG_PEEK):
                raise GoneError
            if self._control.stopped.wait(0.02 if readable else 0):
                raise GoneError

    def _send_without_end(self) -> None:
        chunk = b'{"id":"' + b"x" * (_PIECE - 10) + b'"},'
        framed = b"%x\r\n%s\r\n" % (len(chunk), chunk)
        while self._request.sent < _ENDLESS_LIMIT and not self._control.stopped.is_set():
            self._socket.sendall(framed)
            self._request.sent += len(chunk)


def _head(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _drain(connection: socket.socket) -> None:
    """Wait until the client's system has what was sent: a reset throws away what it has not."""
    if sys.platform == "win32":
        return
    import fcntl
    import termios

    poll = threading.Event()
    for _ in range(12_000):  # a client that is stopped takes nothing meanwhile
        spinner = fcntl.ioctl(connection, termios.TIOCOUTQ, struct.pack("i", 0))
        if struct.unpack("i", spinner)[0] == 0:
            return
        poll.wait(0.005)
