"""OpenAI's routes for text, with an engine without a model."""

import asyncio

from llmcli.engine.events import Prompt, Request
from llmcli.inference.answer import Answer
from llmcli.params.settings import Settings
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.service import ServerOptions
from llmcli.server.text_requests import count_cached
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker
from tests.waiting import wait_until

ASK: dict[str, object] = {"messages": [{"role": "user", "content": "Hi"}]}
WARM = ["x"]  # the first answer is that of the start


def test_a_chat_gets_a_message_with_its_usage(serve: ServerMaker) -> None:
    reply = serve(FakeEngine(["Good", " day"])).post("/v1/chat/completions", ASK)
    (choice,) = reply.data["choices"]
    assert (reply.code, reply.data["object"], choice["finish_reason"]) == (200, "chat.completion", "stop")
    assert choice["message"] == {"role": "assistant", "content": "Good day", "refusal": None}
    assert reply.data["usage"]["completion_tokens"] == 2


def test_a_stream_has_the_same_text_and_ends_with_done(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["Good", " day"]))
    reply = client.post("/v1/chat/completions", {**ASK, "stream": True, "stream_options": {"include_usage": True}})
    first, *middle, last, usage, done = reply.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert "".join(one["choices"][0]["delta"]["content"] for one in middle) == "Good day"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 2, "[DONE]")


def test_a_completion_continues_a_text_as_it_is(serve: ServerMaker) -> None:
    reply = serve(FakeEngine([" day"])).post("/v1/completions", {"prompt": "Good", "max_tokens": 3})
    assert reply.data["choices"][0]["text"] == " day"
    assert reply.data["object"] == "text_completion"
    assert reply.data["usage"]["prompt_tokens"] == 4  # no template around it


def test_several_choices_come_with_their_indexes(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["a"], ["b"]))
    choices = client.post("/v1/chat/completions", {**ASK, "n": 2}).data["choices"]
    assert [(one["index"], one["message"]["content"]) for one in choices] == [(0, "a"), (1, "b")]


def test_an_unknown_field_is_refused_with_the_nearest_name(serve: ServerMaker) -> None:
    reply = serve().post("/v1/chat/completions", {**ASK, "top_q": 1})
    assert reply.code == 400
    assert reply.data["error"]["message"] == "unknown setting 'top_q': did you mean 'top_p'?"


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(serve: ServerMaker) -> None:
    client = serve(FakeEngine(n_ctx=32), settings={"n_ctx": 32})
    for stream in (False, True):
        reply = client.post("/v1/completions", {"prompt": "x" * 40, "stream": stream})
        error = reply.data["error"]
        assert (reply.code, error["type"]) == (400, "exceed_context_size_error")
        assert (error["n_prompt_tokens"], error["n_ctx"]) == (40, 32)


def test_a_prompt_far_too_long_is_refused_with_the_numbers_too(serve: ServerMaker) -> None:
    client = serve(FakeEngine(n_ctx=32), settings={"n_ctx": 32})
    error = client.post("/v1/completions", {"prompt": "x" * 200_000}).data["error"]  # its tokens are not all counted
    assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 32)
    assert error["n_prompt_tokens"] > 32


def test_a_prompt_that_was_not_read_counts_as_not_cached() -> None:
    async def counts() -> tuple[int, tuple[int, int, int]]:
        answer = Answer(FakeEngine(), Request(Prompt.of_tokens("", [1, 2]), Settings()))
        answer.started = True  # its time was over before a step
        return count_cached(answer), AnswerGroup([answer]).counts

    assert asyncio.run(counts()) == (0, (2, 0, 0))


def test_fields_of_openai_that_change_no_answer_are_accepted(serve: ServerMaker) -> None:
    extra = {"verbosity": "low", "prediction": {"type": "content", "content": "x"}, "prompt_cache_options": {}}
    assert serve().post("/v1/chat/completions", {**ASK, **extra, "store": True, "user": "me"}).code == 200


def test_a_schema_may_stand_in_both_places_of_llama_server(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["{}"], ["{}"]))
    schema = {"type": "object", "required": ["a"]}
    forms: list[dict[str, object]] = [{"json_schema": {"name": "x", "schema": schema}}, {"schema": schema}]
    for form in forms:
        body = {**ASK, "response_format": {"type": "json_schema", **form}}
        (choice,) = client.post("/v1/chat/completions", body).data["choices"]
        assert choice["error"]["type"] == "constraint_unmet_error"


def test_broken_json_is_refused_with_its_place(serve: ServerMaker) -> None:
    client = serve()
    for body, place in ((b"{'a': 1}", "object keys must be strings (byte 1)"), (b"[" * 200_000, "too deep")):
        error = client.request("POST", "/v1/completions", body).data["error"]
        assert error["message"] == f"the body is not valid JSON: {place}"


def test_a_route_with_another_method_names_it(serve: ServerMaker) -> None:
    client = serve()
    reply = client.get("/v1/chat/completions")
    assert (reply.code, reply.headers["allow"]) == (405, "POST")
    assert reply.data["error"]["message"] == "/v1/chat/completions does not take GET: use POST"
    assert client.post("/health", {}).data["error"]["message"] == "/health does not take POST: use GET"
    assert client.get("/v1/messages").data["type"] == "error"  # in Anthropic's form


def test_a_proxy_is_told_to_pass_a_stream_on_at_once(serve: ServerMaker) -> None:
    reply = serve().post("/v1/chat/completions", {**ASK, "stream": True})
    assert reply.headers["x-accel-buffering"] == "no"


def test_a_client_that_goes_ends_its_answer(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["x"] * 10_000, delay=0.005))
    connection, response = client.open("POST", "/v1/completions", b'{"prompt": "a", "stream": true}')
    response.read(20)
    (model,) = client.service.models
    assert model.worker.n_running == 1
    response.close()
    connection.close()
    wait_until(lambda: not model.worker.n_running)


def test_too_many_requests_get_503_with_retry_after(serve: ServerMaker) -> None:
    options = ServerOptions(n_parallel=1, n_queued=1, grace=0.1)
    client = serve(FakeEngine(WARM, ["x"] * 10_000, delay=0.005), options=options)
    connection, response = client.open("POST", "/v1/completions", b'{"prompt": "a", "stream": true}')
    reply = client.post("/v1/completions", {"prompt": "a", "n": 2})
    assert (reply.code, reply.headers["retry-after"]) == (503, "1")
    response.close()
    connection.close()
