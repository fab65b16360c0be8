"""Servers for the tests: the real app on a real port, with an engine without a model or with the starter."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn.server

from llmcli.inference.engine import Engine
from llmcli.params.settings import Layer
from llmcli.server.app import make_app
from llmcli.server.guard import Access
from llmcli.server.http_server import ConnectionLimits, HttpServer
from llmcli.server.request_log import RequestRecord
from llmcli.server.served_model import ServedModel
from llmcli.server.service import ServerOptions, Service
from tests.inference.fake_engine import FakeEngine
from tests.waiting import wait_until

# uvicorn looks each 0.1 s whether it must end, and waits 0.1 s for connections: most of the time of these tests.
vars(uvicorn.server)["asyncio"] = SimpleNamespace(
    **vars(asyncio) | {"sleep": lambda seconds: asyncio.sleep(seconds / 20)}
)


@dataclass
class Reply:
    """A response that was read to its end."""

    code: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events; [DONE] stays a text."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass
class Client:
    """Sends requests to a server on this machine."""

    port: int
    service: Service
    server: HttpServer
    records: list[RequestRecord]  # of the requests that have ended
    thread: threading.Thread  # of the server

    def record(self) -> RequestRecord:
        """That of the last request, which ends a little later than its response."""

        async def last() -> RequestRecord:
            # In the loop, where nobody looks between the end of a request and its record.
            while self.service.running or not self.records:
                await asyncio.sleep(0.002)
            return self.records[-1]

        return asyncio.run_coroutine_threadsafe(last(), self.loop).result(60)

    def stop(self) -> None:
        """Begin to end it, as the handler of SIGTERM does."""
        self.loop.call_soon_threadsafe(self.server.stop)
        wait_until(lambda: self.service.is_stopping)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """In which the server runs."""
        assert self.server._loop
        return self.server._loop

    def post(self, path: str, data: object, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("POST", path, json.dumps(data).encode(), headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("GET", path, None, headers)

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None) -> Reply:
        connection, response = self.open(method, path, body, headers)
        reply = Reply(
            response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
        )
        connection.close()
        return reply

    def open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """A connection with a response that is not read yet."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        return connection, connection.getresponse()


class Held:
    """An answer for a `FakeEngine`: its first piece comes at once, the others when the test lets them."""

    def __init__(self, *pieces: str | BaseException) -> None:
        self._pieces = pieces
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[str | BaseException]:
        yield self._pieces[0]
        self.has_begun.set()
        assert self.may_go_on.wait(120)
        yield from self._pieces[1:]


ServerMaker = Callable[..., Client]


@contextmanager
def running_server(
    *engines: Engine,
    options: ServerOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    access: Access | None = None,
    limits: ConnectionLimits | None = None,
    **details: Any,
) -> Iterator[Client]:
    """A server of these engines in a thread, until the end of the block; `details` are those of the service."""
    options = options or ServerOptions(n_parallel=4, grace=1.0)
    layers = [Layer("flag", dict(settings or {}))]
    models = [ServedModel(one.name, one, layers, options.n_parallel, options.n_queued) for one in engines]
    service = Service(models, options, **details)
    records: list[RequestRecord] = []
    server = HttpServer(make_app(service, access, records.append), service, limits or ConnectionLimits())
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]

    async def run() -> None:
        await service.start()
        await server.serve([listener])

    thread = threading.Thread(target=asyncio.run, args=[run()], daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.005)
        assert thread.is_alive(), "the server has not started"
    try:
        yield Client(port, service, server, records, thread)
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def serve() -> Iterator[ServerMaker]:
    """Starts servers, which end with the test."""
    with ExitStack() as stack:

        def make(*engines: Engine, **details: Any) -> Client:
            engines = engines or (() if "entries" in details else (FakeEngine(),))
            return stack.enter_context(running_server(*engines, **details))

        yield make
