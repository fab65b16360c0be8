"""OpenAI's own client for Python against the server, with the starter model."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_type_hints

import pytest

from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from tests.server.conftest import running_server

if TYPE_CHECKING:  # 0.6 s, for each worker of each selection of tests
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(target: ResolvedModel) -> Iterator[OpenAI]:
    from openai import OpenAI

    layers = [Layer("flag", {"n_ctx": 512, "n_threads": 1})]
    with running_server(entries=[entry_of(target, layers, 2, 8)]) as server:
        yield OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


def test_a_chat_and_its_stream_have_the_same_text(client: OpenAI) -> None:
    options = {"model": "starter", "messages": ASK, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    chunks = client.chat.completions.create(**options, stream=True)  # type: ignore[call-overload]
    text = "".join(one.choices[0].delta.content or "" for one in chunks)
    assert whole.choices[0].message.content == text != ""
    assert whole.usage.completion_tokens == 12


def test_a_completion_has_log_probabilities(client: OpenAI) -> None:
    made = client.completions.create(model="starter", prompt="The sky is", max_tokens=3, logprobs=2, temperature=0)
    logprobs = made.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == made.choices[0].text


def test_a_schema_is_kept(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    made = client.chat.completions.create(
        model="starter",
        messages=[{"role": "user", "content": "How old is a cat?"}],
        max_tokens=40,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "cat", "schema": {**schema, "additionalProperties": False}},
        },
    )
    assert (made.choices[0].message.content or "").startswith('{"age": ')


def test_models_vectors_and_decisions(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["starter"]
    first, second = client.embeddings.create(model="starter", input=["a cat", "a dog"]).data
    assert len(first.embedding) == len(second.embedding) == 576
    made = client.decisions.create(
        model="starter",
        input="I love this lamp.",
        questions=[{"type": "predicate", "instructions": "The text is positive."}],
    )
    (answer,) = made.answers
    assert answer.type == "predicate"
    assert 0 < answer.probability < 1


def test_a_response_and_its_stream_have_the_same_text(client: OpenAI) -> None:
    options = {"model": "starter", "input": "Say hello.", "max_output_tokens": 16, "temperature": 0}
    whole = client.responses.create(**options)  # type: ignore[call-overload]
    with client.responses.stream(**options) as stream:  # type: ignore[call-overload]
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert whole.output_text == text != ""
    count = client.responses.input_tokens.count(model="starter", input="Say hello.")
    assert whole.usage.input_tokens == count.input_tokens


def test_an_answer_is_parsed_into_a_class(client: OpenAI) -> None:
    from pydantic import create_model

    Cat = create_model("Cat", name=Literal["Tom", "Kitty"], age=Literal[1, 2])  # noqa: N806
    question = "A cat, as JSON."
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    chat = client.chat.completions.parse(model="starter", messages=messages, response_format=Cat, max_tokens=60)
    response = client.responses.parse(model="starter", input=question, text_format=Cat, max_output_tokens=60)
    assert isinstance(chat.choices[0].message.parsed, Cat)
    assert isinstance(response.output_parsed, Cat)


@pytest.mark.parametrize(
    ("path", "parameters", "body", "unknown"),
    [
        (
            "/chat/completions",
            "chat.completion_create_params.CompletionCreateParamsBase",
            {"messages": ASK},
            {"web_search_options"},
        ),
        ("/completions", "completion_create_params.CompletionCreateParamsBase", {"prompt": "x"}, set()),
        ("/responses", "responses.response_create_params.ResponseCreateParamsBase", {"input": "x"}, set()),
        ("/embeddings", "embedding_create_params.EmbeddingCreateParams", {"input": "x"}, set()),
    ],
)
def test_the_server_knows_every_parameter_of_the_client(
    client: OpenAI, path: str, parameters: str, body: dict[str, object], unknown: set[str]
) -> None:
    import openai

    module, _, name = parameters.rpartition(".")
    declared = get_type_hints(getattr(import_module(f"openai.types.{module}"), name))
    found = set()
    for name in declared.keys() - body.keys() - {"model"}:
        # Most of these values are not valid, which ends the request early, with another message.
        values: dict[str, object] = {"stop": "", "user": "me", "prompt_cache_key": "x"}
        limit: dict[str, object] = {} if path == "/embeddings" else {"max_tokens": 1}
        try:
            client.post(path, cast_to=object, body={**limit, **body, name: values.get(name, ["x"])})
        except openai.BadRequestError as error:
            found |= {name} if "unknown setting" in str(error) else set()
    assert found == unknown


def test_errors_have_the_classes_of_the_client(client: OpenAI) -> None:
    import openai

    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        client.completions.create(model="starter", prompt="word " * 600)
