"""Faults on request: what a fault is, when it happens, and how it changes a reply."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from tests.hub.lies import with_commit, with_etag, with_paths
from tests.hub.replies import Ending, OriginName, Piece, Reply, Request, Stretch, bytes_reply, error_reply

_EXTRA = 1000
_BREAKS: tuple[Ending, ...] = ("reset", "close", "stall")
_BODIES = (*_BREAKS, "truncated", "extra", "corrupt")


@dataclass
class Fault:
    """One thing that goes wrong, with the first `times` answers that it fits; with all of them if that is None.

    `at` is a byte of the FILE: only an answer that would send this byte is hit. What breaks or bends a body does so
    there. What replaces a whole answer (`status:503`, `full`, `html`, ...) ends a body that begins before `at` there,
    and then strikes the next request for that byte. Negative: from the end. Without `at`, a break comes before the
    headers, and anything else hits whatever is asked. On the hub, `at` means nothing to an answer without a file.
    """

    kind: str
    at: int | None = None
    times: int | None = 1
    path: str | None = None  # a file, "owner/name", or "owner/name/file"
    origin: OriginName = "cdn"
    api: bool = False  # calls of the hub's API instead of its files
    method: str | None = None
    retry_after: int | None = None
    value: str | None = None  # what the lies say, where the redirect leads, which number a wrong range gets wrong
    body: bytes | None = None  # what `html` and `bad_json` say
    struck: int = 0  # how often it has
    ended: bool = False  # the body before `at` was ended

    def __post_init__(self) -> None:
        self.origin = "hub" if self.api else self.origin
        if self.kind.partition(":")[0] not in _CHANGES:
            raise ValueError(f"no such fault: {self.kind}")

    def fits(self, request: Request, reply: Reply) -> bool:
        """True if this request and its answer are meant."""
        return (
            (self.times is None or self.struck < self.times)
            and self.origin == request.origin
            and self.api == (request.origin == "hub" and request.parts[0] == "api")
            and self.method in (None, request.method)
            and (self.path is None or self.path in reply.about)
            and self._fits_body(request, reply)
        )

    def _fits_body(self, request: Request, reply: Reply) -> bool:
        stretch = reply.stretch if request.method == "GET" else None
        if self.at is None:
            return stretch is not None or self.kind not in ("truncated", "extra", "corrupt")
        if stretch is None:
            return self.origin == "hub" and self.kind not in _BODIES
        at = self.position(stretch)
        return stretch.start <= at < stretch.end or at == stretch.end == stretch.size

    def position(self, stretch: Stretch) -> int:
        """Where it strikes; without an order at the first byte, or at the end where that makes more sense."""
        if self.at is not None:
            return self.at if self.at >= 0 else stretch.size + self.at
        return {"truncated": stretch.end - 1, "extra": stretch.end}.get(self.kind, stretch.start)


def strike(faults: Sequence[Fault], request: Request, reply: Reply, other: str) -> Reply:
    """The answer after the first fault that makes it another one."""
    for fault in faults:
        if not fault.fits(request, reply):
            continue
        if _ends_before(fault, reply):
            fault.ended = True
            return _broken(replace(fault, kind="close"), reply)
        changed = _CHANGES[fault.kind.partition(":")[0]](fault, request, reply, other)
        if changed is not reply:
            fault.struck += 1
            return changed
    return reply


def _ends_before(fault: Fault, reply: Reply) -> bool:
    if fault.kind in _BODIES or fault.at is None or fault.ended or fault.origin != "cdn" or reply.stretch is None:
        return False
    return fault.position(reply.stretch) > reply.stretch.start


def _broken(fault: Fault, reply: Reply) -> Reply:
    ending = next(kind for kind in _BREAKS if kind == fault.kind)
    if fault.at is None or reply.stretch is None:
        return replace(reply, mute=True, ending=ending)
    return replace(reply, body=(reply.stretch.until(fault.position(reply.stretch)),), ending=ending)


def _bent(fault: Fault, reply: Reply) -> Reply:
    """A body that ends as its headers say, and is not that of the file."""
    stretch = reply.stretch
    assert stretch is not None
    at = fault.position(stretch)
    before, after = stretch.until(at), stretch.since(at)
    if fault.kind == "truncated":
        headers = reply.headers | {"Content-Length": str(at - stretch.start)}
        if reply.status == 206 and at > stretch.start:
            headers["Content-Range"] = f"bytes {stretch.start}-{at - 1}/{stretch.size}"
        return replace(reply, headers=headers, body=(before,))
    if fault.kind == "extra":
        headers = reply.headers | {"Content-Length": str(stretch.end - stretch.start + _EXTRA)}
        return replace(reply, headers=headers, body=(before, Piece(b"+" * _EXTRA, 0, _EXTRA, at), after))
    if at >= stretch.end:
        return reply
    return replace(reply, body=(before, Piece(_flipped(stretch, at), 0, 1, at), stretch.since(at + 1)))


def _flipped(stretch: Stretch, at: int) -> bytes:
    if isinstance(stretch.source, bytes):
        return bytes([stretch.source[at] ^ 0xFF])
    with stretch.source.open("rb") as file:
        file.seek(at)
        return bytes([file.read(1)[0] ^ 0xFF])


def _status(fault: Fault, reply: Reply) -> Reply:
    status = HTTPStatus(int(fault.kind.partition(":")[2]))
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    if status == 416 and reply.stretch is not None:
        headers["Content-Range"] = f"bytes */{reply.stretch.size}"
    return error_reply(status, None, status.phrase, headers)


def _full(reply: Reply) -> Reply:
    if reply.status != 206 or reply.stretch is None:
        return reply
    whole = Stretch(reply.stretch.source, reply.stretch.size, 0, reply.stretch.size)
    headers = {name: value for name, value in reply.headers.items() if name != "Content-Range"}
    headers["Content-Length"] = str(whole.size)
    return replace(reply, status=200, headers=headers, body=(whole.since(0),), stretch=whole)


def _wrong_range(fault: Fault, reply: Reply) -> Reply:
    if reply.status != 206 or reply.stretch is None:
        return reply
    start, end, size = reply.stretch.start, reply.stretch.end - 1, reply.stretch.size
    total, shift = (1, 0) if fault.value == "total" else (0, -1 if start else 1)
    said = f"bytes {start + shift}-{end + shift}/{size + total}"
    return replace(reply, headers=reply.headers | {"Content-Range": said})


def _redirect(fault: Fault, request: Request, reply: Reply, other: str) -> Reply:
    location = {"Location": fault.value or f"{other}{request.path}"}
    if "X-Repo-Commit" in reply.headers:  # what a hub says of a file stays, so that the client has reason to follow
        length = {"Content-Length": "0"}
        return replace(reply, status=302, headers=reply.headers | location | length, body=(), stretch=None)
    return bytes_reply(b"", "text/plain", 302, location)


def _html(fault: Fault) -> Reply:
    page = b"<!DOCTYPE html><html><title>Welcome to the hotel</title><p>Accept our conditions.</p></html>"
    return bytes_reply(page if fault.body is None else fault.body, "text/html; charset=utf-8")


def _bad_json(fault: Fault, reply: Reply) -> Reply:
    half = json.dumps(reply.value).encode()
    return bytes_reply(half[: len(half) // 2] if fault.body is None else fault.body, "application/json")


_ENDLESS = Reply(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, ending="endless")
_NO_ACCESS = "Access to this model is restricted and you are not in the authorized list."
_Change = Callable[[Fault, Request, Reply, str], Reply]
_CHANGES: dict[str, _Change] = {
    **dict.fromkeys(_BREAKS, lambda fault, _request, reply, _other: _broken(fault, reply)),
    "slow_headers": lambda _fault, _request, reply, _other: replace(reply, mute=True, ending="stall"),
    **dict.fromkeys(("truncated", "extra", "corrupt"), lambda fault, _request, reply, _other: _bent(fault, reply)),
    "status": lambda fault, _request, reply, _other: _status(fault, reply),
    "full": lambda _fault, _request, reply, _other: _full(reply),
    "wrong_range": lambda fault, _request, reply, _other: _wrong_range(fault, reply),
    "etag": lambda fault, _request, reply, _other: with_etag(reply, fault.value or "0123456789abcdef" * 4),
    "hostile_etag": lambda fault, _request, reply, _other: with_etag(reply, fault.value or "../../../../evil"),
    "hostile_commit": lambda fault, _request, reply, _other: with_commit(reply, fault.value or "../../x"),
    "hostile_path": lambda fault, _request, reply, _other: with_paths(reply, fault.value),
    "unauthorized": lambda *_: error_reply(401, None, "Invalid credentials in Authorization header"),
    "gated": lambda *_: error_reply(403, "GatedRepo", _NO_ACCESS),
    "redirect": _redirect,
    "html": lambda fault, _request, _reply, _other: _html(fault),
    "bad_json": lambda fault, _request, reply, _other: _bad_json(fault, reply),
    "huge_json": lambda *_: _ENDLESS,
}
