"""OpenAI's Responses, with an engine without a model."""

from typing import Any

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker

WARM = ["x"]  # the first answer is that of the start


def test_a_response_has_items_and_usage(serve: ServerMaker) -> None:
    data = serve(FakeEngine(["Good", " day"])).post("/v1/responses", {"input": "Hi"}).data
    assert (data["object"], data["status"], data["id"][:5]) == ("response", "completed", "resp_")
    (item,) = data["output"]
    assert (item["type"], item["id"][:4], item["role"]) == ("message", "msg_", "assistant")
    assert item["content"] == [{"type": "output_text", "text": "Good day", "annotations": [], "logprobs": []}]
    usage = data["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (len("user: Hi\nassistant: "), 2)


def test_a_response_that_is_cut_is_incomplete(serve: ServerMaker) -> None:
    data = serve(FakeEngine(["a", "b"])).post("/v1/responses", {"input": "Hi", "max_output_tokens": 1}).data
    assert (data["status"], data["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_stream_of_a_response_is_numbered_and_named(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, ["<think>", "Hm", "</think>", "Good", " day"]))
    events = client.post("/v1/responses", {"input": "Hi", "stream": True}).events
    assert [one["type"].removeprefix("response.") for one in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    end = events[-1]["response"]
    assert "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta") == "Good day"
    assert [item["type"] for item in end["output"]] == ["reasoning", "message"]
    names = {one["item_id"] for one in events if "item_id" in one}
    assert names == {item["id"] for item in end["output"]}
    assert events[-1]["timings"]["predicted_n"] == 5


def test_progress_and_timings_come_in_events(serve: ServerMaker) -> None:
    body = {"input": "Hi", "stream": True, "return_progress": True, "timings_per_token": True}
    events = serve().post("/v1/responses", body).events
    assert [one["type"] for one in events if "prompt_progress" in one] == ["response.in_progress"]
    assert all("timings" in one for one in events if one["type"] == "response.output_text.delta")


def test_items_of_a_conversation_become_messages(serve: ServerMaker) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content or '' }}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.path }}){% endfor %}; "
        "{% endfor %}assistant: "
    )
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Read it."}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Which one?"}]},
        {"type": "function_call", "call_id": "1", "name": "read", "arguments": '{"path": "a"}'},
        {"type": "function_call_output", "call_id": "1", "output": "abc"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is abc."}]},
        {"role": "user", "content": "Thanks."},
    ]
    client = serve(FakeEngine(chat_template=template))
    data = client.post("/v1/responses", {"input": items, "store": False, "text": {"format": {"type": "text"}}}).data
    texts = "system: Be brief.; user: Read it.; assistant: Which one?read(a); tool: abc; assistant: It is abc.; "
    assert data["usage"]["input_tokens"] == len(texts + "user: Thanks.; assistant: ")


def test_the_tokens_of_an_input_are_counted(serve: ServerMaker) -> None:
    body = {"instructions": "Be brief.", "input": "Hi"}
    reply = serve().post("/v1/responses/input_tokens", body)
    n_tokens = len("system: Be brief.\nuser: Hi\nassistant: ")
    assert reply.data == {"object": "response.input_tokens", "input_tokens": n_tokens}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input must be a string, or a list of items"),
        ({"input": [3]}, "an item of input must be an object"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id is not supported"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "input has an item of type 'item_reference'"),
        ({"input": "a", "tools": [{"type": "function", "name": "f"}]}, "tools are not supported"),
        ({"input": "a", "n": 2}, "n must be 1: a response has one answer"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
            "image input is not supported",
        ),
    ],
)
def test_a_response_refuses_what_it_cannot_do(serve: ServerMaker, body: Any, message: str) -> None:
    reply = serve().post("/v1/responses", body)
    assert reply.code == 400
    assert reply.data["error"]["message"].startswith(message)
