"""Objects of a stream that nobody foresaw: each is an answer, or an error of the network."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.config.endpoints import Endpoint
from llmcli.errors import LlmcliError
from llmcli.inference import endpoint_tokens
from llmcli.inference.endpoint_answer import read_delta
from llmcli.inference.endpoint_client import event_data, lines_of
from llmcli.inference.endpoint_errors import error_of, raise_for_error
from llmcli.inference.endpoint_tokens import EndpointVocab
from llmcli.models.download.http import TransientError

KEYS = (
    *("choices", "delta", "message", "text", "content", "reasoning", "finish_reason", "index", "usage", "timings"),
    *("prompt_tokens", "completion_tokens", "prompt_ms", "predicted_ms", "model", "logprobs", "tokens", "token"),
    *("token_logprobs", "top_logprobs", "logprob", "bytes", "id", "refusal", "type", "thinking", "llmcli", "trace"),
    *("error", "code", "detail", "msg", "loc", "p", "rank", "entropy", "temperature", "top", "before", "i"),
)
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.sampled_from([0, -1, 1, 1 << 31, 10**400, -(10**400), "\ud800", "text", "thinking", "stop", "\x1b[31m", ""]),
)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)


@given(OBJECTS, st.lists(OBJECTS, max_size=2))
def test_every_object_is_an_answer_or_an_error(data: dict[str, object], choices: list[object]) -> None:
    vocab = EndpointVocab("model")
    for one in (data, {**data, "choices": choices}):
        with suppress(LlmcliError):
            delta = read_delta(one, vocab, "host")
            (delta.text + delta.reasoning + delta.model).encode()  # without lone surrogates
            json.dumps([[entry.logprob, entry.top] for entry in delta.logprobs], allow_nan=False)
        with suppress(LlmcliError, TransientError):
            raise_for_error(Endpoint("http://host/v1"), 500, error_of(one))


@given(
    st.lists(st.sampled_from([b"data: ", b"data:{}", b"\n", b"\r\n", b"\r", b": x", b"[DONE]", b"\xff", b"event: a"]))
)
def test_every_stream_of_lines_comes_to_an_end(pieces: list[bytes]) -> None:
    whole = [*event_data(lines_of([b"".join(pieces)], "host"), "host")]
    parts = [*event_data(lines_of(pieces, "host"), "host")]
    assert whole == parts


def test_texts_that_were_not_used_for_long_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_tokens, "_KEPT", 10)
    vocab = EndpointVocab("model")
    often = vocab.number_of(b"often")
    numbers = {}
    for n in range(100):
        numbers[n] = vocab.number_of(f"text {n}".encode())
        assert vocab.number_of(b"often") == often
    assert len({often, *numbers.values()}) == 101
    assert [vocab.piece(one) for one in (often, numbers[99], numbers[0])] == [b"often", b"text 99", b""]
