"""Anthropic's own client for Python against the server, with the starter model."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from tests.server.conftest import running_server

pytestmark = pytest.mark.model
anthropic = pytest.importorskip("anthropic")
ASK = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(target: ResolvedModel) -> Iterator[Any]:
    layers = [Layer("flag", {"n_ctx": 512, "n_threads": 1})]
    with running_server(entries=[entry_of(target, layers, 2, 8)]) as server:
        yield anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="none", max_retries=0)


def test_a_message_and_its_stream_have_the_same_text(client: Any) -> None:
    options = {"model": "starter", "messages": ASK, "max_tokens": 12, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text != ""
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    count = client.messages.count_tokens(model="starter", messages=ASK)
    assert count.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


class Cat(BaseModel):
    name: Literal["Tom", "Kitty"]
    age: Literal[1, 2]


def test_an_answer_is_parsed_into_a_class(client: Any) -> None:
    made = client.messages.parse(model="starter", messages=ASK, max_tokens=60, output_format=Cat)
    assert isinstance(made.parsed_output, Cat)


def test_models_and_errors_have_the_classes_of_the_client(client: Any) -> None:
    assert [one.id for one in client.models.list()] == ["starter"]
    with pytest.raises(anthropic.NotFoundError, match="use one of: starter"):
        client.messages.create(model="claude", messages=ASK, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="tokens"):
        client.messages.create(model="starter", messages=[{"role": "user", "content": "word " * 600}], max_tokens=1)
