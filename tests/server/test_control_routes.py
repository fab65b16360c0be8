"""An answer that is being generated is moved and ended by its id; a recorded one is repeated beside the others."""

import json
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from llmcli.server.guard import Access
from llmcli.server.keys import Keys, make_key
from llmcli.server.service import ServerOptions
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, Held, ServerMaker

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
MOVED = {**ASK, "stream": True, "llmcli": {"replay": True, "shift": True}}


def chunks(response: HTTPResponse) -> Iterator[Any]:
    """The objects of a stream, as they come."""
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def manifest_of(client: Client) -> Any:
    (choice,) = client.post("/v1/chat/completions", {**ASK, "llmcli": {"replay": True}}).data["choices"]
    return choice["llmcli"]["replay"]


def test_a_shift_is_set_and_told(serve: ServerMaker) -> None:
    engine = FakeEngine(["word "] * 10_000, delay=0.002)
    client = serve(engine)
    connection, response = client.open("POST", "/v1/chat/completions", json.dumps(MOVED).encode())
    name = next(chunks(response))["id"]
    assert client.post("/llmcli/control", {"id": name, "shift": 0.3}).data == {"id": name, "shift": 0.3}
    (group,) = next(one for one in list(client.service.running) if one.groups).groups
    assert group.answers[0].request.live_shift
    assert group.answers[0].request.live_shift.shift == 0.3
    for value in ("warm", True, 1e300):
        assert client.post("/llmcli/control", {"id": name, "shift": value}).code == 400
    connection.close()


def test_an_answer_is_ended_with_its_manifest(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["word "] * 10_000, delay=0.002))
    connection, response = client.open("POST", "/v1/chat/completions", json.dumps(MOVED).encode())
    events = chunks(response)
    name = next(events)["id"]
    assert client.post("/llmcli/control", {"id": name, "stop": True}).code == 200
    rest = [one["choices"][0] for one in events]
    text = "".join(one["delta"].get("content") or "" for one in rest)
    (manifest,) = (one["llmcli"]["replay"] for one in rest if "llmcli" in one)
    assert (manifest["drawn"], manifest["flushed"]) == (text.count("word "), True)
    client.record()
    assert client.post("/llmcli/control", {"id": name, "stop": True}).code == 404
    connection.close()


def test_only_the_key_of_an_answer_reaches_it(serve: ServerMaker) -> None:
    keys = [make_key(name, f"{name}-0123456789abcdef") for name in ("alice", "bob")]
    access = Access(Keys(None, keys, lambda _message, _hint: None))
    client = serve(FakeEngine(["word "] * 10_000, delay=0.002), access=access)
    alice, bob = ({"Authorization": f"Bearer {name}-0123456789abcdef"} for name in ("alice", "bob"))
    connection, response = client.open("POST", "/v1/chat/completions", json.dumps(MOVED).encode(), alice)
    asked = {"id": next(chunks(response))["id"], "stop": True}
    assert client.post("/llmcli/control", asked).code == 401
    assert client.post("/llmcli/control", asked, bob).code == 404
    assert client.post("/llmcli/control", asked, alice).code == 200
    connection.close()


def test_an_answer_without_shifts_has_a_fixed_temperature(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["word "] * 10_000, delay=0.002))
    connection, response = client.open("POST", "/v1/chat/completions", json.dumps({**ASK, "stream": True}).encode())
    name = next(chunks(response))["id"]
    assert "cannot be moved" in client.post("/llmcli/control", {"id": name, "shift": 0.3}).data["error"]["message"]
    connection.close()


@pytest.mark.parametrize("extras", [{"shift": True}, {"replay": "that of an answer"}])
def test_what_is_for_one_answer_is_refused_for_several(serve: ServerMaker, extras: dict[str, Any]) -> None:
    client = serve(FakeEngine(["Good"]))
    if "replay" in extras:
        extras = {"replay": manifest_of(client)}
    reply = client.post("/v1/chat/completions", {**ASK, "n": 2, "llmcli": extras})
    assert (reply.code, "is for one answer" in reply.data["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "change", [{"layout": [[1, 2, 3]]}, {"n_ctx": 0}, {"moves": [[0, 1e300]]}, {"prompt_sha256": "x"}]
)
def test_a_manifest_that_is_not_valid_names_its_field(serve: ServerMaker, change: dict[str, Any]) -> None:
    client = serve(FakeEngine(["Good"]))
    reply = client.post("/v1/chat/completions", {**ASK, "llmcli": {"replay": manifest_of(client) | change}})
    assert reply.code == 400
    assert f"llmcli.replay.{next(iter(change))}" in reply.data["error"]["message"]


def test_a_route_without_ids_refuses_shifts(serve: ServerMaker) -> None:
    reply = serve().post("/completion", {"prompt": "Hi", "llmcli": {"shift": True}})
    assert (reply.code, "llmcli.shift is for" in reply.data["error"]["message"]) == (400, True)


def test_a_replay_cannot_evaluate_far_more_than_its_prompt(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Good"]))
    wanted = manifest_of(client) | {"layout": [[2048, 1, 100], [1, 1, 1]]}
    reply = client.post("/v1/chat/completions", {**ASK, "llmcli": {"replay": wanted}})
    assert (reply.code, "evaluates 204801 tokens" in reply.data["error"]["message"]) == (400, True)


@pytest.mark.parametrize("is_long", ["replay", "other"])
def test_a_replay_and_other_answers_do_not_wait_for_each_other(serve: ServerMaker, is_long: str) -> None:
    def reply(request: Any) -> list[str]:
        kind = "replay" if request.replay is not None else "other"
        return [f"{kind} "] * (100_000 if has_begun and kind == is_long else 1)

    has_begun = False
    client = serve(FakeEngine(reply=reply, delay=0.002))
    replay, has_begun = {**ASK, "llmcli": {"replay": manifest_of(client)}}, True
    first, second = (replay, ASK) if is_long == "replay" else (ASK, replay)
    connection, response = client.open("POST", "/v1/chat/completions", json.dumps({**first, "stream": True}).encode())
    next(chunks(response))
    (choice,) = client.post("/v1/chat/completions", second).data["choices"]
    assert choice["message"]["content"] == ("other " if is_long == "replay" else "replay ")
    next(chunks(response))  # the long one goes on
    connection.close()


def test_a_replay_has_at_most_the_context_and_threads_of_the_server(serve: ServerMaker) -> None:
    engine = FakeEngine(["Good"])
    client = serve(engine, settings={"n_ctx": 128, "n_threads": 2, "top_k": 3})
    wanted = manifest_of(client) | {"n_ctx": 1 << 20, "threads": [64, 1]}
    assert client.post("/v1/chat/completions", {**ASK, "llmcli": {"replay": wanted}}).code == 200
    settings = engine.requests[-1].settings
    assert (settings.n_ctx, settings.n_threads, settings.n_threads_batch) == (128, 2, 1)
    assert settings.top_k == 40  # which the request does not say


def test_a_server_that_ends_lets_a_replay_end(serve: ServerMaker) -> None:
    script = Held(*["word "] * 20)
    client = serve(FakeEngine(["x"], script), options=ServerOptions(n_parallel=4, grace=60))
    script.may_go_on.set()
    manifest = manifest_of(client)
    script.may_go_on.clear()
    body = json.dumps({**ASK, "stream": True, "llmcli": {"replay": manifest}}).encode()
    connection, response = client.open("POST", "/v1/chat/completions", body)
    events = chunks(response)
    next(events)
    client.stop()
    script.may_go_on.set()
    assert [one["choices"][0]["finish_reason"] for one in events][-1] == "stop"
    connection.close()
