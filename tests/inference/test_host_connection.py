"""One connection to a loaded model, over a wire whose messages all come at once."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from threading import Thread
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmcli.engine.events import GenerationRecord, Prompt, Request, TemperatureShift, TokenChunk, TokenEvent
from llmcli.inference import engine_messages as messages
from llmcli.inference.engine import RequestSource
from llmcli.inference.engine_session import Session
from llmcli.inference.host_connection import HostConnection
from llmcli.params.settings import Settings
from tests.waiting import wait_until


class Wire:
    """Messages that were sent before anybody read one."""

    def __init__(self, *sent: messages.Message) -> None:
        self._sent, self.replies = SimpleQueue[bytes](), SimpleQueue[messages.Message]()
        self._n_sent, self._n_wanted = 0, 0
        for one in sent:
            self.put(one)

    def put(self, message: messages.Message) -> None:
        self._n_sent += 1
        self._sent.put(messages._ENCODER.encode(message))

    def is_read(self) -> bool:
        """Whether all that was sent is done: its reader waits for more."""
        return self._n_wanted > self._n_sent

    def end(self) -> None:
        self._sent.put(b"")

    def recv_bytes(self) -> bytes:
        self._n_wanted += 1
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
    """An engine that keeps the requests it gets. Of three, it ends the answers to some, and waits for the second."""

    def __init__(self, n_ended: int) -> None:
        self.requests, self.n_ended = list[Request](), n_ended
        self.ended: dict[int, str] = {}  # why each that was cancelled has ended, before the connection ends
        self.n_unwanted = 0  # times that nobody wanted any more what is computed, before that

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        self.requests += requests
        for index in [0, 2][: self.n_ended]:
            yield TokenEvent("", None, "stop", GenerationRecord(tokens=[*requests[index].prompt.tokens]), index)
        while self.n_ended and not requests[1].cancellation.is_set():
            sleep(0.01)

    def generate_batch(self, source: RequestSource, _n_parallel: int) -> Generator[TokenEvent, None, None]:
        while request := source(True):
            self.requests.append(request)
        yield from ()


class FakeSession:
    """A session with that engine."""

    def __init__(self, n_ended: int) -> None:
        self.engine, self.used = NoAnswers(n_ended), SimpleNamespace(notes=[])

    def working(self, _caller: object) -> AbstractContextManager[None]:
        return nullcontext()


def answered(wire: Wire, n_ended: int = 0) -> tuple[NoAnswers, list[messages.Message]]:
    """The engine after the call on a wire, and the replies up to its result."""
    session, unwanted = FakeSession(n_ended), list[bool]()
    host = cast(Any, SimpleNamespace(leave=lambda _session: None, on_unwanted=lambda: unwanted.append(True)))
    connection = HostConnection(host, wire)
    connection._session = cast(Session, session)
    thread = Thread(target=connection.serve, daemon=True)
    thread.start()
    replies = [wire.replies.get(timeout=60)]
    while "done" not in replies[-1]:
        replies.append(wire.replies.get(timeout=60))
    wait_until(wire.is_read)
    requests = enumerate(session.engine.requests)
    session.engine.ended = {n: one.cancellation.reason for n, one in requests if one.cancellation.is_set()}
    session.engine.n_unwanted = len(unwanted)
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
    assert engine.n_unwanted == 0  # the others are computed in the same steps
    assert [one.live_shift.shift for one in engine.requests if one.live_shift][4:7] == [0.0, 0.5, 0.0]


def test_a_cancellation_between_two_requests_leaves_the_second_one_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(
        {"call": "generate", "arguments": [[request_data(), request_data()]]}, {"cancel": 0, "reason": "timeout"}
    )
    read_request = HostConnection._read_request

    def read_and_wait(connection: HostConnection, data: messages.Message) -> Request:
        request = read_request(connection, data)
        wait_until(wire.is_read)
        return request

    monkeypatch.setattr(HostConnection, "_read_request", read_and_wait)
    engine, _ = answered(wire)
    assert (engine.ended, engine.n_unwanted) == ({0: "timeout"}, 0)


def test_the_same_holds_for_the_requests_of_a_batch() -> None:
    wire = Wire({"call": "generate_batch", "arguments": [[], 1]})
    for index in range(3):
        wire.put({"request": request_data()})
        wire.put({"cancel": index, "reason": f"reason {index}"})
    wire.put({"request": None})
    engine, replies = answered(wire)
    assert engine.ended == {0: "reason 0", 1: "reason 1", 2: "reason 2"}
    assert engine.n_unwanted == 3
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
    assert engine.n_unwanted == 1


def test_answers_that_have_ended_do_not_keep_the_last_one_wanted() -> None:
    call = {"call": "generate", "arguments": [[request_data(), request_data(), request_data()]]}
    engine, replies = answered(Wire(call, {"cancel": 1, "reason": "timeout"}), n_ended=2)
    assert [one["event"]["index"] for one in replies if "event" in one] == [0, 2]
    assert engine.n_unwanted == 1
