"""Vectors and the order of documents: /v1/embeddings and /v1/rerank."""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError, labeled
from llmcli.inference.embedding import Evaluation, query_likelihoods
from llmcli.server.errors import ContextError
from llmcli.server.http import Values, is_tokens, json_response, read_body, refuse_unknown, take, unless_gone
from llmcli.server.request_log import count_read
from llmcli.server.served_model import ServedModel
from llmcli.server.service import take_model

if TYPE_CHECKING:
    from llmcli.inference.embedding import Vector

_Inputs = Sequence[str | list[int]]
_Found = list[Evaluation]
_T = TypeVar("_T", str, str | list[int])
_MOST_INPUTS = 2048  # as at OpenAI
_MOST_CHARACTERS = 1 << 19  # of one text
_SLICE = 1 << 13  # characters (or tokens) of the texts that are computed together
_IGNORED = ("user", "dimensions", "raw_scores", "truncate")


async def embeddings(request: Request) -> Response:
    """A vector for each input: texts, or lists of tokens."""
    body = await read_body(request)
    model = await take_model(request, body)
    encoding, given = take(body, "encoding_format", str, "float"), body.pop("input", body.pop("content", None))
    is_normalized = take(body, "embd_normalize", int, 2) >= 0
    if encoding not in ("float", "base64"):
        raise UsageError(f"encoding_format must be float or base64, got {encoding[:40]!r}")
    if "dimensions" in body and body["dimensions"] is not None:
        raise UsageError("dimensions is not supported: a vector has the length that the model gives it", "remove it")
    _refuse_others(body, "model", "input", "encoding_format", "embd_normalize")
    inputs = _read_inputs(given)
    found = await _in_slices(request, model, inputs, partial(_embed, model, is_normalized))
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(one.vector, encoding)}
        for index, one in enumerate(found)
    ]
    n_tokens = sum(one.n_tokens for one in found)
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json_response({"object": "list", "data": data, "model": model.name, "usage": usage})


async def rerank(request: Request) -> Response:
    """The documents that answer a query best: by a reranking model, else as `llmcli rerank` does it."""
    body = await read_body(request)
    model = await take_model(request, body)
    query, is_tei = take(body, "query", str, ""), "texts" in body
    documents = body.pop("texts", None) if is_tei else body.pop("documents", None)
    top_n, shows_text = take(body, "top_n", int, 0), take(body, "return_documents", bool, False)
    shows_text |= take(body, "return_text", bool, False)
    _refuse_others(body, "model", "query", "documents", "texts", "top_n", "return_documents", "return_text")
    if not query.strip():
        raise UsageError("query must be a string that is not empty")
    name = "texts" if is_tei else "documents"
    if not isinstance(documents, list) or not documents or not all(isinstance(one, str) for one in documents):
        raise UsageError(f"{name} must be a list of strings that is not empty")
    texts: Sequence[str] = documents
    _check_lengths([query], "query ")
    _check_lengths(texts, name)
    found = await _in_slices(request, model, texts, partial(_rank, model, query))
    order = sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0))
    order = order[:top_n] if top_n > 0 else order
    if is_tei:
        entries = [
            {"index": one, "score": found[one].score, **({"text": texts[one]} if shows_text else {})} for one in order
        ]
        return json_response(list[object](entries))
    results = [
        {
            "index": one,
            "relevance_score": found[one].score,
            **({"document": {"text": texts[one]}} if shows_text else {}),
        }
        for one in order
    ]
    n_tokens = sum(one.n_tokens for one in found)
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json_response({"model": model.name, "object": "list", "usage": usage, "results": results})


def _refuse_others(body: Values, *known: str) -> None:
    for key in _IGNORED:
        body.pop(key, None)
    refuse_unknown(body, known)


def _read_inputs(value: object) -> _Inputs:
    """The inputs: texts, or lists of tokens. Raises UsageError."""
    is_list = isinstance(value, list) and not is_tokens(value)
    values: list[Any] = value if isinstance(value, list) and is_list else [value]
    if not 1 <= len(values) <= _MOST_INPUTS:
        raise UsageError(f"input must have 1 to {_MOST_INPUTS} texts, got {len(values)}")
    if not all((isinstance(one, str) and one) or is_tokens(one) for one in values):
        raise UsageError("input must be a string that is not empty, a list of such strings, or lists of tokens")
    _check_lengths(values, "input")
    return values


def _check_lengths(texts: _Inputs, name: str) -> None:
    """Raise UsageError for a text that would take long to tokenize: no step of an answer comes meanwhile."""
    for number, one in enumerate(texts):
        if len(one) > _MOST_CHARACTERS:
            raise UsageError(f"{name}[{number}] has {len(one)} characters, and at most {_MOST_CHARACTERS} are possible")


async def _in_slices(
    request: Request, model: ServedModel, texts: Sequence[_T], work: Callable[[Sequence[_T], Cancellation], _Found]
) -> _Found:
    """What some work finds for the texts, a few of them at a time, so that the answers of others go on between them."""
    found: _Found = []
    start = size = 0
    for end, one in enumerate(texts, 1):
        size += len(one)
        if size >= _SLICE or end == len(texts):
            part = partial(work, texts[start:end])
            evaluations = await unless_gone(request, model.worker.call(part))
            count_read(sum(one.n_tokens for one in evaluations))
            found += _checked(evaluations, start, model)
            start, size = end, 0
    return found


def _embed(model: ServedModel, is_normalized: bool, texts: _Inputs, stop: Cancellation) -> _Found:
    vectors = model.vectors()
    vectors.cancellation = stop
    for text in texts:
        if not isinstance(text, str):
            vectors.check_tokens(text)
    return list(vectors.embed(texts, normalize=is_normalized))


def _rank(model: ServedModel, query: str, documents: Sequence[str], stop: Cancellation) -> _Found:
    if model.generates:
        return list(query_likelihoods(model.engine, query, documents, stop, model.n_ctx))
    vectors = model.vectors()
    vectors.cancellation = stop
    return list(vectors.rank(query, documents))


def _checked(found: _Found, start: int, model: ServedModel) -> _Found:
    """What was found for the texts from `start` on. Raises the error of one, with its number."""
    for number, one in enumerate(found, start):
        if one.error and one.n_tokens > model.n_ctx:
            text = f"input {number} has {one.n_tokens} tokens, which exceeds the available context size"
            details = {"n_prompt_tokens": one.n_tokens, "n_ctx": model.n_ctx}
            raise ContextError(f"{text} of {model.n_ctx} tokens", details=details)
        if one.error:
            with labeled(f"input {number}"):
                raise one.error
    return found


def _encoded(vector: "Vector | None", encoding: str) -> object:
    """Numbers, or the bytes of float32 (little-endian) in base64, as clients of OpenAI ask for them by default."""
    if vector is None:
        return []
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
