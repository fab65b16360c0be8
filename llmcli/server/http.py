"""What the routes share: the JSON of a body, a response to a client that may go, and streams of events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llmcli.errors import LlmcliError, UsageError
from llmcli.files import encode, json_fault
from llmcli.server.errors import anthropic_error_data, error_data, headers_of, status_and_type
from llmcli.server.request_log import current_record
from llmcli.text import did_you_mean

_T = TypeVar("_T")
_D = TypeVar("_D")
Values = dict[str, object]
# Other requests wait while the values of a body are read. A text is one value.
_MOST_VALUES, _MOST_FIELDS = 1 << 20, 1 << 10
_MOST_ITEMS = 1 << 13  # of a list: messages, documents; not tokens


class ClientGoneError(LlmcliError):
    """The client closed the connection: nobody reads an answer."""


async def read_body(request: Request) -> Values:
    """The JSON object of a body. Raises UsageError, or what `Guard` raises for a body that is too long."""
    data = await request.body()
    if data.count(b",") > _MOST_VALUES and _has_many_values(data):
        raise UsageError(f"the body has more than {_MOST_VALUES} values")
    import msgspec

    try:
        values = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not valid JSON: {json_fault(error)}") from None
    if not isinstance(values, dict):
        raise UsageError("the body must be a JSON object")
    if len(values) > _MOST_FIELDS:
        raise UsageError(f"the body has {len(values)} fields, and at most {_MOST_FIELDS} are possible")
    for key, value in values.items():
        is_long = isinstance(value, list) and len(value) > _MOST_ITEMS
        if is_long and any(isinstance(one, (str, dict)) for one in value):
            raise UsageError(f"{key[:40]} has {len(value)} items, and at most {_MOST_ITEMS} are possible")
    return values


def _has_many_values(data: bytes) -> bool:
    """Whether many commas stand outside of texts, or many texts are there; to decode it would take too long."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * _MOST_VALUES:
        return True
    return sum(part.count(b",") for part in bare.split(b'"')[::2]) > _MOST_VALUES


def take(values: Values, key: str, kind: type[_T], default: _D) -> _T | _D:
    """Remove a key and return its value; null counts as absent. Raises UsageError for a value of another type."""
    value = values.pop(key, None)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {bool: "true or false", int: "an integer", str: "a string", dict: "an object", list: "a list"}
        raise UsageError(f"{key} must be {names.get(kind, kind.__name__)}")
    return value


def refuse_unknown(body: Values, known: Iterable[str]) -> None:
    """Raise UsageError for a field that is left in a body, with the nearest of those that the route knows."""
    for key in body:
        raise UsageError(f"unknown field {key[:60]!r}", did_you_mean(key, known) or "remove it")


def is_tokens(value: object) -> bool:
    """Whether it is a list of tokens, which is not empty."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def json_response(data: Mapping[str, object] | Sequence[object], code: int = 200) -> Response:
    """A response with JSON data."""
    return Response(encode(data), code, media_type="application/json")


def error_response(error: LlmcliError, path: str = "") -> Response:
    """The response to an error, in OpenAI's form, or in Anthropic's under its paths; the log gets the error too."""
    if record := current_record():
        record.error = error
    code, _ = status_and_type(error)
    data = anthropic_error_data(error) if path.startswith("/v1/messages") else error_data(error)
    return Response(encode(data), code, headers_of(error), media_type="application/json")


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The result of some work, which is cancelled when the client closes the connection. Raises ClientGoneError."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGoneError("the client closed the connection")
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        with suppress(asyncio.CancelledError, LlmcliError):
            await doing


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def event_stream(events: AsyncIterator[bytes]) -> Response:
    """A response of server-sent events, which begins once there is a first one: an error before it has its status."""
    first = await anext(events, b"")

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    # nginx would hold the events back until it has some kilobytes of them.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks(), media_type="text/event-stream", headers=headers)


def event(data: Mapping[str, object], name: str = "") -> bytes:
    """One server-sent event with JSON data."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, encode(data).rstrip(b"\n"))


DONE = b"data: [DONE]\n\n"
