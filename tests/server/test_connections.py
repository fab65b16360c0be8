"""Clients that are slow, silent or many, and bytes that try to be two requests for two readers."""

import asyncio
import math
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection

import pytest

from llmcli.server.http_server import ConnectionLimits
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, Held, ServerMaker
from tests.waiting import wait_until

LIMITS = ConnectionLimits(seconds=50)
HOST = b"Host: localhost\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST

STREAM = b'Content-Length: 31\r\n\r\n{"prompt": "a", "stream": true}'


class Clock:
    """Lets time pass for the event loop of a server: a test need not wait for the limits of its connections.

    Limits that a test could wait for would be over too early whenever the machine is slow.
    """

    def __init__(self, client: Client) -> None:
        self._loop, self._ahead = client.loop, 0.0
        self._loop.time = lambda: time.monotonic() + self._ahead  # type: ignore[method-assign]

    def advance(self, seconds: float) -> None:
        """So many seconds pass after all that was sent before; returns when the loop has done what is due then."""
        self._let_it_turn()
        self._ahead += seconds
        self._let_it_turn()

    def _let_it_turn(self) -> None:
        for _ in range(2):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(60)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection ends soon after the last response."""
    monkeypatch.setattr("llmcli.server.http_server._KEEP_ALIVE", 0.1)


@contextmanager
def connected(client: Client) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.port), 60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each byte goes at once
        yield connection


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def replies(connection: socket.socket) -> list[bytes]:
    """The responses that come until the server closes the connection."""
    return received(connection).split(b"HTTP/1.1 ")[1:]


def drip(connection: socket.socket, data: bytes, clock: Clock) -> float:
    """Send a byte each second; returns the seconds until the server had closed the connection."""
    for seconds, byte in enumerate(data):
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return seconds
        clock.advance(1)
    return math.inf


def n_connections(client: Client) -> int:
    return len(client.server.server_state.connections)


def test_a_silent_connection_is_closed(serve: ServerMaker) -> None:
    client = serve(limits=LIMITS)
    clock = Clock(client)
    with connected(client) as connection:
        wait_until(lambda: n_connections(client))
        clock.advance(40)
        assert n_connections(client)
        clock.advance(10)
        assert received(connection) == b""


def test_headers_that_come_slowly_end_the_connection(serve: ServerMaker) -> None:
    client = serve(limits=LIMITS)
    clock = Clock(client)
    with connected(client) as connection:
        assert 40 < drip(connection, POST + b"a: b\r\n" * 500, clock) < 60
    with connected(client) as connection:  # after a first request, too
        connection.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert 40 < drip(connection, POST + b"a: b\r\n" * 500, clock) < 60


def test_a_body_that_comes_slowly_gets_408(serve: ServerMaker) -> None:
    client = serve(limits=LIMITS)
    clock = Clock(client)
    with connected(client) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
        wait_until(lambda: client.service.running)
        clock.advance(50)
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"the body has not come within 50 s"' in reply
    with connected(client) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        assert 40 < drip(connection, b"1\r\na\r\n" * 300, clock) < 60
    client.record()
    assert [one.status for one in client.records] == [499, 499], "the log has them"


def test_a_body_after_the_response_may_not_come_forever(serve: ServerMaker) -> None:
    client = serve(limits=LIMITS)
    with connected(client) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")
        assert 40 < drip(connection, b"a" * 1000, Clock(client)) < 60


def test_an_idle_connection_is_closed(serve: ServerMaker, brief: None) -> None:
    client = serve()
    with connected(client) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b'"ok"' in reply


def test_a_client_that_never_reads_ends_its_answer(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["x"], ["x" * 100_000] * 100_000, delay=0.001), limits=LIMITS)
    clock, (model,) = Clock(client), client.service.models
    with connected(client) as connection:
        connection.sendall(POST + STREAM)
        wait_until(lambda: client.service.running)

        def has_ended() -> bool:
            clock.advance(10)
            return bool(client.records)

        wait_until(has_ended)
        assert client.records[0].status == 499
        wait_until(lambda: not model.worker.n_running)
        assert client.records[0].n_generated < 100_000


def test_a_slow_reader_of_a_short_answer_is_not_cut(serve: ServerMaker) -> None:
    answer = Held(*["day "] * 20)
    client = serve(FakeEngine(["x"], answer), limits=LIMITS)
    clock = Clock(client)
    with connected(client) as connection:
        connection.sendall(POST + b"Connection: close\r\n" + STREAM)
        assert answer.has_begun.wait(60)
        clock.advance(1000)
        answer.may_go_on.set()
        client.record()
        clock.advance(1000)
        assert received(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_the_oldest_silent_connection_makes_room(serve: ServerMaker) -> None:
    client = serve(limits=ConnectionLimits(most=3))
    with connected(client) as first, connected(client) as second, connected(client) as third:
        third.sendall(POST)
        wait_until(lambda: n_connections(client) == 3)
        assert client.get("/health").code == 200
        assert received(first) == b""
        second.sendall(HIDDEN)
        third.sendall(LENGTH + b"\r\n" + CHAT)
        for other in (second, third):
            assert other.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_busy_connections_are_not_closed_for_new_ones(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["x"], ["x"] * 10_000, delay=0.005), limits=ConnectionLimits(most=2))
    streams = [client.open("POST", "/v1/completions", b'{"prompt": "a", "stream": true}') for _ in range(2)]
    reply = client.get("/health")
    assert (reply.code, reply.data["error"]["message"]) == (503, "too many connections")
    for connection, response in streams:
        assert response.read(10) == b'data: {"id'
        response.close()
        connection.close()


@pytest.mark.slow
def test_490_slow_connections_do_not_slow_down_ten_others(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Hello"] * 3), limits=ConnectionLimits(most=600, seconds=600))

    def send(_number: int) -> None:
        connection = HTTPConnection("127.0.0.1", client.port, timeout=60)
        for _ in range(10):
            connection.request("POST", "/v1/completions", b'{"prompt": "a"}')
            response = connection.getresponse()
            assert response.status == 200
            response.read()
        connection.close()

    def measure() -> float:
        """The time of the processor for 100 requests of ten clients: other programs hardly change it."""
        start = time.process_time()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(send, range(10)))
        return time.process_time() - start

    def ratio() -> float:
        """The time beside slow connections, by that without them."""
        alone = min(measure() for _ in range(6))
        with ExitStack() as stack:
            slow = [stack.enter_context(connected(client)) for _ in range(490)]
            for number, one in enumerate(slow):
                one.sendall([b"", POST[:30], POST + b"Content-Length: 100\r\n\r\n{"][number % 3])
            wait_until(lambda: n_connections(client) == 490)
            beside = min(measure() for _ in range(6))
            wait_until(lambda: n_connections(client) <= 490)
            assert n_connections(client) == 490, "none of them was closed meanwhile"
        wait_until(lambda: not n_connections(client))
        return beside / alone

    measure()
    # Where the slow ones cost something, they do each time; a machine that others use is slower now and then.
    assert any(ratio() < 1.3 for _ in range(5))


CHAT = b'{"prompt": "a", "max_tokens": 1}'
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)
HIDDEN = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def in_chunks(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n0\r\n\r\n" % (len(data), extension, data)


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
        POST + CHUNKED + LENGTH + b"\r\n" + in_chunks(CHAT) + HIDDEN,
        POST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"Content-Length: 0, 32\r\n\r\n" + CHAT,
        POST + b"Content-Length: +32\r\n\r\n" + CHAT,
        POST + b"Content-Length: 0x20\r\n\r\n" + CHAT,
        POST + b"Content-Length: -1\r\n\r\n" + CHAT,
        POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n" + CHAT,
        POST + b"Content-Length : 32\r\n\r\n" + CHAT,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + in_chunks(CHAT),
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + in_chunks(CHAT),
        POST + CHUNKED + CHUNKED + b"\r\n" + in_chunks(CHAT),
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + in_chunks(CHAT),
        POST + CHUNKED + b"\r\n-1\r\n" + CHAT + b"\r\n0\r\n\r\n",
        POST + CHUNKED + b"\r\n" + b"f" * 30 + b"\r\n" + CHAT + b"\r\n0\r\n\r\n",
        POST + CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n",
        POST + b": b\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"a\x00b: c\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"a: \x00\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"a: b\rc\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + HOST + LENGTH + b"\r\n" + CHAT,
        b"POST /v1/completions HTTP/1.1\r\n " + HOST + LENGTH + b"\r\n" + CHAT,
        b"POST /v1/completions HTTP/1.1\r\n" + LENGTH + b"\r\n" + CHAT,
        b"POST /v1/completions\r\n\r\n",
        b"POST /v1/comple tions HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_with_two_meanings_get_one_refusal(serve: ServerMaker, data: bytes) -> None:
    client = serve()
    with connected(client) as connection:
        connection.sendall(data)
        reply = received(connection)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.endswith(b"}\n")
    assert client.get("/health").code == 200
    client.record()
    assert [one.path for one in client.records].count("/health") == 1, "what was hidden is no request"


@pytest.mark.parametrize(
    "data",
    [
        POST + b"a: b\r\n  c\r\n" + LENGTH + b"\r\n" + CHAT,  # a header on two lines
        POST.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n") + b"\n" + CHAT,
        POST + LENGTH + LENGTH + b"\r\n" + CHAT,
        POST + CHUNKED + b"\r\n" + in_chunks(CHAT, b';a="b"'),
        POST + CHUNKED + b"\r\n" + in_chunks(CHAT)[:-2] + b"Content-Length: 5\r\n\r\n",  # a trailer
        POST + b"Content_Length: 5\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + LENGTH + b"\r\n" + CHAT,
        POST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + LENGTH + b"\r\n" + CHAT,
    ],
)
def test_bytes_with_one_meaning_are_one_request(serve: ServerMaker, brief: None, data: bytes) -> None:
    client = serve()
    with connected(client) as connection:
        connection.sendall(data)
        (reply,) = replies(connection)
    assert reply.startswith(b"200 ")
    assert len(client.records) == 1


def test_a_body_in_very_many_small_pieces_is_refused(serve: ServerMaker) -> None:
    """Each piece takes as long as thousands of bytes: 4 MB of them would hold the others for half a minute."""
    client, head = serve(), POST + CHUNKED + b"\r\n"
    for start in (head, head.replace(b"/v1/completions", b"/nowhere")):  # the rest of a body is read after a 404 too
        with connected(client) as connection:
            with suppress(OSError):
                connection.sendall(start + b"1\r\na\r\n" * 5000)
            assert b"its body has very small pieces" in received(connection) or b"nowhere" in start
        assert client.record().status in (404, 499)
    with connected(client) as connection:
        spaces = b"1\r\n \r\n" * 1000
        connection.sendall(head + spaces + in_chunks(CHAT))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_requests_in_a_row_are_answered_in_their_order(serve: ServerMaker, brief: None) -> None:
    client = serve()
    with connected(client) as connection:
        connection.sendall(POST + LENGTH + b"\r\n" + CHAT + HIDDEN + b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n")
        assert [reply[:3] for reply in replies(connection)] == [b"200", b"200", b"404"]


def test_what_is_not_http_in_a_body_ends_the_connection_quietly(
    serve: ServerMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    client = serve()
    with connected(client) as connection:  # the response came before the body
        connection.sendall(b"POST /nowhere HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"no chunk\r\n")
        assert b"HTTP" not in received(connection)
    client.record()
    assert capfd.readouterr().err == ""
