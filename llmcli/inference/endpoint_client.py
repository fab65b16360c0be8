"""HTTP to an endpoint: one connection that any thread can end, errors in words, and streams of server-sent events."""

import json
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from llmcli import __version__
from llmcli.config.endpoints import API_KEY, Endpoint
from llmcli.engine.events import Cancellation
from llmcli.errors import (
    ContextOverflowError,
    LlmcliError,
    ModelNotFoundError,
    NetworkError,
    NotAllowedError,
    UsageError,
)
from llmcli.models.download.http import (
    CONNECT_SECONDS,
    RetryPolicy,
    TransientError,
    new_client,
    raise_if_transient,
    same_origin,
    transport_errors,
)
from llmcli.text import ellipsize

if TYPE_CHECKING:
    import httpx2

Json = Mapping[str, object]
SILENCE_SECONDS = 600.0  # without a byte: a long prompt, a queue, or reasoning that is not sent, take their time
LOOK_SECONDS = 10.0  # for what a server says of itself
ATTEMPTS = 5
TICK = 0.02  # seconds; a Ctrl-C waits for the next one
MAX_LINE = 16 << 20  # bytes of one event
_MAX_BODY = 64 << 20  # bytes of a whole answer
_MAX_ERROR = 64 << 10  # bytes of the text of an error
_MAX_REDIRECTS = 3
_HINT = "check that the server runs, or try again later"
_OVERFLOW = re.compile(
    r"context.{0,20}(length|size|window)|exceed.{0,40}context|too many tokens|too long", re.IGNORECASE
)


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
            return self._json(self._body(response, _MAX_BODY))

    def post(self, url: str, body: Json, seconds: float) -> object:
        """The JSON data that answers a body. Raises as `get`."""
        with self._open("POST", url, body, seconds) as response:
            return self._json(self._body(response, _MAX_BODY))

    def events(self, url: str, body: Json) -> Generator[Json, None, None]:
        """The objects of a stream, or the only one of a server that does not stream, as they come; raises as `get`.

        A stream that ends without its last event ends here too: whoever reads knows whether the answer is complete.
        """
        self.is_done = False
        with self._open("POST", url, body, SILENCE_SECONDS) as response:
            if "text/event-stream" not in response.headers.get("content-type", "text/event-stream"):
                yield self._object(self._json(self._body(response, _MAX_BODY)))
                return
            for data in event_data(lines_of(response.iter_bytes(), self.endpoint.host)):
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
            with _stated_errors(self.endpoint):
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
            if not same_origin(first, target):
                raise NetworkError(
                    f"{self.endpoint.host} redirects to another server, {ellipsize(target, 100)}",
                    "if you trust it, give its URL as the endpoint",
                )
            if response.status_code not in (307, 308) and method == "POST":
                raise NetworkError(f"{self.endpoint.host} redirects to {ellipsize(target, 100)}", "correct the URL")
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

    def _body(self, response: "httpx2.Response", most: int) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > most:
                raise NetworkError(f"{self.endpoint.host} sent more than {most >> 20} MiB", "check the URL")
        return bytes(data)

    def _json(self, data: bytes) -> object:
        """JSON, in which bytes that are not UTF-8 become U+FFFD."""
        text = data.decode("utf-8", "replace")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            host = self.endpoint.host
            if re.match(r"\s*<(!doctype|html|head|\?xml)", text, re.IGNORECASE):
                raise NetworkError(f"{host} answered with a web page in place of JSON", _URL_HINT) from None
            raise NetworkError(f"{host} sent what is not JSON: {ellipsize(text, 60)!r}", _URL_HINT) from None

    def _object(self, data: object) -> Json:
        if not isinstance(data, dict):
            raise NetworkError(f"{self.endpoint.host} sent JSON that is not an object", _URL_HINT)
        return data

    def _raise_for_status(self, response: "httpx2.Response") -> None:
        status = response.status_code
        if status == 200:
            return
        data = b""
        with suppress(TransientError):
            for piece in response.iter_bytes():
                data += piece
                if len(data) > _MAX_ERROR:
                    break
        raise_for_error(self.endpoint, status, error_of(data), response)


_URL_HINT = "check the URL: it ends before /chat/completions, as in https://HOST/v1"


@contextmanager
def _stated_errors(endpoint: Endpoint) -> Iterator[None]:
    """The errors of the connection, those that another try cannot mend as NetworkError."""
    try:
        with transport_errors(endpoint.host):
            yield
    except TransientError as error:
        text = str(error)
        if "CERTIFICATE" in text:
            hint = "SSL_CERT_FILE can name a file with the certificate of its issuer"
            raise NetworkError(f"{endpoint.host} has a certificate that is not valid: {_inner(text)}", hint) from None
        if "SSL" in text or "TLS" in text:
            raise NetworkError(f"{endpoint.host} does not speak https: {_inner(text)}", "try http://") from None
        if re.search(r"illegal|malformed|unsupported HTTP", text, re.IGNORECASE):
            raise NetworkError(f"{endpoint.host} does not speak HTTP: {_inner(text)}", "check the port") from None
        raise


def _inner(text: str) -> str:
    """What stands in the last parentheses of a text."""
    return text.partition("(")[2].removesuffix(")") or text


def error_of(data: object) -> Json:
    """The error in a body or an event: a dict with `message`, and what else the server says; empty if there is none."""
    if isinstance(data, bytes):
        try:
            data = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return {}
    if not isinstance(data, dict):
        return {}
    error = data.get("error", data.get("detail", data if "message" in data else None))
    if isinstance(error, list) and error and isinstance(error[0], dict):  # FastAPI
        error = {"message": f"{error[0].get('msg')}: {error[0].get('loc')}"}
    if isinstance(error, str):
        error = {"message": error}
    return error if isinstance(error, dict) else {}


def raise_for_error(endpoint: Endpoint, status: int, error: Json, response: "httpx2.Response | None" = None) -> None:
    """Raise what an error of the server means: TransientError where another try may succeed, else LlmcliError."""
    host, code = endpoint.host, f"{error.get('code') or ''} {error.get('type') or ''}"
    text = ellipsize(" ".join(str(error.get("message") or "").split()), 300)
    if endpoint.key:
        text = text.replace(endpoint.key, "[key]")
    said = f": {text}" if text else f" (status {status})"
    if status == 401:  # its text may contain the key
        if not endpoint.key:
            hint = f"put it into {API_KEY}, or into a file that a profile names as api_key_file"
            raise NotAllowedError(f"{host} needs a key", hint)
        raise NotAllowedError(f"{host} refused the key from {endpoint.key_source}", "check the key and the URL")
    if status in (402, 403) or "insufficient_quota" in code:
        raise NotAllowedError(f"{host} denies access{said}", "see the account of the key")
    if status in (400, 413, 422) or "exceed_context" in code or "context_length" in code:
        if "context" in code or _OVERFLOW.search(text):
            raise ContextOverflowError(f"the prompt does not fit the context of {host}{said}", "shorten the prompt")
        about = f"see what it supports: llmcli doctor {endpoint.option}"
        raise UsageError(f"{host} refused the request{said}", about)
    if status == 404:
        if "model" in text.lower() or "model" in code:
            names = f"see its models: llmcli models list {endpoint.option}"
            raise ModelNotFoundError(f"{host} does not have the model{said}", names)
        raise NetworkError(f"{host} has no such address{said}", _URL_HINT)
    if response is not None:
        try:
            raise_if_transient(response)
        except TransientError as transient:
            raise TransientError(str(transient) + (f": {text}" if text else ""), transient.retry_after) from None
    if 300 <= status < 400:
        raise NetworkError(f"{host} redirects to nowhere (status {status})", _URL_HINT)
    raise NetworkError(f"{host} reports an error{said}", _HINT)


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


def event_data(lines: Iterable[bytes]) -> Iterator[str]:
    """The data of server-sent events. Comments and other fields are left out; bytes that are not UTF-8 become U+FFFD.

    An event whose data is a whole JSON value also ends before the next line of data: some servers omit the empty line.
    """
    held: list[str] = []
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
        if held and _is_json("\n".join(held)):
            yield "\n".join(held)
            held = []
        if value.strip() == "[DONE]":
            yield "[DONE]"
            return
        held.append(value.removeprefix(" "))
    if held:
        yield "\n".join(held)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def with_retries(
    connection: Connection, notify: Callable[[str], None], attempt: Callable[[], object], attempts: int = ATTEMPTS
) -> object:
    """What `attempt` returns, which is called again after transient errors. Raises NetworkError in the end."""
    retries = RetryPolicy(notify, attempts, connection.aborted, _HINT)

    def once() -> object:
        if connection.aborted.is_set():
            raise KeyboardInterrupt
        return attempt()

    return retries.run(once)


class ConnectionPool:
    """The connections to an endpoint: those that are not in use wait for the next request."""

    def __init__(self, endpoint: Endpoint, notify: Callable[[str], None]) -> None:
        """`notify` gets what the user should know while he waits."""
        self._endpoint, self.notify = endpoint, notify
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
        self, url: str, body: Json, cancellation: Cancellation | None = None, seconds: float = SILENCE_SECONDS
    ) -> object:
        """The JSON data that answers a body, with retries; a silence of so many seconds is a failure.

        Raises LlmcliError, and KeyboardInterrupt when it is cancelled.
        """
        connection, found = self.take(), list[object]()

        def run() -> None:
            try:
                found.append(with_retries(connection, self.notify, lambda: connection.post(url, body, seconds)))
            except BaseException as error:  # raised in the thread that waits
                found.append(error)
            self.release(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(TICK)
            if cancellation and cancellation.is_set():
                connection.abort()
                raise KeyboardInterrupt
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def close(self) -> None:
        """Close all that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()


def as_network_error(error: TransientError) -> LlmcliError:
    """The error for a connection that failed in the middle of an answer, which cannot be asked for again."""
    return NetworkError(f"{error}; the answer is not complete", _HINT)
