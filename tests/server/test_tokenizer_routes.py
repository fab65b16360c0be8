"""Routes of the tokenizer and the chat template, with an engine without a model."""

from typing import Any

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.inference.fake_vocab import CONTROL, FakeVocab
from tests.server.conftest import Client, ServerMaker

MESSAGES = [{"role": "user", "content": "Hi"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content or '' }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.path }}){% endfor %}"
    "{{ '\\n' }}{% endfor %}"
    "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def client(serve: ServerMaker) -> Client:
    tokenizer = FakeVocab(["<|end|>"], bos="<s>", adds_bos=True)
    return serve(FakeEngine(tokenizer=tokenizer, chat_template=TEMPLATE))


def test_tokenize_has_the_fields_of_llama_server(client: Client) -> None:
    assert client.post("/tokenize", {"content": "aé"}).data["tokens"] == [97, 233]
    data = client.post("/tokenize", {"content": "a", "add_special": True, "with_pieces": True}).data
    assert data["tokens"] == [{"id": CONTROL + 1, "piece": "<s>"}, {"id": 97, "piece": "a"}]


def test_tokenize_has_the_fields_of_vllm(client: Client) -> None:
    data = client.post("/tokenize", {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}).data
    assert (data["tokens"], data["count"], data["token_strs"]) == ([97, 98], 2, ["a", "b"])
    assert data["max_model_len"] == 4096
    assert client.post("/tokenize", {"prompt": "ab"}).data["tokens"] == [CONTROL + 1, 97, 98]


def test_tokenize_counts_the_tokens_of_messages(client: Client) -> None:
    data = client.post("/tokenize", {"messages": MESSAGES}).data
    assert data["count"] == 1 + len("user: Hi\nassistant: ")


def test_special_texts_are_tokens_unless_refused(client: Client) -> None:
    assert client.post("/tokenize", {"content": "<|end|>"}).data["tokens"] == [CONTROL]
    assert len(client.post("/tokenize", {"content": "<|end|>", "parse_special": False}).data["tokens"]) == 7


def test_detokenize_gives_the_text_under_both_names(client: Client) -> None:
    data = client.post("/detokenize", {"tokens": [97, CONTROL, 233]}).data
    assert data == {"content": "a<|end|>é", "prompt": "a<|end|>é"}


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (-1, "-1 is not a token: the vocabulary has 1114114"),
        (CONTROL + 2, "1114114 is not a token: the vocabulary has 1114114"),
        (True, "tokens must be a list of integers"),
        ("a", "tokens must be a list of integers"),
        (1.5, "tokens must be a list of integers"),
    ],
)
def test_detokenize_refuses_what_is_not_a_token(client: Client, token: object, message: str) -> None:
    reply = client.post("/detokenize", {"tokens": [token]})
    assert (reply.code, reply.data["error"]["message"]) == (400, message)


@pytest.mark.parametrize("extra", [{}, {"with_pieces": True}, {"return_token_strs": True}])
def test_tokenize_refuses_what_is_not_a_token(client: Client, extra: Any) -> None:
    for token in (-7, CONTROL + 2, 2**70):
        reply = client.post("/tokenize", {"content": [token, "a"], **extra})
        assert (reply.code, f"{token} is not a token" in reply.data["error"]["message"]) == (400, True)


def test_an_unknown_field_gets_the_nearest_name(client: Client) -> None:
    for path, body, field, near in (
        ("/tokenize", {"content": "a"}, "add_specials", "add_special"),
        ("/detokenize", {"tokens": [97]}, "token", "tokens"),
        ("/v1/embeddings", {"input": "a"}, "encoding_fromat", "encoding_format"),
        ("/v1/rerank", {"query": "a", "documents": ["a"]}, "topn", "top_n"),
    ):
        error = client.post(path, {**body, field: 1}).data["error"]
        assert (error["code"], error["message"]) == (400, f"unknown field '{field}': did you mean '{near}'?")


def test_a_text_to_tokenize_has_a_limit(client: Client) -> None:
    """llama.cpp takes quadratic time for some of them."""
    reply = client.post("/tokenize", {"content": ["a" * 400_000, 5, "a" * 200_000]})
    message = "content has 600000 characters, and at most 524288 are possible: split it"
    assert (reply.code, reply.data["error"]["message"]) == (400, message)
    reply = client.post("/tokenize", {"content": [5] + [""] * 10_000})
    assert (reply.code, "has 10001 items" in reply.data["error"]["message"]) == (400, True)


def test_tokenizer_info_has_what_lm_eval_reads(client: Client) -> None:
    data = client.get("/tokenizer_info").data
    assert (data["bos_token"], data["eos_token"], data["chat_template"]) == ("<s>", None, TEMPLATE)


def test_the_template_is_applied_without_an_answer(client: Client) -> None:
    assert client.post("/apply-template", {"messages": MESSAGES}).data == {"prompt": "user: Hi\nassistant: "}
    body = {"messages": MESSAGES, "add_generation_prompt": False}
    assert client.post("/apply-template", body).data == {"prompt": "user: Hi\n"}


def test_the_template_gets_tools_calls_and_reasoning(client: Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.txt"}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "reasoning_content": "Hm. ", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "text"},
    ]
    tools = [{"type": "function", "function": {"name": "read", "description": "Reads <|end|>"}}]
    prompt = client.post("/apply-template", {"messages": messages, "tools": tools}).data["prompt"]
    assert prompt == "user: Hi\nassistant: Hm. read(a.txt)\ntool: text\nread: Reads <|end|>\nassistant: "
    count = client.post("/v1/chat/completions/input_tokens", {"messages": messages, "tools": tools}).data
    assert count["input_tokens"] == 1 + len(prompt)  # <|end|> in a tool is text, not a control token


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a string, or a list of texts"),
        ({"messages": [{"role": "x", "content": ""}]}, "messages[0].role must be system, user, assistant or tool"),
        ({"messages": MESSAGES, "tools": "x"}, "tools must be a list"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0] must be an object with a function",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments must be JSON",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "image input is not supported",
        ),
    ],
)
def test_messages_that_are_not_valid_are_named(client: Client, body: Any, message: str) -> None:
    reply = client.post("/apply-template", body)
    assert (reply.code, reply.data["error"]["message"][: len(message)]) == (400, message)
