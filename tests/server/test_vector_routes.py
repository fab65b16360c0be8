"""Vectors and reranking over HTTP, with tiny models of llama.cpp."""

import base64
import struct
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from llmcli.server.worker import ModelWorker
from tests.models.tiny_models import encoder, full_attention
from tests.server.conftest import Client, ServerMaker


def served(serve: ServerMaker, path: Path, pooling: str = "") -> Client:
    layers = [Layer("flag", {"n_threads": 1, "n_ubatch": 64})]
    entry = entry_of(ResolvedModel(ModelFile(path, (path,), path.stem)), layers, 2, 8, pooling=pooling)
    return serve(entries=[entry])


@pytest.fixture
def bert(serve: ServerMaker, tmp_path: Path) -> Client:
    return served(serve, encoder(tmp_path / "bert.gguf"))


def test_each_input_has_a_vector_of_length_1(bert: Client) -> None:
    reply = bert.post("/v1/embeddings", {"input": ["a cat", "a dog"], "model": "bert"})
    vectors = [one["embedding"] for one in reply.data["data"]]
    assert [one["index"] for one in reply.data["data"]] == [0, 1]
    assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-3)
    assert reply.data["usage"]["prompt_tokens"] == reply.data["usage"]["total_tokens"] > 4


def test_vectors_are_pooled_as_the_server_was_told(serve: ServerMaker, tmp_path: Path) -> None:
    path = encoder(tmp_path / "bert.gguf")
    ask = {"input": "a cat", "embd_normalize": -1}
    vectors = {
        pooling: served(serve, path, pooling).post("/v1/embeddings", ask).data["data"][0]["embedding"]
        for pooling in ("", "mean", "cls", "last")
    }
    assert len({tuple(vector) for vector in vectors.values()}) == 3  # the model says one of them


def test_base64_has_the_same_numbers(bert: Client) -> None:
    plain = bert.post("/v1/embeddings", {"input": "a cat"}).data["data"][0]["embedding"]
    packed = bert.post("/v1/embeddings", {"input": "a cat", "encoding_format": "base64"}).data["data"][0]["embedding"]
    data = base64.b64decode(packed)
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(plain, abs=1e-6)


def test_tokens_are_an_input_too(bert: Client) -> None:
    assert bert.post("/v1/embeddings", {"input": [[1, 2, 3], [4, 5]]}).code == 200
    reply = bert.post("/v1/embeddings", {"input": [[1, 2, 10**6]]})
    assert (reply.code, "is not a token" in reply.data["error"]["message"]) == (400, True)


@pytest.mark.parametrize("given", ["", [], [""], 5, None, [["a"]], {"text": "a"}, [True]])
def test_an_input_that_is_no_text_is_refused(bert: Client, given: object) -> None:
    assert bert.post("/v1/embeddings", {"input": given}).code == 400


def test_a_text_that_is_too_long_is_named_with_the_numbers(bert: Client) -> None:
    error = bert.post("/v1/embeddings", {"input": ["a", "b " * 500]}).data["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] > 0


def test_an_empty_text_is_named_by_its_number(bert: Client) -> None:
    error = bert.post("/v1/embeddings", {"input": ["a", " "]}).data["error"]
    assert error["message"] == "input 1: the text is empty: remove it"
    error = bert.post("/v1/rerank", {"query": "a", "documents": ["a", "b", ""]}).data["error"]
    assert error["message"] == "input 2: the text is empty: remove it"


def test_a_text_of_megabytes_is_refused_before_it_is_tokenized(bert: Client) -> None:
    text = "a" * 600_000
    for path, body in {
        "/v1/embeddings": {"input": ["a", text]},
        "/v1/rerank": {"query": "a", "documents": [text]},
        "/rerank": {"query": text, "texts": ["a"]},
    }.items():
        reply = bert.post(path, body)
        assert (reply.code, "has 600000 characters" in reply.data["error"]["message"]) == (400, True)


def test_many_texts_leave_steps_to_others(bert: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, call, n_calls = ["a cat", "a dog", "b", "a cat"], ModelWorker.call, count()
    whole = bert.post("/v1/embeddings", {"input": texts}).data["data"]
    monkeypatch.setattr("llmcli.server.vector_routes._SLICE", 8)

    async def counted_call(self: ModelWorker, work: Any) -> Any:
        next(n_calls)
        return await call(self, work)

    monkeypatch.setattr(ModelWorker, "call", counted_call)
    parts = bert.post("/v1/embeddings", {"input": texts}).data["data"]
    assert next(n_calls) == 2
    assert [one["index"] for one in parts] == [0, 1, 2, 3]
    for one, other in zip(whole, parts, strict=True):
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-3)
    results = bert.post("/v1/rerank", {"query": "a cat", "documents": texts}).data["results"]
    assert {one["index"] for one in results[:2]} == {0, 3}


def test_a_model_for_vectors_generates_no_text(bert: Client) -> None:
    reply = bert.post("/v1/completions", {"prompt": "a"})
    assert (reply.code, reply.data["error"]["type"]) == (501, "not_supported_error")


def test_documents_come_in_the_order_of_their_scores(bert: Client) -> None:
    body = {"query": "a cat", "documents": ["a dog", "a cat", "b"], "top_n": 2}
    results = bert.post("/v1/rerank", body).data["results"]
    assert results[0]["index"] == 1
    assert [one["relevance_score"] for one in results] == sorted(one["relevance_score"] for one in results)[::-1]
    assert len(results) == 2
    texts = bert.post("/rerank", {"query": "a cat", "texts": ["a dog", "a cat"], "return_text": True}).data
    assert [one["text"] for one in texts] == ["a cat", "a dog"]


@pytest.mark.parametrize("documents", [None, [], "a", [5], [["a"]]])
def test_documents_that_are_no_texts_are_refused(bert: Client, documents: object) -> None:
    assert bert.post("/v1/rerank", {"query": "a", "documents": documents}).code == 400


def test_a_model_for_text_has_vectors_and_scores_too(serve: ServerMaker, tmp_path: Path) -> None:
    client = served(serve, full_attention(tmp_path / "text.gguf"))
    vector = client.post("/v1/embeddings", {"input": "a cat"}).data["data"][0]["embedding"]
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
    assert client.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).code == 200
    results = client.post("/v1/rerank", {"query": "a", "documents": ["a", "b"]}).data["results"]
    assert {one["index"] for one in results} == {0, 1}
