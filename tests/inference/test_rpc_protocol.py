"""RPC servers are asked over a plain socket: each fault is one clear error, in time."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from unittest.mock import Mock

import pytest

from llmcli.inference import rpc_protocol
from llmcli.inference.rpc_protocol import RpcServerError, ask_server

Serve = Callable[[socket.socket], None]
HELLO = struct.pack("<QBBBB24x", 28, 7, 0, 0, 0)
COUNT = struct.pack("<QI", 4, 1)
MEMORY = struct.pack("<QQQ", 16, 5, 8)


@contextmanager
def served(serve: Serve) -> Iterator[int]:
    """The port of a server for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connected, _ = listener.accept()
            with connected:
                serve(connected)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


def replies(*answers: bytes) -> Serve:
    """Read a command, write an answer, and so on."""

    def serve(connected: socket.socket) -> None:
        for answer in answers:
            connected.recv(100)
            connected.sendall(answer)
        connected.recv(100)

    return serve


def silent(connected: socket.socket) -> None:
    connected.settimeout(60)
    while connected.recv(100):
        pass


def ask(port: int, seconds: float = 10.0, name: str = "tower") -> RpcServerError:
    with pytest.raises(RpcServerError) as caught:
        ask_server(name, "127.0.0.1", port, seconds)
    assert caught.value.hint
    assert caught.value.status == 5
    return caught.value


def test_a_server_tells_the_memory_of_its_devices() -> None:
    two = struct.pack("<QI", 4, 2)
    with served(replies(HELLO, two, MEMORY, struct.pack("<QQQ", 16, 1, 2))) as port:
        server = ask_server("tower", "localhost", port, 10.0)
    assert server.address == f"127.0.0.1:{port}"
    assert [(one.free, one.total) for one in server.devices] == [(5, 8), (1, 2)]
    assert server.memory_free == 6


def test_a_closed_port_is_an_error_at_once() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        errors = [ask(port, name=name) for name in ("tower", f"tower:{port}")]
    assert "tower is not reached: " in str(errors[0])
    assert "refused" in str(errors[0])  # in the words of the system
    options = ("", f" --port {port}")  # the first one is reached through a tunnel
    assert [one.hint for one in errors] == [f"start it there with `llmcli rpc serve{text}`" for text in options]


def test_a_server_whose_queue_is_full_may_be_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", Mock(side_effect=TimeoutError))
    assert "end other clients that wait for it" in ask(50052).hint


def test_a_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(RpcServerError, match="cannot find the host of the RPC server tower"):
        ask_server("tower", "nobody.invalid", 50052, 10.0)
    with pytest.raises(RpcServerError, match="tower: it is not a valid name"):
        ask_server("tower", "a" * 64 + ".invalid", 50052, 10.0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "tower is an HTTP server"),
        ([b"220 mail.example ESMTP\r\n"], "tower is not an RPC server of llama.cpp (it says '220 mail')"),
        ([struct.pack("<QBBBB24x", 28, 8, 1, 0, 0)], "has version 8.1 of the protocol, and this llama.cpp has 7.0"),
        ([struct.pack("<QBBBB24x", 28, 7, 3, 0, 0)], "has version 7.3 of the protocol"),
        ([b""], "it has an older protocol, or is another program"),
        ([HELLO, b""], "sent a wrong answer"),
        ([HELLO, struct.pack("<QI", 4, 0)], "has 0 devices"),
        ([HELLO, struct.pack("<QI", 4, 10**6)], "has 1000000 devices"),
        ([HELLO, COUNT, struct.pack("<QQQ", 16, 9, 8)], "tells a wrong size of memory"),
        ([HELLO, COUNT, struct.pack("<QQQ", 16, 2**63, 2**63)], "tells a wrong size of memory"),
    ],
    ids=["http", "mail", "major", "minor", "older", "cut", "none", "many", "free", "huge"],
)
def test_another_program_is_told_apart(answers: list[bytes], message: str) -> None:
    def serve(connected: socket.socket) -> None:
        for answer in answers:
            connected.recv(100)
            connected.sendall(answer)

    with served(serve) as port:
        assert message in str(ask(port))


def test_a_connection_that_is_reset_is_an_error() -> None:
    def reset(connected: socket.socket) -> None:
        connected.recv(1)  # the rest of the command is not read
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with served(reset) as port:
        assert "tower ended the connection" in str(ask(port))


@pytest.mark.parametrize("answers", [[], [HELLO], [HELLO[:5]]], ids=["silent", "later", "half"])
def test_a_server_that_does_not_answer_ends_in_time(answers: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_protocol, "_resolve", lambda *_given: "127.0.0.1")  # which may take some of the time
    begin = monotonic()

    def serve(connected: socket.socket) -> None:
        for answer in answers:
            connected.recv(100)
            connected.sendall(answer)
        silent(connected)

    with served(serve) as port:
        error = ask(port, seconds=0.3)
    assert monotonic() - begin > 0.25
    assert "does not answer" in str(error) or "has stopped answering" in str(error)
