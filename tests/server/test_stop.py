"""The end of a server: in good order, within the grace, and with a word for each client."""

import signal
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError
from llmcli.server.http_server import Connection, ConnectionLimits
from llmcli.server.service import ServerOptions
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, Held, Reply, ServerMaker
from tests.waiting import wait_until

STREAM = {"prompt": "a", "stream": True}


class Asked:
    """A request in a thread."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self.reply: Reply | None = None
        self._thread = threading.Thread(target=self._ask, args=[client, body])

        def n_asked() -> int:
            return sum(len(one.groups) for one in list(client.service.running))

        n_before = n_asked()
        self._thread.start()
        wait_until(lambda: n_asked() > n_before)

    def _ask(self, client: Client, body: dict[str, Any]) -> None:
        self.reply = client.post("/v1/completions", body)

    def end(self) -> Reply:
        self._thread.join(60)
        assert self.reply
        return self.reply


def has_ended(client: Client) -> bool:
    client.thread.join(60)
    return not client.thread.is_alive()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must come at the end is waited for, however slow the machine is."""
    monkeypatch.setattr("llmcli.server.http_server._END", 60)
    monkeypatch.setattr("llmcli.server.worker._LAST_STEP", 60)


def test_an_answer_may_end_and_new_requests_get_503(serve: ServerMaker) -> None:
    script = Held(*["x"] * 60)
    client = serve(FakeEngine(["x"], script), options=ServerOptions(grace=60))
    answers = [Asked(client, STREAM), Asked(client, {"prompt": "a"})]
    client.stop()
    for path in ("/health", "/v1/models"):
        reply = client.get(path)
        assert (reply.code, reply.data["error"]["type"]) == (503, "unavailable_error")
        assert reply.headers["retry-after"] == "1"
        assert reply.headers["connection"] == "close"
    script.may_go_on.set()
    stream, whole = [one.end() for one in answers]
    assert stream.events[-1] == "[DONE]"
    assert whole.data["choices"][0]["text"] == "x" * 60
    assert has_ended(client)


def test_an_answer_that_takes_longer_ends_with_an_error(serve: ServerMaker, patient: None) -> None:
    engine = FakeEngine(["x"], ["x"] * 100_000, delay=0.002)
    client = serve(engine, options=ServerOptions(n_parallel=1, grace=0.3))
    answers = [Asked(client, STREAM), Asked(client, {"prompt": "a"})]  # the second one waits
    start = time.monotonic()
    client.stop()
    stream, whole = [one.end() for one in answers]
    assert stream.events[-1]["error"]["message"] == "the server is shutting down: the answer is not complete"
    assert (whole.code, whole.data["error"]["type"]) == (503, "unavailable_error")
    assert has_ended(client)
    assert 0.3 <= time.monotonic() - start < 9, "the usual grace is 10 s"
    assert client.service.models[0].worker.n_running == 0
    assert engine.is_closed


def test_what_is_not_an_answer_ends_with_an_error_too(
    serve: ServerMaker, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and vectors: one runs, the other waits for it."""
    has_begun, cancellations = threading.Event(), list[Cancellation]()

    def score(_engine: FakeEngine, _tokens: object, _n_top: int, cancellation: Cancellation) -> None:
        cancellations.append(cancellation)
        has_begun.set()
        while not cancellation.is_set():
            time.sleep(0.002)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeEngine, "score_prompt", score)
    client = serve(options=ServerOptions(grace=0.2))
    replies: list[Reply] = []
    body = {"prompt": "a", "echo": True, "logprobs": 1}
    threads = [threading.Thread(target=lambda: replies.append(client.post("/v1/completions", body))) for _ in range(2)]
    for thread in threads:
        thread.start()
    worker = client.service.models[0].worker
    assert has_begun.wait(60)
    wait_until(lambda: worker.calls.n_pending == 2)
    client.stop()
    for thread in threads:
        thread.join(60)
    assert [one.code for one in replies] == [503, 503]
    assert len(cancellations) == 1, "the other one did not begin"
    assert has_ended(client)


def test_without_requests_it_ends_at_once(serve: ServerMaker) -> None:
    client = serve(options=ServerOptions(grace=60))
    idle = HTTPConnection("127.0.0.1", client.port, timeout=60)
    idle.request("GET", "/health")
    idle.getresponse().read()
    start = time.monotonic()
    client.stop()
    assert has_ended(client)
    assert time.monotonic() - start < 25, "it waits neither for the grace nor for the connection, which has 30 s"
    idle.close()


def test_a_client_that_never_reads_does_not_hold_it(serve: ServerMaker) -> None:
    engine = FakeEngine(["x"], ["x" * 100_000] * 100_000, delay=0.001)
    client = serve(engine, options=ServerOptions(grace=0.2), limits=ConnectionLimits(seconds=600))
    connection, response = client.open("POST", "/v1/completions", b'{"prompt": "a", "stream": true}')
    (sending,) = client.server.server_state.connections
    assert isinstance(sending, Connection)
    wait_until(lambda: sending.flow.write_paused)
    client.stop()
    assert has_ended(client)
    response.close()
    connection.close()


def test_a_model_whose_thread_ends_is_told_to_everybody(serve: ServerMaker) -> None:
    script = Held("x", SystemExit(1))
    client = serve(FakeEngine(["x"], script), options=ServerOptions(n_parallel=1))
    first = Asked(client, {"prompt": "a"})
    second = Asked(client, {"prompt": "b"})  # which waits
    script.may_go_on.set()
    for one in (first, second):
        reply = one.end()
        assert (reply.code, reply.data["error"]["type"]) == (500, "server_error")
        assert reply.data["error"]["message"] == "the model has stopped: SystemExit: 1: start the server again"
    assert client.post("/v1/completions", {"prompt": "a"}).code == 500
    assert client.get("/health").code == 500


def test_an_engine_that_cannot_even_begin_fails_who_waits(serve: ServerMaker) -> None:
    engine, n_failed = FakeEngine(["x"], [RuntimeError("broken")]), 0
    client = serve(engine)

    def fail(*_: object) -> None:
        nonlocal n_failed
        n_failed += 1
        raise LlmcliError("the context is lost")

    engine.generate_batch = fail  # type: ignore[assignment]
    client.post("/v1/completions", {"prompt": "a"})  # ends what ran before
    reply = client.post("/v1/completions", {"prompt": "a"})
    assert (reply.code, reply.data["error"]["message"]) == (500, "the context is lost")
    time.sleep(0.1)
    assert n_failed <= 3, "it does not try for nobody"


def test_the_first_signal_ends_it_and_the_second_ctrl_c_at_once(
    serve: ServerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: list[tuple[int, object]] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.append((number, handler)))
    client = serve()
    client.server.handle_exit(signal.SIGINT, None)
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)]
    assert has_ended(client)
    assert client.server.is_interrupted


def test_a_step_that_cannot_be_stopped_does_not_hold_the_end(
    serve: ServerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.server.worker._LAST_STEP", 0.2)
    step = Held("x", "x")
    engine = FakeEngine(["x"], step)
    client = serve(engine, options=ServerOptions(n_parallel=1, grace=0.1))
    answer = Asked(client, {"prompt": "a"})
    assert step.has_begun.wait(60)
    client.stop()
    assert answer.end().code == 503
    assert has_ended(client)
    assert not engine.is_closed, "what llama.cpp uses is not freed under it"
    step.may_go_on.set()


def test_a_request_that_takes_long_to_read_does_not_hold_the_end(
    serve: ServerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(options=ServerOptions(grace=0.1))
    (model,) = client.service.models
    has_begun, may_end = threading.Event(), threading.Event()

    def read(*_: object) -> None:
        has_begun.set()
        may_end.wait(120)

    monkeypatch.setattr(type(model), "make_request", read)
    monkeypatch.setattr("llmcli.server.http_server._END", 0.2)

    def ask() -> None:
        with suppress(HTTPException, OSError):
            client.post("/v1/completions", {"prompt": "a"})

    threading.Thread(target=ask, daemon=True).start()
    assert has_begun.wait(60)
    client.stop()
    try:
        assert has_ended(client)
    finally:
        may_end.set()
