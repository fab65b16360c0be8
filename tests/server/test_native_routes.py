"""llama-server's own route for text, with an engine without a model."""

import threading
from typing import Any

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.inference.fake_vocab import FakeVocab
from tests.server.conftest import ServerMaker

WARM = ["x"]  # the first answer is that of the start
ASK = {"prompt": "Good", "n_predict": 3, "seed": 1}


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_completion_has_the_fields_of_llama_server(serve: ServerMaker, path: str) -> None:
    reply = serve(FakeEngine(WARM, [" day", "\n", "to", "you"])).post(path, {**ASK, "return_tokens": True})
    data = reply.data
    assert (reply.code, data["content"], data["prompt"]) == (200, " day\nto", "Good")
    assert data["tokens"] == [ord(letter) for letter in " day\nto"]
    assert (data["tokens_predicted"], data["tokens_evaluated"]) == (3, 4)
    assert (data["stop"], data["stop_type"], data["stopping_word"]) == (True, "limit", "")
    assert (data["has_new_line"], data["truncated"], data["index"]) == (True, False, 0)
    assert data["timings"]["prompt_n"] == 4
    settings = data["generation_settings"]
    assert (settings["n_predict"], settings["seed"], settings["stream"]) == (3, 1, False)
    assert (settings["temperature"], settings["top_k"], settings["logit_bias"]) == (0.8, 40, [])


def test_tokens_are_returned_only_on_request(serve: ServerMaker) -> None:
    assert serve().post("/completion", ASK).data["tokens"] == []


def test_a_completion_that_ends_itself_says_eos(serve: ServerMaker) -> None:
    assert serve(FakeEngine(["Hi"])).post("/completion", {"prompt": "a"}).data["stop_type"] == "eos"


def test_a_stream_of_llama_server_has_pieces_and_a_result(serve: ServerMaker) -> None:
    reply = serve(FakeEngine(WARM, ["Good", " day"])).post("/completion", {**ASK, "stream": True})
    *pieces, result = reply.events
    assert [(one["content"], one["stop"], one["tokens_predicted"]) for one in pieces] == [
        ("Good", False, 4),
        (" day", False, 8),
    ]
    assert pieces[0]["tokens"] == [ord(letter) for letter in "Good"]
    assert (result["content"], result["stop"], result["tokens_predicted"]) == ("", True, 2)
    assert result["generation_settings"]["stream"] is True


@pytest.mark.parametrize(
    ("prompt", "evaluated"),
    [
        ([65, 66], [2]),
        ({"prompt_string": "abc"}, [3]),
        ([65, "bc", 66], [4]),
        (["a", [65, 66], {"prompt_string": "abc"}, [65, "bc"]], [1, 2, 3, 3]),
    ],
)
def test_a_prompt_can_be_texts_and_tokens(serve: ServerMaker, prompt: object, evaluated: list[int]) -> None:
    data = serve().post("/completion", {"prompt": prompt}).data
    answers = data if isinstance(data, list) else [data]
    assert [one["tokens_evaluated"] for one in answers] == evaluated
    assert [one["index"] for one in answers] == list(range(len(evaluated)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompt must be a string, a list of tokens and strings, or a list of prompts"),
        ({"prompt": []}, "prompt must not be an empty list"),
        ({"prompt": [True]}, "prompt must be a string, a list of tokens and strings, or a list of prompts"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["b"]}}, "multimodal_data is not supported"),
        ({"prompt": [0x120000]}, "1179648 is not a token: the vocabulary has 1114112"),
        ({"prompt": "a", "lora": [{"id": 0, "scale": 1}]}, "lora is not supported: leave it out"),
        ({"prompt": "a", "n_predict": -7}, "max_tokens must be at least 0, or -1, got -7"),
        ({"prompt": "a", "n_prob": 3}, "unknown setting 'n_prob'"),
        ({"prompt": "a", "stream": "yes"}, "stream must be true or false"),
    ],
)
def test_a_completion_refuses_what_is_not_valid(serve: ServerMaker, body: Any, message: str) -> None:
    reply = serve().post("/completion", body)
    assert reply.code == 400
    assert reply.data["error"]["message"].startswith(message)
    assert reply.data["error"]["type"] == "invalid_request_error"


def test_response_fields_select_also_nested_ones(serve: ServerMaker) -> None:
    fields = ["content", "generation_settings/n_predict", "nothing", "timings/prompt_n/x"]
    data = serve(FakeEngine(["Hi"])).post("/completion", {**ASK, "response_fields": fields}).data
    assert data == {"content": "Hi", "generation_settings/n_predict": 3}


def test_biases_of_texts_are_shown_by_token(serve: ServerMaker) -> None:
    body = {**ASK, "logit_bias": [["ab", -2], [65, 1.5], ["a", False]]}
    settings = serve().post("/completion", body).data["generation_settings"]
    assert settings["logit_bias"] == [
        {"token": 97, "bias": None},
        {"token": 98, "bias": -2.0},
        {"token": 65, "bias": 1.5},
    ]


def test_progress_of_a_prompt_comes_before_its_answer(serve: ServerMaker) -> None:
    body = {**ASK, "stream": True, "return_progress": True, "timings_per_token": True}
    first, *others = serve().post("/completion", body).events
    assert first["prompt_progress"] == {"total": 4, "cache": 4, "processed": 4, "time_ms": 0.0}
    assert first["timings"]["predicted_n"] == 0
    assert not [one for one in others if "prompt_progress" in one]
    assert all(one["timings"]["predicted_n"] for one in others)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_the_details_are_given_in_each_form(serve: ServerMaker, path: str, stream: bool) -> None:
    body: Any = {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    client = serve()
    reply = client.post(path, {**body, "verbose": True, "stream": stream})
    plain = client.post(path, {**body, "stream": stream})
    assert rb"user: Hi\nassistant: " in reply.body[reply.body.index(b"__verbose") :]
    assert b"__verbose" not in plain.body


@pytest.mark.parametrize("path", ["/completion", "/v1/messages", "/v1/responses"])
def test_the_manifest_of_an_answer_is_given_in_each_form(serve: ServerMaker, path: str) -> None:
    bodies: Any = {"/v1/messages": {"messages": [{"role": "user", "content": "Hi"}]}, "/v1/responses": {"input": "Hi"}}
    body = bodies.get(path, {"prompt": "Hi"})
    extra = serve().post(path, {**body, "llmcli": {"replay": True, "trace": 0}}).data["llmcli"]
    assert "".join(one["text"] for one in extra["trace"]) == "Hello."
    assert extra["replay"]["build"] == "fake 1"


def test_texts_of_a_prompt_do_not_hold_the_other_requests(serve: ServerMaker) -> None:
    threads = set[threading.Thread]()

    class Watched(FakeVocab):
        def tokenize(self, text: str, **details: bool) -> list[int]:
            threads.add(threading.current_thread())
            return super().tokenize(text, **details)

    client = serve(FakeEngine(tokenizer=Watched()))
    threads.clear()
    assert client.post("/completion", {"prompt": [97, "b"], "n_predict": 1}).code == 200
    assert client.thread not in threads
    reply = client.post("/completion", {"prompt": [97, "b" * 100_000]})
    assert reply.data["error"]["type"] == "exceed_context_size_error"
    reply = client.post("/completion", {"prompt": [-1, "b"]})
    assert reply.data["error"]["message"].startswith("-1 is not a token")
