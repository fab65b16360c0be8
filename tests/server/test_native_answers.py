"""/completion with the starter: probabilities, stop strings, and tokens that are known from before."""

import math
from collections.abc import Iterator

import pytest

from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Settings
from tests.server.conftest import Client, running_server

SKY = {"prompt": "The sky is", "n_predict": 4, "seed": 1}


@pytest.fixture(scope="module")
def client(target: ResolvedModel) -> Iterator[Client]:
    engine = LocalEngine(target, Settings(n_threads=1, n_ctx=256))
    with running_server(engine, settings={"n_threads": 1, "n_ctx": 256}) as client:
        yield client


def test_probabilities_of_the_model_add_up_to_its_choice(client: Client) -> None:
    data = client.post("/completion", {**SKY, "n_probs": 3, "temperature": 0, "return_tokens": True}).data
    found = data["completion_probabilities"]
    assert [one["id"] for one in found] == data["tokens"]
    assert "".join(one["token"] for one in found) == data["content"]
    for one in found:
        best, *others = one["top_logprobs"]
        assert len(others) == 2
        assert (best["id"], best["logprob"]) == (one["id"], one["logprob"])  # greedy
        assert best["logprob"] >= max(other["logprob"] for other in others)
        assert sum(math.exp(top["logprob"]) for top in one["top_logprobs"]) < 1


def test_probabilities_after_the_chain_have_no_zeros(client: Client) -> None:
    body = {**SKY, "n_probs": 50, "post_sampling_probs": True, "top_k": 4, "top_p": 1, "min_p": 0, "temperature": 1}
    for one in client.post("/completion", body).data["completion_probabilities"]:
        assert len(one["top_probs"]) == 4
        assert sum(top["prob"] for top in one["top_probs"]) == pytest.approx(1)
        assert one["prob"] in [top["prob"] for top in one["top_probs"]]


def test_each_event_of_a_stream_has_the_probabilities_of_its_tokens(client: Client) -> None:
    body = {**SKY, "n_probs": 2, "stream": True, "temperature": 0}
    *pieces, result = client.post("/completion", body).events
    assert [len(one["completion_probabilities"]) for one in pieces] == [1, 1, 1, 1]
    assert [one["completion_probabilities"][0]["id"] for one in pieces] == [one["tokens"][0] for one in pieces]
    assert "completion_probabilities" not in result


def test_a_stop_string_is_named(client: Client) -> None:
    text = client.post("/completion", {**SKY, "temperature": 0, "n_predict": 8}).data["content"]
    stop = text[3:6]
    data = client.post("/completion", {**SKY, "temperature": 0, "n_predict": 8, "stop": [stop, "never"]}).data
    assert (data["stop_type"], data["stopping_word"], data["content"]) == ("word", stop, text[: text.index(stop)])


def test_a_prompt_that_was_read_before_is_counted_as_cached(client: Client) -> None:
    prompt = "One two three four five six seven eight"
    first, second = (client.post("/completion", {"prompt": prompt, "n_predict": 1}).data for _ in range(2))
    n_tokens = first["tokens_evaluated"]
    assert (second["timings"]["cache_n"], second["timings"]["prompt_n"]) == (n_tokens - 1, 1)
    usage = client.post("/v1/completions", {"prompt": prompt, "max_tokens": 1}).data["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": n_tokens - 1}


def test_an_answer_that_fills_the_context_is_truncated(client: Client) -> None:
    body = {"prompt": "word " * 240, "ignore_eos": True, "n_predict": -1}
    data = client.post("/completion", body).data
    assert (data["stop_type"], data["truncated"]) == ("limit", True)
    assert data["tokens_evaluated"] + data["tokens_predicted"] == 256 + 1  # the last token needs no place
    biases = data["generation_settings"]["logit_bias"]
    assert biases
    assert {one["bias"] for one in biases} == {None}


def test_progress_begins_with_what_is_known(client: Client) -> None:
    body = {"prompt": "apple pear plum " * 30, "n_predict": 1, "stream": True, "return_progress": True}
    for expected in (0, None):
        events = client.post("/completion", body).events
        progress = [one["prompt_progress"] for one in events if "prompt_progress" in one]
        first, *_, last = progress
        assert first["processed"] == first["cache"] == (last["total"] - 1 if expected is None else expected)
        assert last["processed"] == last["total"] == events[-1]["tokens_evaluated"]
