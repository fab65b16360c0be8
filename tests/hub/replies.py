"""Requests to the test Hub, and the parts of its replies."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

OriginName = Literal["hub", "cdn", "other"]
Ending = Literal["", "reset", "close", "stall", "endless"]


@dataclass
class Request:
    """One line of the log; `status` and `sent` grow while the answer is on its way."""

    origin: OriginName
    method: str
    path: str  # without the query, unquoted
    query: str  # as it came
    headers: Mapping[str, str]  # names in lower case
    range: str | None
    parts: tuple[str, ...] = field(default=(), repr=False)  # the path between slashes, each unquoted
    body: bytes = field(default=b"", repr=False)
    status: int = 0  # 0 while, or where, no status line was sent
    sent: int = 0  # bytes of the body handed to the socket

    @property
    def params(self) -> dict[str, list[str]]:
        return parse_qs(self.query, keep_blank_values=True)

    @property
    def token(self) -> str | None:
        return self.headers["authorization"].removeprefix("Bearer ") if "authorization" in self.headers else None


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `end` of a source; the first of them stands at `position` of the file that is answered."""

    source: bytes | Path
    start: int
    end: int
    position: int


@dataclass(frozen=True)
class Stretch:
    """The part of a file that an answer is about to send."""

    source: bytes | Path
    size: int
    start: int
    end: int

    def until(self, at: int) -> Piece:
        return Piece(self.source, self.start, at, self.start)

    def since(self, at: int) -> Piece:
        return Piece(self.source, at, self.end, at)


@dataclass(frozen=True)
class Reply:
    """An answer; `body` is what is really sent, which faults may make differ from the headers."""

    status: int
    headers: dict[str, str]
    body: tuple[Piece, ...] = ()
    ending: Ending = ""  # what happens after the body, instead of waiting for the next request
    mute: bool = False  # not even the headers are sent
    stretch: Stretch | None = None
    about: tuple[str, ...] = ()  # the names under which a fault can mean this answer
    value: Any = None  # the JSON value, for faults that change it


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer that carries a JSON value."""
    data = json.dumps(value).encode()
    return bytes_reply(data, "application/json; charset=utf-8", status, headers, value)


def bytes_reply(
    data: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None, value: Any = None
) -> Reply:
    """An answer that carries these bytes."""
    stretch = Stretch(data, len(data), 0, len(data))
    about = {"Content-Type": kind, "Content-Length": str(len(data))}
    return Reply(status, about | dict(headers or {}), (stretch.since(0),), stretch=stretch, value=value)


def error_reply(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A refusal as the Hub words it: in the headers and as JSON."""
    extra = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return json_reply({"error": message}, status, extra | dict(headers or {}))


def file_reply(request: Request, source: bytes | Path, size: int, headers: Mapping[str, str]) -> Reply:
    """A file, or the range of it that was asked for: 200, 206 or 416."""
    fixed = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | dict(headers)
    wanted = _range_of(request, size, headers.get("ETag"))
    if wanted is None:
        stretch = Stretch(source, size, 0, size)
        return Reply(200, fixed | {"Content-Length": str(size)}, (stretch.since(0),), stretch=stretch)
    start, end = wanted
    if start >= end:
        return Reply(416, fixed | {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    fixed |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    stretch = Stretch(source, size, start, end)
    return Reply(206, fixed, (stretch.since(start),), stretch=stretch)


def _range_of(request: Request, size: int, etag: str | None) -> tuple[int, int] | None:
    """Start and end of the one range asked for; None where all is wanted or If-Range speaks of another content."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.range or "")
    if match is None or match.group() == "bytes=-" or request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
