"""What a request must be before a route gets it: its host, its origin, its key, its size."""

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmcli.server.errors import (
    BusyError,
    ForbiddenError,
    HeadersTooLargeError,
    KeyMissingError,
    RequestError,
    TooLargeError,
)
from llmcli.server.http import error_response
from llmcli.server.keys import Keys
from llmcli.server.request_log import current_record
from llmcli.server.service import Service

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
ANY, ANY_ADDRESS = "*", "#"  # in `Access.hosts`
OPEN_PATHS = frozenset(("/", "/health", "/v1/health"))  # they need no key, and say nothing of what it does
HEAD_BYTES = 64 << 10  # of all headers together
_MOST_HEADERS = 128
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:\d{1,5})?")
_LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_METHODS = "GET, POST, DELETE, OPTIONS"
_CLOSE = {"Connection": "close"}
# In llama-server's words, which its own tests compare.
_CORS = {"Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "x-request-id, retry-after"}
_PREFLIGHT = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Allow-Headers": "*"}
_PREFLIGHT |= {"Access-Control-Max-Age": "600"}


@dataclass(frozen=True)
class Access:
    """Who may use a server, and from where."""

    keys: Keys | None = None
    # The names in Host that are answered; ANY is every name, ANY_ADDRESS every number.
    hosts: frozenset[str] = LOOPBACK_NAMES
    origins: frozenset[str] = frozenset()  # of other web pages: ANY, "localhost" for those of this machine, or URLs
    max_body: int = 16 << 20  # bytes

    def allows_host(self, host: str) -> bool:
        """Whether the value of Host is a name of this server."""
        found = _HOST.fullmatch(host)
        name = found[1].lower().rstrip(".") if found else ""
        return ANY in self.hosts or name in self.hosts or (ANY_ADDRESS in self.hosts and _is_address(name))

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of another origin may read the answers of this server."""
        is_local = "localhost" in self.origins and _LOCAL_ORIGIN.fullmatch(origin)
        return ANY in self.origins or origin in self.origins or bool(is_local)


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name.strip("[]")))
    return False


class Guard:
    """Refuses requests that no route may get, and tells browsers which other pages may send some (CORS)."""

    def __init__(self, app: ASGIApp, service: Service, access: Access) -> None:
        self._app, self._service, self._access = app, service, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, is_preflight = Headers(scope=scope), scope["method"] == "OPTIONS"
        origin = headers.get("origin", "")
        if origin and self._access.allows_origin(origin):
            send = _with_cors(send, origin, headers if is_preflight else None)
        response: ASGIApp
        try:
            self._check_form(headers, scope["http_version"])
            self._check_host(headers)
            if is_preflight:  # it has no key, and does nothing
                response = Response(headers={"Allow": _METHODS})
            else:
                self._check_origin(headers, scope["path"])
                self._check_key(headers, scope["path"])
                self._check_state(headers)
                response, receive = self._app, self._limited(receive)
        except RequestError as error:
            response = error_response(error, scope["path"])
        await response(scope, receive, send)

    def _check_form(self, headers: Headers, version: str) -> None:
        if version not in ("1.0", "1.1"):
            raise RequestError(f"HTTP/{version} is not supported", "use HTTP/1.1", headers=_CLOSE)
        if len(headers.raw) > _MOST_HEADERS:
            raise HeadersTooLargeError(f"the request has more than {_MOST_HEADERS} headers")
        if sum(len(name) + len(value) for name, value in headers.raw) > HEAD_BYTES:  # that came in one piece
            raise HeadersTooLargeError(f"the headers have more than {HEAD_BYTES >> 10} KiB")
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy that believes the other one of the two sees other requests than this server.
            raise RequestError("Content-Length and Transfer-Encoding exclude each other", headers=_CLOSE)

    def _check_host(self, headers: Headers) -> None:
        """A web page must not reach the server under a name of its own, which then points here (DNS rebinding)."""
        host = headers.get("host", "")
        if host and not self._access.allows_host(host):  # no browser leaves it out
            raise ForbiddenError(f"the host {host[:80]!r} is not allowed", "name it: llmcli serve --allowed-host NAME")

    def _check_origin(self, headers: Headers, path: str) -> None:
        """A web page of another origin must not use the server: browsers send simple requests without asking."""
        origin = headers.get("origin", "")
        host = headers.get("host", "").lower()
        is_same = bool(host) and origin.partition("://")[2].lower() == host
        if origin and not is_same and not self._access.allows_origin(origin):
            hint = "name it: llmcli serve --cors-origin ORIGIN"
            raise ForbiddenError(f"the origin {origin[:80]!r} is not allowed", hint)
        # An image of another page has no origin, and could let the server load a model.
        if not origin and path not in OPEN_PATHS and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ForbiddenError("a page of another origin may not load this", "open the address itself")

    def _check_key(self, headers: Headers, path: str) -> None:
        keys = self._access.keys
        if not keys or path in OPEN_PATHS:
            return
        key = next(filter(None, [keys.find(text) for text in _key_texts(headers)]), None)
        if not key:
            hint = "send the header Authorization: Bearer KEY"
            raise KeyMissingError("the request has no valid key", hint, headers={"WWW-Authenticate": "Bearer"})
        record = current_record()
        if record:
            record.key = key

    def _check_state(self, headers: Headers) -> None:
        if self._service.is_stopping:
            raise BusyError("the server is shutting down", headers=_CLOSE)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._access.max_body:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body has more than {self._access.max_body >> 20} MiB")

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that raises TooLargeError for a body that becomes too long."""
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._access.max_body:
                raise self._too_large()
            return message

        return limited


def _key_texts(headers: Headers) -> Iterator[str]:
    """The keys that a request has: in OpenAI's header, and in Anthropic's."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        yield text.strip()
    if text := headers.get("x-api-key", "").strip():
        yield text


def _with_cors(send: Send, origin: str, preflight: Headers | None) -> Send:
    """`send` with the headers that let a page of this origin read the response, or send the request it asks for."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin", **_CORS})
            if preflight is not None:
                headers.update(_PREFLIGHT)
                if "access-control-request-private-network" in preflight:
                    headers["Access-Control-Allow-Private-Network"] = "true"
        await send(message)

    return named
