"""Routes about the server, with an engine without a model."""

import re
import time

from llmcli.server.service import ServerOptions
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, ServerMaker
from tests.waiting import wait_until

WARM = ["x"]  # the first answer is that of the start


def counts(client: Client) -> dict[str, float]:
    text = client.get("/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", text, re.MULTILINE)}


def test_counts_are_those_of_the_timings(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["a", "b"], ["c"]))
    before = counts(client)
    assert before["tokens_predicted_total"] == before["prompt_tokens_total"] == 0
    timings = [client.post("/completion", {"prompt": prompt}).data["timings"] for prompt in ("xyz", "x")]
    after = counts(client)
    assert after["tokens_predicted_total"] == sum(one["predicted_n"] for one in timings) == 3
    assert after["prompt_tokens_total"] == sum(one["prompt_n"] for one in timings) == 4
    assert (after["n_tokens_max"], after["requests_processing"], after["requests_deferred"]) == (5, 0, 0)
    assert (after["n_decode_total"], after["n_busy_slots_per_decode"]) == (5, 1)  # each answer has an event for its end


def test_answers_side_by_side_share_their_batches(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["a", "b", "c"]))
    client.post("/completion", {"prompt": ["x", "y"]})
    after = counts(client)
    assert (after["n_decode_total"], after["n_busy_slots_per_decode"]) == (4, 2)


def test_each_count_has_a_help_and_a_type(serve: ServerMaker) -> None:
    reply = serve().get("/metrics")
    lines = reply.body.decode().splitlines()
    names = [line.split()[0] for line in lines if not line.startswith("#")]
    assert len(names) == 15
    assert all(f"# TYPE {name} " in reply.body.decode() and f"# HELP {name} " in reply.body.decode() for name in names)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(reply.headers["process-start-time-unix"]) <= time.time()


def test_counts_and_slots_can_be_switched_off(serve: ServerMaker) -> None:
    client = serve(options=ServerOptions(n_parallel=2, grace=0.1, has_metrics=False, has_slots=False))
    for path in ("/metrics", "/slots"):
        reply = client.get(path)
        assert (reply.code, reply.data["error"]["type"]) == (501, "not_supported_error")


def test_a_slot_is_in_use_while_it_answers(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["x"] * 10_000, delay=0.005), options=ServerOptions(n_parallel=2, grace=0.1))
    assert [one["is_processing"] for one in client.get("/slots").data] == [False, False]
    connection, response = client.open("POST", "/completion", b'{"prompt": "abc", "stream": true, "n_predict": 5000}')
    response.read(20)
    first, second = client.get("/slots").data
    assert (first["is_processing"], second["is_processing"]) == (True, False)
    assert (first["n_prompt_tokens"], first["n_ctx"]) == (3, 4096)
    (token,) = first["next_token"]
    assert token["n_decoded"] + token["n_remain"] == 5000
    response.close()
    connection.close()
    wait_until(lambda: [one["is_processing"] for one in client.get("/slots").data] == [False, False])


def test_props_have_the_defaults_and_the_template(serve: ServerMaker) -> None:
    data = serve(FakeEngine(), settings={"seed": 7, "max_tokens": 5}).get("/props").data
    defaults = data["default_generation_settings"]
    assert (defaults["params"]["seed"], defaults["params"]["n_predict"], defaults["n_ctx"]) == (7, 5, 4096)
    assert (data["total_slots"], data["model_alias"], data["bos_token"]) == (4, "fake", "")
    assert "{% for m in messages %}" in data["chat_template"]
    assert data["build_info"].startswith("bfake 1-llmcli-")


def test_a_model_is_found_by_its_name(serve: ServerMaker) -> None:
    client = serve()
    (listed,) = client.get("/v1/models").data["data"]
    assert client.get("/v1/models/fake").data == listed
    assert (listed["id"], listed["meta"]["n_ctx"]) == ("fake", 4096)
    assert client.get("/v1/models/other/one").code == 404
