"""Sends a chunk of a response from the thread of the model, where the event loop is not needed for it.

To wake the event loop for each token takes a core from llama.cpp: 0.35 ms of the 8.5 ms of a token of the starter. The
chunks whose form needs nothing of the loop go to the socket at once; all others, and all of a slow client, go through
the loop.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.types import Scope

_EXTENSION = "llmcli.writer"  # in the scope of a request


class DirectWriter:
    """Writes to a connection from any thread, as long as its event loop has nothing to write there."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        # A descriptor of its own: the number of the other one may belong to another client by the time of a write.
        self._socket = transport.get_extra_info("socket").dup()
        self._lock = threading.Lock()
        self._is_closed = self._is_handing = False

    def write(self, data: bytes) -> bool:
        """Send a chunk; returns False where only the event loop can, which then must."""
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        with self._lock:
            if self._is_closed or self._is_handing or self._is_busy():
                return False
            try:
                n_sent = self._socket.send(chunk)
            except OSError:  # the client reads slowly, or has gone
                return False
            if n_sent < len(chunk):
                self._is_handing = True
                self._loop.call_soon_threadsafe(self._hand_over, chunk[n_sent:])
        return True

    def _is_busy(self) -> bool:
        try:
            return self._transport.is_closing() or self._transport.get_write_buffer_size() > 0
        except RuntimeError:  # the loop changes the buffer now
            return True

    def _hand_over(self, rest: bytes) -> None:
        self._transport.write(rest)
        self._is_handing = False

    def close(self) -> None:
        """Write no more. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._socket.close()


def offer_writer(scope: Scope, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Let the routes of a request open a writer, where its response comes in chunks."""
    if scope.get("http_version") == "1.1" and sys.platform != "win32":  # whose event loop has no sockets of its own
        scope["extensions"] = {_EXTENSION: lambda: DirectWriter(transport, loop)}


def open_writer(request: Request) -> DirectWriter | None:
    """A writer for the response to a request; None without one."""
    make: Callable[[], DirectWriter] | None = request.scope.get("extensions", {}).get(_EXTENSION)
    with suppress(OSError, AttributeError):  # the client has gone
        return make() if make else None
    return None
