"""The private field of requests: traces, and what a replay needs."""

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker

ASK = {"messages": [{"role": "user", "content": "Hi"}]}


def test_the_texts_of_a_trace_are_the_answer(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Good", " day"]))
    (choice,) = client.post("/v1/chat/completions", {**ASK, "llmcli": {"trace": 0}}).data["choices"]
    assert "".join(one["text"] for one in choice["llmcli"]["trace"]) == "Good day"
    assert {"p", "temperature", "entropy", "rank"} <= choice["llmcli"]["trace"][0].keys()


def test_a_stream_has_the_trace_of_each_token_with_its_text(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Good", " day"]))
    events = client.post("/v1/chat/completions", {**ASK, "stream": True, "llmcli": {"trace": 2}}).events
    choices = [one["choices"][0] for one in events if one != "[DONE]"]
    pairs = [(one["delta"]["content"], one["llmcli"]["trace"][0]["text"]) for one in choices if "llmcli" in one]
    assert pairs == [("Good", "Good"), (" day", " day")]


def test_a_replay_manifest_comes_at_the_end(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Good"]))
    (choice,) = client.post("/v1/chat/completions", {**ASK, "llmcli": {"replay": True}}).data["choices"]
    assert choice["llmcli"]["replay"]["prompt_sha256"]


@pytest.mark.parametrize("value", [5, {"trace": -2}, {"trace": "all"}, {"tracing": 1}, {"replay": 1}])
def test_a_field_that_is_not_valid_is_refused(serve: ServerMaker, value: object) -> None:
    assert serve().post("/v1/chat/completions", {**ASK, "llmcli": value}).code == 400
