"""OpenAI Batch lines: their names, what is refused, and the form of the answers."""

import json
from typing import Any

import pytest

from llmcli.engine.events import Request
from llmcli.params.generation import template_args_as_data
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, make_batch, question_of, run_batch

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def chat_line(custom_id: Any = "a", url: str = CHAT, **body: Any) -> dict[str, Any]:
    given = {"model": "gpt-4o-mini"} | ({"messages": [{"role": "user", "content": "abc"}]} if url == CHAT else {})
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": given | body}


def text_of(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def asked(answer: str = "ok", **body: Any) -> Request:
    requests: list[Request] = []

    def note(one: Request) -> list[str]:
        requests.append(one)
        return [answer]

    (line,) = run_batch(FakeEngine(reply=note), text_of(chat_line(**body)))
    assert line["error"] is None, line
    return requests[0]


def test_an_answer_is_a_chat_completion() -> None:
    (line,) = run_batch(FakeEngine(reply=echo), text_of(chat_line("request-1")))
    body = line["response"].pop("body")
    assert line == {
        "id": "batch_req_1",
        "custom_id": "request-1",
        "response": {"status_code": 200, "request_id": "req_1"},
        "error": None,
    }
    assert isinstance(body.pop("created"), int)
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "abc", "refusal": None},
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24},
    }


def test_a_completion_continues_its_prompt_as_it_is() -> None:
    (line,) = run_batch(FakeEngine(reply=echo), text_of(chat_line("a", COMPLETION, prompt="Once", max_tokens=2)))
    body = line["response"]["body"]
    assert (body["object"], body["usage"]["prompt_tokens"]) == ("text_completion", 4)
    assert body["choices"] == [{"index": 0, "finish_reason": "length", "text": "On", "logprobs": None}]


def test_names_of_openai_are_settings() -> None:
    request = asked(
        temperature=0.2,
        top_p=0.5,
        max_completion_tokens=5,
        seed=3,
        stop="x",
        user="me",
        presence_penalty=1,
        frequency_penalty=0.5,
        logit_bias={"50": -100},
        n=1,
        tools=None,
        logprobs=True,
        top_logprobs=4,
        store=True,
        metadata={"a": "b"},
        reasoning_effort="low",
    )
    settings = request.settings
    assert (str(settings.temperature), settings.top_p, settings.max_tokens, settings.seed) == ("0.2", 0.5, 5, 3)
    assert (settings.presence_penalty, settings.frequency_penalty, settings.stop) == (1.0, 0.5, ("x",))
    assert (settings.logit_bias, settings.logprobs) == (((50, -100.0),), 4)
    assert template_args_as_data(settings.template_arg) == {"reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("body", "count"),
    [({}, 0), ({"logprobs": False}, 0), ({"logprobs": True}, 1), ({"logprobs": True, "top_logprobs": 3}, 3)],
)
def test_logprobs_have_the_number_of_their_alternatives(body: dict[str, Any], count: int) -> None:
    assert asked(**body).settings.logprobs == count


def test_a_response_format_is_a_schema() -> None:
    assert asked(response_format={"type": "text"}).constraint is None
    anything = asked("{}", response_format={"type": "json_object"}).constraint
    assert anything
    assert json.loads(anything.text)["type"] == "object"
    own = asked('"42"', response_format={"type": "json_object", "schema": {"const": "42"}}).constraint
    assert own
    assert json.loads(own.text) == {"const": "42"}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "integer"}}}
    number = asked("5", response_format=schema).constraint
    assert number
    assert json.loads(number.text)["type"] == "integer"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**chat_line(), "custom_id": 5}, "custom_id must be a string"),
        ({**chat_line(), "method": "GET"}, "method must be 'POST'"),
        ({**chat_line(), "url": "/v1/embeddings"}, "url must be /v1/chat/completions or /v1/completions"),
        ({**chat_line(), "body": []}, "body must be a JSON object"),
        (chat_line(n=2), "n must be 1: llmcli does not support another value"),
        (chat_line(stream=True), "stream must be false: llmcli does not support another value"),
        (chat_line(tools=[{"type": "function"}]), "tools must be []: llmcli does not support another value"),
        (chat_line(temperature=-1), "temperature must be"),
        (chat_line(tempo=1), "unknown setting 'tempo'"),
        (chat_line(messages="hi"), "messages must be a list of objects with role and content"),
        (chat_line(response_format={"type": "xml"}), "response_format must be text, json_object, or json_schema"),
        (chat_line("a", COMPLETION), "prompt or messages is missing"),
        (chat_line("a", COMPLETION, prompt=["a", "b"]), "prompt must be a string"),
        (chat_line(n_ctx=5), "n_ctx cannot be set in a line"),
    ],
)
def test_a_line_that_is_not_valid_is_answered_in_openais_form(line: dict[str, Any], message: str) -> None:
    good, bad = run_batch(FakeEngine(reply=echo), text_of(chat_line("ok"), line))
    assert good["response"]["status_code"] == 200
    assert (bad["custom_id"], bad["response"]["status_code"]) == (line["custom_id"], 400)
    assert bad["error"]["code"] == "usage"
    assert bad["error"]["message"].startswith(message)
    error = bad["response"]["body"]["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", bad["error"]["message"])


def test_a_line_that_is_not_json_has_no_custom_id() -> None:
    _, bad = run_batch(FakeEngine(reply=echo), text_of(chat_line("ok")) + "{bad\n")
    assert (bad["id"], bad["custom_id"], bad["response"]["status_code"]) == ("batch_req_2", None, 400)


def test_a_note_says_that_another_model_answers() -> None:
    lines = text_of(chat_line("a"), chat_line("b", model="fake"), chat_line("c", model="starter"))
    batch = make_batch(FakeEngine(reply=echo), lines, Lines())
    batch.run()
    assert batch.backend.notes() == ["the lines ask for gpt-4o-mini: fake answered them"]


def test_the_question_of_a_line_is_its_last_message() -> None:
    assert question_of(asked()) == "abc"
