"""One connection to a loaded model, over a wire whose messages all come at once."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from threading import Thread
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmcli.engine.events import Prompt, Request, TemperatureShift, TokenChunk, TokenEvent
from llmcli.inference import engine_messages as messages
from llmcli.inference.engine import RequestSource
from llmcli.inference.engine_session import Session
from llmcli.inference.host_connection import HostConnection
from llmcli.params.settings import Settings


class Wire:
    """Messages that were sent before anybody read one."""

    def __init__(self, *sent: messages.Message) -> None:
        self._sent, self.replies = SimpleQueue[bytes](), SimpleQueue[messages.Message]()
        for one in sent:
            self.put(one)

    def put(self, message: messages.Message) -> None:
        self._sent.put(messages._ENCODER.encode(message))

    def end(self) -> None:
        self._sent.put(b"")

    def recv_bytes(self) -> bytes:
        if not (data := self._sent.get()):
            raise EOFError
        return data

    def send_bytes(self, data: bytes, /) -> None:
        self.replies.put(messages._DECODER.decode(data))

    def poll(self, _timeout: float, /) -> bool:
        return True

    def close(self) -> None:
        """Nothing to free."""


class NoAnswers:
    """An engine that keeps the requests it gets."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ended: dict[int, str] = {}  # why each that was cancelled has ended, before the connection ends

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        self.requests += requests
        yield from ()

    def generate_batch(self, source: RequestSource, _n_parallel: int) -> Generator[TokenEvent, None, None]:
        while request := source(True):
            self.requests.append(request)
        yield from ()


class FakeSession:
    """A session with that engine."""

    def __init__(self) -> None:
        self.engine, self.used = NoAnswers(), SimpleNamespace(notes=[])

    def working(self, _caller: object) -> AbstractContextManager[None]:
        return nullcontext()


def answered(wire: Wire) -> tuple[NoAnswers, list[messages.Message]]:
    """The engine after the call on a wire, and the replies up to its result."""
    session, host = FakeSession(), cast(Any, SimpleNamespace(leave=lambda _session: None))
    connection = HostConnection(host, wire)
    connection._session = cast(Session, session)
    thread = Thread(target=connection.serve, daemon=True)
    thread.start()
    replies = [wire.replies.get(timeout=20)]
    while "done" not in replies[-1]:
        replies.append(wire.replies.get(timeout=20))
    wire.put({"cancel": None, "reason": "the last message"})
    while not connection._cancellation.is_set():
        sleep(0.01)
    requests = enumerate(session.engine.requests)
    session.engine.ended = {n: one.cancellation.reason for n, one in requests if one.cancellation.is_set()}
    wire.end()
    thread.join()
    return session.engine, replies


def request_data(n_tokens: int = 2000) -> messages.Message:
    prompt = Prompt("x", (TokenChunk([7] * n_tokens),), request="x")
    return messages.request_data(Request(prompt, Settings(), live_shift=TemperatureShift()))


@pytest.mark.parametrize("index", [0, 63])
def test_a_cancellation_that_comes_before_its_request_is_read_ends_that_request_only(index: int) -> None:
    call = {"call": "generate", "arguments": [[request_data()] * 64]}
    engine, replies = answered(Wire(call, {"cancel": index, "reason": "timeout"}, {"shift": 5, "by": 0.5}))
    assert replies == [{"done": True, "result": None, "notes": []}]
    assert engine.ended == {index: "timeout"}
    assert [one.live_shift.shift for one in engine.requests if one.live_shift][4:7] == [0.0, 0.5, 0.0]


def test_the_same_holds_for_the_requests_of_a_batch() -> None:
    wire = Wire({"call": "generate_batch", "arguments": [[], 1]})
    for index in range(3):
        wire.put({"request": request_data()})
        wire.put({"cancel": index, "reason": f"reason {index}"})
    wire.put({"request": None})
    engine, replies = answered(wire)
    assert engine.ended == {0: "reason 0", 1: "reason 1", 2: "reason 2"}
    assert [*replies[-1]] == ["done", "result", "notes"]


def test_a_request_with_settings_that_are_not_valid_is_an_error_of_the_call() -> None:
    data = request_data()
    data["settings"]["values"]["top_k"] = "many"
    wire = Wire({"call": "generate_batch", "arguments": [[], 1]}, {"request": data})
    _, replies = answered(wire)
    assert replies[-1]["error"]["class"] == "UsageError"
    assert "top_k" in replies[-1]["error"]["message"]


def test_whoever_leaves_before_the_requests_are_read_gets_no_answer() -> None:
    call = {"call": "generate", "arguments": [[request_data()] * 64]}
    engine, _ = answered(Wire(call, {"leave": True}))
    assert engine.ended.keys() == set(range(64))
