"""Chunks that another thread than that of the event loop sends: none is lost, torn or out of order."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable

import pytest

from llmcli.server.direct_writer import DirectWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is not used there")
Test = Callable[[DirectWriter, asyncio.Transport, socket.socket], Awaitable[None]]


def connected(test: Test) -> None:
    """Run a test with the writer of a connection, its transport, and the socket of the client."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        writer = DirectWriter(transport, loop)
        try:
            await test(writer, transport, theirs)
        finally:
            writer.close()
            transport.abort()
            theirs.close()

    asyncio.run(run())


async def read(client: socket.socket, size: int) -> bytes:
    """So many bytes, read slowly enough that the loop writes meanwhile."""
    data = b""
    while len(data) < size:
        data += await asyncio.to_thread(client.recv, 2048)
    return data


def test_a_chunk_has_its_length_in_front() -> None:
    async def test(writer: DirectWriter, _transport: asyncio.Transport, client: socket.socket) -> None:
        assert await asyncio.to_thread(writer.write, b"data: a\n\n")
        assert await read(client, 14) == b"9\r\ndata: a\n\n\r\n"

    connected(test)


def test_what_a_slow_client_has_no_room_for_is_sent_by_the_loop_before_anything_else() -> None:
    async def test(writer: DirectWriter, transport: asyncio.Transport, client: socket.socket) -> None:
        large = b"x" * 300_000
        assert await asyncio.to_thread(writer.write, large)
        assert not await asyncio.to_thread(writer.write, b"later")  # the loop has the rest of the first one
        transport.write(b"5\r\nlater\r\n")
        expected = b"493e0\r\n" + large + b"\r\n5\r\nlater\r\n"
        assert await read(client, len(expected)) == expected
        assert await asyncio.to_thread(writer.write, b"on")  # nothing waits any more
        assert await read(client, 7) == b"2\r\non\r\n"

    connected(test)


@pytest.mark.parametrize("end", ["writer", "transport", "client"])
def test_nothing_is_written_after_the_end(end: str) -> None:
    async def test(writer: DirectWriter, transport: asyncio.Transport, client: socket.socket) -> None:
        ends = {"writer": writer.close, "transport": transport.close, "client": client.close}
        ends[end]()
        assert not await asyncio.to_thread(writer.write, b"late")

    connected(test)
