"""Prompts that come back with the log-probability of each token, as programs that evaluate models ask for them."""

import threading

import pytest

from llmcli.server.service import ServerOptions
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker
from tests.waiting import wait_until

EVALUATE = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


def test_an_echo_has_the_logprob_of_each_token_but_the_first(serve: ServerMaker) -> None:
    client = serve(FakeEngine(logprob=lambda before, _token: -float(len(before))))
    (choice,) = client.post("/v1/completions", {**EVALUATE, "prompt": "abc"}).data["choices"]
    assert choice["logprobs"]["token_logprobs"][:3] == [None, -1.0, -2.0]
    assert choice["logprobs"]["tokens"][:3] == ["a", "b", "c"]
    assert choice["logprobs"]["text_offset"][:3] == [0, 1, 2]
    assert choice["logprobs"]["top_logprobs"][:3] == [None, {"b": -1.0}, {"c": -2.0}]
    assert len(choice["logprobs"]["token_logprobs"]) == 4  # with that of the generated token
    assert choice["text"].startswith("abc")


def test_lists_of_tokens_are_prompts_of_their_own(serve: ServerMaker) -> None:
    prompts = [[97, 98], [99, 100, 101]]
    choices = serve().post("/v1/completions", {**EVALUATE, "prompt": prompts}).data["choices"]
    assert [one["index"] for one in choices] == [0, 1]
    assert [len(one["logprobs"]["tokens"]) for one in choices] == [3, 4]


def test_one_greedy_token_after_an_echo_needs_no_generation(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["never"]))
    (choice,) = client.post("/v1/completions", {**EVALUATE, "prompt": "abc"}).data["choices"]
    assert choice["text"] == "abcc"  # the fake engine finds the last token the most likely one


@pytest.mark.parametrize("changed", [{"temperature": 0.7}, {"repeat_penalty": 1.5}, {"max_tokens": 2}])
def test_whatever_needs_a_draw_is_generated(serve: ServerMaker, changed: dict[str, float]) -> None:
    client = serve(FakeEngine([" day"]))
    (choice,) = client.post("/v1/completions", {**EVALUATE, "prompt": "Good", **changed}).data["choices"]
    assert choice["text"] == "Good day"


def test_an_echo_without_logprobs_is_the_text_alone(serve: ServerMaker) -> None:
    body = {"prompt": "Good", "echo": True, "max_tokens": 5}
    (choice,) = serve(FakeEngine([" day"])).post("/v1/completions", body).data["choices"]
    assert (choice["text"], choice["logprobs"]) == ("Good day", None)


def test_a_stream_begins_with_the_echo(serve: ServerMaker) -> None:
    body = {"prompt": "Good", "echo": True, "max_tokens": 5, "stream": True}
    events = serve(FakeEngine([" day"])).post("/v1/completions", body).events
    assert [one["choices"][0]["text"] for one in events[:2]] == ["Good", " day"]


def test_too_many_scores_that_wait_get_503(serve: ServerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(FakeEngine, "score_prompt", lambda *_: may_end.wait(60) and None)
    client = serve(options=ServerOptions(n_parallel=1, n_queued=1, grace=0.1))
    worker, body = client.service.models[0].worker, {**EVALUATE, "prompt": "abc"}
    threads = [threading.Thread(target=client.post, args=["/v1/completions", body]) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: worker.calls.n_pending == 2)
    reply = client.post("/v1/completions", body)
    assert (reply.code, reply.headers["retry-after"]) == (503, "1")
    may_end.set()
    for thread in threads:
        thread.join(60)
