"""Several models: which are loaded when, and which leave."""

import threading
from functools import partial
from itertools import count
from typing import Any

import pytest

from llmcli.errors import LlmcliError
from llmcli.inference import sizing
from llmcli.params.settings import Layer
from llmcli.server.loading import ModelEntry
from llmcli.server.served_model import ServedModel
from llmcli.server.service import ServerOptions, Service
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, ServerMaker
from tests.waiting import wait_until

MB = 1_000_000
ASK = {"prompt": "Hi", "max_tokens": 2}


class Machine:
    """Models of 10 MB each, on a machine with little memory."""

    def __init__(self, *names: str) -> None:
        self.loads: list[str] = []
        self.engines: dict[str, FakeEngine] = {}
        self.entries = [ModelEntry(name, partial(self._load, name), 10 * MB) for name in names]

    def _load(self, name: str) -> ServedModel:
        self.loads.append(name)
        engine = self.engines[name] = FakeEngine([f"I am {name}."])
        engine.name = name
        return ServedModel(name, engine, [Layer("flag", {})], 4)

    @property
    def loaded(self) -> set[str]:
        return {name for name, one in list(self.engines.items()) if not one.is_closed}

    def set_memory(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        monkeypatch.setattr(sizing, "memory_and_cores", lambda: ((size - 10 * len(self.loaded)) * MB, 2))


is_used = Service._is_used


def ask(client: Client, model: str, **fields: object) -> str:
    reply = client.post("/v1/completions", {**ASK, "model": model, **fields})
    return str(reply.data["choices"][0]["text"]) if reply.code == 200 else str(reply.code)


def test_a_model_is_loaded_when_it_is_asked_for(serve: ServerMaker) -> None:
    machine = Machine("a", "b")
    client = serve(entries=machine.entries)
    assert machine.loads == ["a"]  # the default, at the start
    assert ask(client, "b") == "I am b."
    assert ask(client, "") == "I am a."
    assert machine.loads == ["a", "b"]


def test_the_first_token_of_a_model_counts_for_no_request(serve: ServerMaker) -> None:
    machine = Machine("a", "b")
    client = serve(entries=machine.entries)
    ask(client, "b")
    data = client.record().data(has_content=True)
    assert (data["prompt_tokens"], data["generated_tokens"], data["prompts"]) == (len("Hi"), 1, ["Hi"])


def test_all_models_are_listed_loaded_or_not(serve: ServerMaker) -> None:
    data = serve(entries=Machine("a", "b").entries).get("/v1/models").data["data"]
    assert [one["id"] for one in data] == ["a", "b"]


def test_a_model_that_is_not_served_is_404_with_the_nearest_name(serve: ServerMaker) -> None:
    reply = serve(entries=Machine("qwen3-4b", "b").entries).post("/v1/completions", {**ASK, "model": "qwen3-5b"})
    assert (reply.code, reply.data["error"]["type"]) == (404, "not_found_error")
    assert "did you mean 'qwen3-4b'?" in reply.data["error"]["message"]


def test_the_least_recently_used_model_makes_room(serve: ServerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("a", "b", "c")
    machine.set_memory(monkeypatch, 25)
    client = serve(entries=machine.entries)
    for name in ("b", "a", "c"):
        ask(client, name)
    assert machine.loaded == {"a", "c"}


def test_a_pinned_model_stays(serve: ServerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, engine = Machine("a", "b"), FakeEngine(["pinned"])
    machine.set_memory(monkeypatch, 15)
    client = serve(engine, entries=machine.entries)
    for name in ("a", "b", "fake"):
        ask(client, name)
    assert (machine.loaded, engine.is_closed) == ({"b"}, False)


def test_without_room_and_with_nothing_to_unload_a_request_fails(
    serve: ServerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine("a")
    machine.set_memory(monkeypatch, 5)
    reply = serve(FakeEngine(), entries=machine.entries).post("/v1/completions", {**ASK, "model": "a"})
    assert reply.code == 500
    assert "a needs 10 MB of memory, and 5 MB are free" in reply.data["error"]["message"]


def test_an_idle_model_is_unloaded_and_comes_back(serve: ServerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.server.service._LOOK_S", 0.02)
    machine = Machine("a", "b")
    options = ServerOptions(n_parallel=4, grace=1.0, keep_alive=0.05)
    client = serve(entries=machine.entries, options=options)
    wait_until(lambda: not machine.loaded)
    assert ask(client, "a") == "I am a."


def test_a_model_stays_while_a_request_has_it(serve: ServerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it is read, or scores: no answer is generated then."""
    monkeypatch.setattr("llmcli.server.service._LOOK_S", 0.01)
    machine, may_go_on = Machine("a", "b"), threading.Event()
    client = serve(entries=machine.entries, options=ServerOptions(n_parallel=4, grace=1.0, keep_alive=0.0))
    wait_until(lambda: not machine.loaded)
    monkeypatch.setattr(FakeEngine, "score_prompt", lambda *_: may_go_on.wait(60) and None)
    thread = threading.Thread(target=ask, args=[client, "a"], kwargs={"echo": True, "logprobs": 1})
    thread.start()
    wait_until(lambda: bool(machine.loaded))
    looks: list[bool] = []

    def look(*args: Any) -> bool:
        looks.append(is_used(*args))
        return looks[-1]

    monkeypatch.setattr(Service, "_is_used", look)
    wait_until(lambda: len(looks) > 5)
    assert machine.loaded == {"a"}
    may_go_on.set()
    thread.join(60)
    wait_until(lambda: not machine.loaded)


def test_a_model_is_described_without_being_loaded(serve: ServerMaker) -> None:
    machine = Machine("a", "b")
    client = serve(entries=machine.entries)
    assert client.get("/v1/models/b").data["meta"] is None
    assert client.get("/v1/models/a").data["meta"]["n_ctx"] == 4096
    assert client.get("/v1/models/../b").code == 404
    assert machine.loads == ["a"]


def test_a_model_that_cannot_be_loaded_says_why_and_the_others_answer(serve: ServerMaker) -> None:
    def fail() -> ServedModel:
        raise LlmcliError("the file is gone")

    machine = Machine("a")
    client = serve(entries=[*machine.entries, ModelEntry("b", fail)])
    reply = client.post("/v1/completions", {**ASK, "model": "b"})
    assert (reply.code, reply.data["error"]["message"]) == (500, "the file is gone")
    assert ask(client, "a") == "I am a."


def test_any_other_model_is_found_where_that_is_allowed(serve: ServerMaker) -> None:
    machine, numbers = Machine("a"), count()
    other = Machine("other").entries[0]
    found = {"other": other}
    client = serve(entries=machine.entries, find_other=lambda name: found.get(name) if next(numbers) >= 0 else None)
    assert ask(client, "other") == "I am other."
    assert ask(client, "another") == "404"
