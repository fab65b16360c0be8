"""Anthropic's routes, with an engine without a model."""

from typing import Any

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker

ASK = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
WARM = ["x"]  # the first answer is that of the start
CALL = [
    {"role": "user", "content": "Read it."},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Which one?", "signature": ""},
            {"type": "tool_use", "id": "1", "name": "read", "input": {"path": "a"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Here it is."},
            {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "abc"}]},
        ],
    },
]


def test_a_message_has_blocks_a_reason_and_usage(serve: ServerMaker) -> None:
    data = serve(FakeEngine(["Good", " day"])).post("/v1/messages", {**ASK, "model": "fake"}).data
    assert (data["type"], data["role"], data["model"]) == ("message", "assistant", "fake")
    assert data["id"].startswith("msg_")
    assert data["content"] == [{"type": "text", "text": "Good day"}]
    assert (data["stop_reason"], data["stop_sequence"]) == ("end_turn", None)
    assert data["usage"] == {
        "input_tokens": len("user: Hi\nassistant: "),
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "output_tokens": 2,
    }


def test_a_message_that_is_cut_says_max_tokens(serve: ServerMaker) -> None:
    data = serve(FakeEngine(["a", "b"])).post("/v1/messages", {**ASK, "max_tokens": 1}).data
    assert (data["content"][0]["text"], data["stop_reason"]) == ("a", "max_tokens")


def test_the_system_prompt_is_the_first_message(serve: ServerMaker) -> None:
    engine = FakeEngine()
    client = serve(engine)
    count = client.post("/v1/messages/count_tokens", {**ASK, "system": [{"type": "text", "text": "Be brief."}]}).data
    assert count == {"input_tokens": len("system: Be brief.\nuser: Hi\nassistant: ")}


def test_an_output_config_is_a_schema_and_an_effort(serve: ServerMaker) -> None:
    template = "{{ reasoning_effort }}{% for m in messages %}{{ m.content }}{% endfor %}"
    client = serve(FakeEngine(WARM, ["{}"], ['{"a": 1}'], chat_template=template))
    form = {"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}
    body = {**ASK, "output_config": {"format": form, "effort": "low"}, "cache_control": {"type": "ephemeral"}}
    refused, kept = client.post("/v1/messages", body), client.post("/v1/messages", body)
    assert (refused.code, refused.data["error"]["type"]) == (422, "invalid_request_error")
    assert kept.data["content"] == [{"type": "text", "text": '{"a": 1}'}]
    assert kept.data["usage"]["input_tokens"] + kept.data["usage"]["cache_read_input_tokens"] == len("lowHi")


def test_a_stream_of_messages_has_its_events_in_order(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["<think>", "Hm", "</think>", "Good", " day"]))
    events = client.post("/v1/messages", {**ASK, "stream": True}).events
    assert [one["type"] for one in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [one["index"] for one in events if "index" in one] == [0, 0, 0, 1, 1, 1, 1]
    start, *_, end, _stop = events
    assert (start["message"]["content"], start["message"]["usage"]["output_tokens"]) == ([], 0)
    deltas = [one["delta"] for one in events if one["type"] == "content_block_delta"]
    assert deltas[0] == {"type": "thinking_delta", "thinking": "Hm"}
    assert "".join(one["text"] for one in deltas[1:]) == "Good day"
    assert (end["delta"]["stop_reason"], end["usage"]["output_tokens"]) == ("end_turn", 5)


def test_events_carry_their_names(serve: ServerMaker) -> None:
    reply = serve().post("/v1/messages", {**ASK, "stream": True})
    lines = reply.body.decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [one["type"] for one in reply.events]


def test_a_history_of_tool_calls_is_read(serve: ServerMaker) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content or '' }}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.path }}){% endfor %}; "
        "{% endfor %}assistant: "
    )
    engine = FakeEngine(WARM, ["ok"], chat_template=template)
    reply = serve(engine).post("/v1/messages", {"messages": CALL, "verbose": True})
    assert (reply.code, reply.data["content"][0]["text"]) == (200, "ok")
    texts = "user: Read it.; assistant: Which one?read(a); tool: abc; user: Here it is.; assistant: "
    assert reply.data["usage"]["input_tokens"] == len(texts)


def test_thinking_is_switched_and_limited(serve: ServerMaker) -> None:
    requests: list[Any] = []

    def reply(request: Any) -> list[str]:
        requests.append(request)
        return ["ok"]

    client = serve(FakeEngine(reply=reply))
    client.post("/v1/messages", {**ASK, "thinking": {"type": "enabled", "budget_tokens": 50}})
    client.post("/v1/messages", {**ASK, "thinking": {"type": "disabled"}, "stop_sequences": ["END"]})
    limited, off = (one.settings for one in requests[1:])
    assert (limited.think, limited.think_budget) == ("show", 50)
    assert (off.think, off.stop) == ("off", ("END",))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 5}, "messages must be a list of objects with role and content"),
        ({"messages": []}, "messages must be a list of objects with role and content"),
        ({**ASK, "tools": [{"name": "read", "input_schema": {}}]}, "tools are not supported"),
        ({**ASK, "tools": [{}]}, "a tool must be an object with name and input_schema"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image input is not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "messages[0].content has a block of type 'document', which is not supported",
        ),
        ({**ASK, "top_q": 1}, "unknown setting 'top_q'"),
        ({**ASK, "n": 2}, "n must be 1: a message has one answer"),
    ],
)
def test_errors_have_the_form_of_anthropic(serve: ServerMaker, body: Any, message: str) -> None:
    reply = serve().post("/v1/messages", body)
    assert (reply.code, reply.data["type"], reply.data["error"]["type"]) == (400, "error", "invalid_request_error")
    assert reply.data["error"]["message"].startswith(message)
