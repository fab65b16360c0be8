"""Chat completions beyond a message and its answer: beginnings, tools, progress, timings, and what is refused."""

from typing import Any

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
BEGUN = {"messages": [*ASK["messages"], {"role": "assistant", "content": "Good"}]}
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
WARM = ["x"]  # the first answer is that of the start


@pytest.mark.parametrize("extra", [{}, {"continue_final_message": True, "add_generation_prompt": False}])
def test_a_last_message_of_the_assistant_is_continued(serve: ServerMaker, extra: Any) -> None:
    engine = FakeEngine(WARM, [" day", "!"])
    reply = serve(engine).post("/v1/chat/completions", {**BEGUN, **extra, "verbose": True})
    assert reply.data["choices"][0]["message"]["content"] == " day!"
    assert reply.data["__verbose"]["prompt"].endswith("user: Hi\nassistant: Good")


def test_a_continued_stream_has_only_what_is_new(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, [" day", "!"]))
    events = client.post("/v1/chat/completions", {**BEGUN, "stream": True}).events
    pieces = [one["choices"][0]["delta"] for one in events[:-1]]
    assert [one.get("content") for one in pieces] == [None, " day", "!", None]


def test_with_echo_the_beginning_comes_back(serve: ServerMaker) -> None:
    client = serve(FakeEngine(WARM, [" day"]))
    message = client.post("/v1/chat/completions", {**BEGUN, "echo": True}).data["choices"][0]["message"]
    assert message["content"] == "Good day"


def test_reasoning_of_the_beginning_is_continued(serve: ServerMaker) -> None:
    engine = FakeEngine(WARM, [" It is.", "</think>\n\n", "Yes."])
    begun = {"role": "assistant", "content": "", "reasoning_content": "Is it?"}
    client = serve(engine)
    data = client.post("/v1/chat/completions", {"messages": [*ASK["messages"], begun], "verbose": True}).data
    message = data["choices"][0]["message"]
    assert data["__verbose"]["prompt"].endswith("assistant: <think>\nIs it?")
    assert (message["reasoning_content"], message["content"]) == (" It is.", "Yes.")


def test_the_fingerprint_names_the_build_of_llama_cpp(serve: ServerMaker) -> None:
    assert serve().post("/v1/chat/completions", ASK).data["system_fingerprint"].startswith("bfake 1-llmcli-")


def test_the_first_chunk_has_the_role_and_no_timings(serve: ServerMaker) -> None:
    body = {**ASK, "stream": True, "timings_per_token": True, "stream_options": {"include_usage": True}}
    first, second, *_, usage, _done = serve(FakeEngine(["a", "b"])).post("/v1/chat/completions", body).events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert "timings" not in first
    assert second["timings"]["predicted_n"] >= 1
    assert (usage["choices"], usage["usage"]["total_tokens"], usage["timings"]["predicted_n"]) == ([], 22, 2)


def test_progress_comes_with_the_role_once(serve: ServerMaker) -> None:
    body = {**ASK, "stream": True, "return_progress": True}
    events = serve(FakeEngine(["a", "b"])).post("/v1/chat/completions", body).events[:-1]
    assert [("prompt_progress" in one, one["choices"][0]["delta"].get("role")) for one in events] == [
        (True, "assistant"),
        (False, None),
        (False, None),
        (False, None),
    ]


def test_tools_that_must_not_be_called_are_left_out(serve: ServerMaker) -> None:
    body = {**ASK, "tools": [TOOL], "tool_choice": "none", "verbose": True}
    data = serve(FakeEngine(["Hi"])).post("/v1/chat/completions", body).data
    assert "read" not in data["__verbose"]["prompt"]
    assert data["choices"][0]["message"]["content"] == "Hi"


def test_biases_can_be_an_object_of_ids_or_texts(serve: ServerMaker) -> None:
    body = {**ASK, "logit_bias": {"65": -100, "b": 1}, "verbose": True}
    data = serve().post("/v1/chat/completions", body).data
    assert data["__verbose"]["generation_settings"]["logit_bias"] == [
        {"token": 65, "bias": -100.0},
        {"token": 98, "bias": 1.0},
    ]


def test_the_details_are_only_there_on_request(serve: ServerMaker) -> None:
    client = serve()
    assert "__verbose" not in client.post("/v1/chat/completions", ASK).data
    assert "__verbose" in client.post("/v1/completions", {"prompt": "a", "verbose": True}).data


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"tools": [TOOL]}, "tools are not supported: leave it out, or use tool_choice none"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools are not supported"),
        ({"tool_choice": "required"}, "tool_choice must be none: tool calls are not supported"),
        ({"continue_final_message": True}, "continue_final_message needs a last message of the assistant"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt and continue_final_message cannot both be true: set one of them",
        ),
        ({"messages": [*BEGUN["messages"], BEGUN["messages"][-1]]}, "messages must not end with two messages"),
        ({**BEGUN, "prefill": "Well"}, "prefill and a last message of the assistant both begin the answer"),
        ({"n": 0}, "n must be between 1 and 128, got 0"),
        ({"reasoning_format": "none"}, "reasoning_format is not supported: leave it out"),
        ({"response_format": {"type": "json_object", "schema": 123}}, "response_format.schema must be an object"),
        ({"response_format": {"type": "sound"}}, "response_format must be text, json_object, or json_schema"),
        ({"messages": []}, "messages must be a list of objects with role and content"),
        ({"stream_options": []}, "stream_options must be an object"),
    ],
)
def test_a_chat_refuses_by_name_what_it_cannot_do(serve: ServerMaker, extra: Any, message: str) -> None:
    reply = serve().post("/v1/chat/completions", {**ASK, **extra})
    assert reply.code == 400
    assert reply.data["error"]["message"].startswith(message)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_its_schema_has_an_error(serve: ServerMaker, stream: bool) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    body = {**ASK, "response_format": schema, "stream": stream, "temperature": 0}
    reply = serve(FakeEngine(["no"])).post("/v1/chat/completions", body)
    choice = reply.events[-2]["choices"][0] if stream else reply.data["choices"][0]
    assert (choice["finish_reason"], choice["error"]["type"]) == ("stop", "constraint_unmet_error")
