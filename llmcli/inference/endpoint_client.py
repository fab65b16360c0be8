"""HTTP to an endpoint: one connection that any thread can end, streams of server-sent events, retries, and a pool."""

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from llmcli import __version__
from llmcli.config.endpoints import Endpoint
from llmcli.engine.events import Cancellation
from llmcli.errors import NetworkError
from llmcli.inference.endpoint_errors import HINT, URL_HINT, error_of, is_page, raise_for_error, stated_errors
from llmcli.models.download.http import CONNECT_SECONDS, RetryPolicy, TransientError, new_client, same_origin

if TYPE_CHECKING:
    import httpx2

Json = Mapping[str, object]
T = TypeVar("T")
SILENCE_SECONDS = 600.0  # without a byte: a long prompt, a queue, or reasoning that is not sent, take their time
LOOK_SECONDS = 10.0  # for what a server says of itself
ATTEMPTS = 5
TICK = 0.02  # seconds; a Ctrl-C waits for the next one
MAX_LINE = 16 << 20  # bytes of one event
MAX_BODY = 64 << 20  # bytes of a whole answer
_MAX_ERROR = 64 << 10  # bytes of the text of an error
_MAX_REDIRECTS = 3


class Connection:
    """One connection, for one thread; `abort` can be called from any other one, and ends what it does at once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._client: httpx2.Client | None = None
        self._stream: object = None  # the newest one of the network
        self.aborted = threading.Event()
        self.is_done = False  # whether the last stream ended with the event for that

    def abort(self) -> None:
        """Close the connection, whether it waits for a retry, for the answer, or for its next token."""
        self.aborted.set()
        get = getattr(self._stream, "get_extra_info", None)
        found = get("socket") if get else None
        if isinstance(found, socket.socket):
            with suppress(OSError):  # the other side was faster
                found.shutdown(socket.SHUT_RDWR)  # a `close` would not wake a thread that is reading

    def close(self) -> None:
        """Free it; to be called by the thread that uses it."""
        if self._client:
            self._client.close()

    def get(self, url: str) -> object:
        """The JSON data at a URL. Raises TransientError, or LlmcliError, also for what is not JSON."""
        with self._open("GET", url, None, LOOK_SECONDS) as response:
            return self._json(self._body(response.iter_bytes()))

    def post(self, url: str, body: Json, seconds: float) -> object:
        """The JSON data that answers a body. Raises as `get`."""
        with self._open("POST", url, body, seconds) as response:
            return self._json(self._body(response.iter_bytes()))

    def events(self, url: str, body: Json) -> Generator[Json, None, None]:
        """The objects of a stream, or the only one of a server that does not stream, as they come; raises as `get`.

        A stream that ends without its last event ends here too: whoever reads knows whether the answer is complete.
        """
        self.is_done = False
        with self._open("POST", url, body, SILENCE_SECONDS) as response:
            lines = lines_of(response.iter_bytes(), self.endpoint.host)
            first = next(filter(None, lines), b"")  # it tells more than the content type, which some servers get wrong
            lines = chain([first], lines)
            if first and not _EVENT.match(first):
                yield self._object(self._json(self._body(line + b"\n" for line in lines)))
                return
            for data in event_data(lines, self.endpoint.host):
                if data == "[DONE]":
                    self.is_done = True
                    return
                yield self._object(self._json(data.encode("utf-8", "surrogatepass")))

    @contextmanager
    def _open(self, method: str, url: str, body: Json | None, seconds: float) -> Iterator["httpx2.Response"]:
        """The response to a request, if it is a success; only redirects of the server to itself are followed."""
        import httpx2

        first, limits = url, httpx2.Timeout(CONNECT_SECONDS, read=seconds)
        for _ in range(_MAX_REDIRECTS + 1):
            with stated_errors(self.endpoint):
                request = self._http().build_request(
                    method,
                    url,
                    headers=self._headers(),
                    content=None if body is None else json.dumps(body).encode(),
                    timeout=limits,
                    extensions={"trace": self._trace},
                )
                with closing(self._http().send(request, stream=True)) as response:
                    if response.next_request is None or response.status_code < 300:
                        self._raise_for_status(response)
                        yield response
                        return
                    target = str(response.next_request.url)
            shown = self.endpoint.quoted(target, 100)
            if not same_origin(first, target):
                raise NetworkError(
                    f"{self.endpoint.host} redirects to another server, {shown}",
                    "if you trust it, give its URL as the endpoint",
                )
            if response.status_code not in (307, 308) and method == "POST":
                raise NetworkError(f"{self.endpoint.host} redirects to {shown}", "correct the URL")
            url = target
        raise NetworkError(f"{self.endpoint.host} redirects too many times", "correct the URL")

    def _http(self) -> "httpx2.Client":
        if self._client is None:
            self._client = new_client(is_direct=self.endpoint.is_loopback)
        return self._client

    def _headers(self) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "user-agent": f"llmcli/{__version__}"}
        headers |= {"content-type": "application/json", "accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {})

    def _trace(self, event: str, details: Mapping[str, object]) -> None:
        """Keep the newest stream of the network, which httpx shows only when a response has come."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = details.get("return_value")
            if self.aborted.is_set():
                self.abort()

    def _body(self, pieces: Iterable[bytes]) -> bytes:
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) > MAX_BODY:
                raise NetworkError(f"{self.endpoint.host} sent more than {MAX_BODY >> 20} MiB", "check the URL")
        return bytes(data)

    def _json(self, data: bytes) -> object:
        """JSON, in which bytes that are not UTF-8 become U+FFFD."""
        text = data.decode("utf-8", "replace")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            host = self.endpoint.host
            if is_page(text):
                raise NetworkError(f"{host} answered with a web page in place of JSON", URL_HINT) from None
            shown = self.endpoint.quoted(text, 60)
            raise NetworkError(f"{host} sent what is not JSON: {shown!r}", URL_HINT) from None

    def _object(self, data: object) -> Json:
        if not isinstance(data, dict):
            raise NetworkError(f"{self.endpoint.host} sent JSON that is not an object", URL_HINT)
        return data

    def _raise_for_status(self, response: "httpx2.Response") -> None:
        status = response.status_code
        if response.is_success:
            return
        data = b""
        with suppress(TransientError):
            for piece in response.iter_bytes():
                data += piece
                if len(data) > _MAX_ERROR:
                    break
        raise_for_error(self.endpoint, status, error_of(data), response)


_EVENT = re.compile(rb"(\xef\xbb\xbf)?(data|event|id|retry)?\s*:")  # a line of server-sent events; JSON has none such


def lines_of(pieces: Iterable[bytes], host: str) -> Iterator[bytes]:
    """The lines of a stream without their ends: LF, CRLF or CR. Raises NetworkError for one that is too long."""
    held: list[bytes] = []
    size, after_cr = 0, False
    for piece in pieces:
        new = piece[1:] if after_cr and piece[:1] == b"\n" else piece
        after_cr = piece[-1:] == b"\r"
        *complete, rest = re.split(rb"\r\n|\r|\n", new)
        for one in complete:
            yield b"".join([*held, one])
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > MAX_LINE:
            raise NetworkError(f"{host} sent a line of more than {MAX_LINE >> 20} MiB", "check the URL")
    if size:
        yield b"".join(held)


def event_data(lines: Iterable[bytes], host: str) -> Iterator[str]:
    """The data of server-sent events. Comments and other fields are left out; bytes that are not UTF-8 become U+FFFD.

    A line of data that is a whole JSON value is an event also without the empty line that some servers omit. The end of
    the connection ends no event: half a JSON value is left out. Raises NetworkError for an event that is too long.
    """
    held: list[str] = []
    size = 0
    for line in lines:
        text = line.decode("utf-8", "replace").removeprefix("\ufeff")
        if not text:
            if held:
                yield "\n".join(held)
            held = []
            continue
        name, _, value = text.partition(":")
        if name != "data":
            continue
        if len(held) == 1 and _is_json(held[0]):
            yield held.pop()
        if value.strip() == "[DONE]":
            yield "[DONE]"
            return
        size = len(value) + 1 + (size if held else 0)
        if size > MAX_LINE:
            raise NetworkError(f"{host} sent an event of more than {MAX_LINE >> 20} MiB", "check the URL")
        held.append(value.removeprefix(" "))
    if _is_json("\n".join(held)):
        yield "\n".join(held)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def with_retries(
    connection: Connection, notify: Callable[[str], None], attempt: Callable[[], T], attempts: int = ATTEMPTS
) -> T:
    """What `attempt` returns, which is called again after transient errors. Raises NetworkError in the end."""
    retries = RetryPolicy(notify, attempts, connection.aborted, HINT)

    def once() -> T:
        if connection.aborted.is_set():
            raise KeyboardInterrupt
        return attempt()

    return retries.run(once)


def wait_for(
    run: Callable[[], T], connection: Connection, cancellation: Cancellation | None = None, seconds: float = math.inf
) -> T:
    """What `run` returns, in a thread of its own: nothing that the server does holds up the caller.

    Raises what `run` raises; KeyboardInterrupt when it is cancelled; TimeoutError after so many seconds.
    """
    found = list[T | BaseException]()

    def catch() -> None:
        try:
            found.append(run())
        except BaseException as error:
            found.append(error)

    thread, end = threading.Thread(target=catch, daemon=True), time.monotonic() + seconds
    thread.start()
    try:
        while thread.is_alive():
            thread.join(TICK)
            if cancellation and cancellation.is_set():
                raise KeyboardInterrupt
            if thread.is_alive() and time.monotonic() > end:
                raise TimeoutError
    except BaseException:
        connection.abort()
        raise
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return result


class ConnectionPool:
    """The connections to an endpoint: those that are not in use wait for the next request."""

    def __init__(self, endpoint: Endpoint, notify: Callable[[str], None], attempts: int = ATTEMPTS) -> None:
        """`notify` gets what the user should know while he waits; an answer is tried so many times."""
        self._endpoint, self.notify, self.attempts = endpoint, notify, attempts
        self.takes_options = True  # `stream_options`, as far as it is known
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def take(self) -> Connection:
        """A connection that is not in use; `release` gives it back."""
        with self._lock:
            return self._idle.pop() if self._idle else Connection(self._endpoint)

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request, unless it was ended."""
        if connection.aborted.is_set():
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)

    def post(
        self,
        url: str,
        body: Json,
        cancellation: Cancellation | None = None,
        seconds: float = SILENCE_SECONDS,
        attempts: int = ATTEMPTS,
    ) -> object:
        """The JSON data that answers a body, after so many attempts; a silence of so many seconds is a failure.

        Raises LlmcliError, and KeyboardInterrupt when it is cancelled.
        """
        connection = self.take()

        def run() -> object:
            try:
                return with_retries(connection, self.notify, lambda: connection.post(url, body, seconds), attempts)
            finally:
                self.release(connection)

        return wait_for(run, connection, cancellation)

    def close(self) -> None:
        """Close all that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()
