"""The server under the app: connections with limits, and its end in good order."""

import asyncio
import logging
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from llmcli.errors import LlmcliError
from llmcli.files import encode
from llmcli.server.direct_writer import offer_writer
from llmcli.server.errors import BusyError, RequestError, RequestTimeoutError, error_data, status_and_type
from llmcli.server.guard import HEAD_BYTES
from llmcli.server.service import Service

_SPARE_PIECES, _SMALL_PIECE = 1 << 12, 1 << 8  # pieces of a body beside those that have so many bytes each
_KEEP_ALIVE = 30  # seconds between two requests of a connection
_THREADS = 32  # that read requests
_END = 2.0  # seconds in which answers that are ended send their last event


@dataclass(frozen=True)
class ConnectionLimits:
    """What clients may take of the server."""

    most: int = 1024  # connections
    seconds: float = 30.0  # to send a request, and to read what is sent


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, limits: ConnectionLimits) -> None:
        # limit_concurrency counts silent connections, and refuses the others because of them: `Connection` does not.
        super().__init__(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level=logging.CRITICAL + 1,  # `RequestLog` has what happens
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=1,
        )
        self.limits = limits


class _Parser(h11.Connection):
    """h11 that refuses a body of very many small pieces: each takes as long as thousands of bytes in a large one."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self._n_pieces = self._n_bytes = 0  # of the body of this request

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._n_pieces += 1
            self._n_bytes += len(event.data)
            if self._n_pieces > _SPARE_PIECES + self._n_bytes // _SMALL_PIECE:
                raise h11.RemoteProtocolError("the pieces of the body are too small")
        elif isinstance(event, h11.Request):
            self._n_pieces = self._n_bytes = 0
        return event


class Connection(H11Protocol):
    """A connection that ends when its client is too slow: uvicorn waits forever for headers, bodies and readers."""

    def __init__(
        self,
        config: _Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Parser()
        self.app = self._call_app
        self._limits = config.limits
        self._opened_at = time.monotonic()
        self._reading: asyncio.TimerHandle | None = None  # until the request is complete
        self._writing: asyncio.TimerHandle | None = None  # until the client has read what was sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called for all that is not sent at once
        self._watch_request(has_begun=True)
        if len(self.connections) > self._limits.most:
            self._make_room()

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        offer_writer(scope, self.transport, self.loop)
        await self.config.loaded_app(scope, receive, send)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._reading)
        self._stop(self._writing)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request(has_begun=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_request(has_begun=False)  # the keep-alive timer runs

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._writing)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """uvicorn calls it for what is not HTTP, also in the middle of a body, where nothing more can be sent."""
        limit = f"{HEAD_BYTES >> 10} KiB"
        text = f"the request is not valid HTTP, its headers have more than {limit}, or its body has very small pieces"
        self._refuse(RequestError(text))

    def _watch_request(self, has_begun: bool) -> None:
        state = self.conn.their_state
        is_expected = state is h11.SEND_BODY or (state is h11.IDLE and has_begun)
        if not is_expected:
            self._stop(self._reading)
            self._reading = None
        elif not self._reading:
            self._reading = self.loop.call_later(self._limits.seconds, self._end_request)

    def _end_request(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(RequestTimeoutError(f"the body has not come within {self._limits.seconds:g} s"))
        else:
            self.transport.close()

    def _make_room(self) -> None:
        """Close the oldest connection for which nothing is computed; without one, this one."""
        idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle and one is not self]
        if idle:
            min(idle, key=lambda one: one._opened_at).transport.close()
        else:
            self._refuse(BusyError("too many connections"))

    @property
    def is_idle(self) -> bool:
        """Whether it has no complete request without its response."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _refuse(self, error: LlmcliError) -> None:
        """Send an error in place of the response of the app, where none has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            code, _ = status_and_type(error)
            body = encode(error_data(error))
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (
                h11.Response(status_code=code, headers=headers, reason=HTTPStatus(code).phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer:
            timer.cancel()


class HttpServer(uvicorn.Server):
    """Serves an app until SIGTERM or Ctrl-C: running requests may end within the grace, new ones get 503."""

    def __init__(self, app: ASGIApp, service: Service, limits: ConnectionLimits) -> None:
        super().__init__(_Config(app, limits))
        self.service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.is_interrupted = False  # it ends because of Ctrl-C

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on these sockets. Returns when it has ended in good order."""
        self._loop = asyncio.get_running_loop()
        # The usual number of threads is small: some requests whose schemas take long must not stop all others.
        executor = ThreadPoolExecutor(_THREADS, "request")
        self._loop.set_default_executor(executor)
        try:
            await super().serve(sockets)
        finally:
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # its client has not read all of it
            await asyncio.sleep(0)
            executor.shutdown(wait=False, cancel_futures=True)
            self._loop.set_default_executor(ThreadPoolExecutor(1))  # asyncio would wait for each thread

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of the signals: the first one ends the server in good order, a second Ctrl-C ends it at once."""
        self.is_interrupted |= sig == signal.SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._loop:
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Begin to end it."""
        self._stopping = self._stopping or asyncio.ensure_future(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        self.service.is_stopping = True
        await self._wait_for_requests(self.service.options.grace)
        self.service.end_answers()
        await self._wait_for_requests(_END)
        self.should_exit = True

    async def _wait_for_requests(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.service.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
