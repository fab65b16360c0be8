"""Bodies that nobody meant: each route refuses them by name, and never fails or hangs."""

import json
import os
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.params.settings import fields
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, running_server

ROUTES = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/decisions"),
    *("/v1/messages", "/v1/responses", "/completion", "/tokenize", "/detokenize", "/apply-template"),
)
KEYS = (
    *("messages", "prompt", "model", "n", "stream", "stream_options", "max_tokens", "stop", "seed", "logprobs", "echo"),
    *("top_logprobs", "logit_bias", "response_format", "reasoning_effort", "input", "query", "documents", "texts"),
    *("questions", "content", "tokens", "encoding_format", "top_n", "tools", "tool_choice", "system", "best_of"),
    *("n_predict", "n_probs", "thinking", "add_special", "with_pieces", "instructions", "max_output_tokens"),
    *fields(),
)
NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, -1e308, 3.7])
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["a", "user", "json_schema", "0.3..1.3", "edt:0.8", "@/etc/passwd", "/etc/passwd", "(a+)+$", "\0"]),
    st.sampled_from(["{{ 1 }}", "root ::= root", "\ud800", "cosine:1->0@9", "-inf", "nan", "none", "off"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.sampled_from(["type", "text", "role", "content", "schema"]), TEXTS), inner, max_size=4
        ),
    ),
    max_leaves=8,
)
MESSAGES = st.one_of(VALUES, st.lists(st.fixed_dictionaries({"role": TEXTS, "content": VALUES}), max_size=3))
BODIES = st.tuples(
    st.sampled_from(ROUTES),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.one_of(st.just({}), st.fixed_dictionaries({"messages": MESSAGES}), st.fixed_dictionaries({"prompt": VALUES})),
    st.booleans(),
)


@pytest.fixture(scope="module")
def client() -> Any:
    with running_server(FakeEngine(["Hello", "."])) as client:
        yield client


@given(BODIES)
@settings(
    max_examples=int(os.environ.get("EXAMPLES", "120")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_body_makes_a_route_fail(client: Client, request_data: tuple[str, Any, Any, bool]) -> None:
    route, own, question, is_valid_question = request_data
    if is_valid_question:
        question = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "a"}
        question = {"messages" if "chat" in route or "messages" in route else "prompt": question.popitem()[1]}
    body = json.dumps({**own, **question}).encode()
    reply = client.request("POST", route, body)
    # 501 names what the model cannot do, 503 that too many answers are asked for.
    assert reply.code in (200, 400, 403, 404, 413, 422, 501, 503, 504), reply.body
    if reply.code != 200:
        assert reply.data["error"]["message"]


NESTED = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 40_000 + b"1" + b"}" * 40_000]


def test_what_is_not_a_json_object_gets_400(client: Client) -> None:
    bodies = [b"", b"null", b"[]", b"1", b'"a"', b"{", b'{"prompt": "a"}}', b'{"prompt": "a",}', b'{"prompt": "\xff"}']
    bodies += [b"\xff\xfe{\0}\0", b'{"prompt": NaN}', b'{"seed": 1e999}', b'{"seed": ' + b"9" * 100_000 + b"}", *NESTED]
    bodies += [b'{"messages": ' + one + b"}" for one in NESTED]
    for route in ROUTES:
        for body in bodies:
            reply = client.request("POST", route, body)
            assert reply.code in (400, 404), (route, body[:40], reply.body)


def test_deep_values_are_refused_where_they_stand(client: Client) -> None:
    for depth in (100, 400, 900, 1100):
        value = b'{"a":' * depth + b"1" + b"}" * depth
        for key in (b"json_schema", b"response_format", b"logit_bias", b"stop", b"template_arg", b"model", b"prompt"):
            reply = client.request("POST", "/v1/completions", b'{"prompt": "a", "%s": %s}' % (key, value))
            assert reply.code in (200, 400), (key, reply.body)


def test_bounds_are_named_in_the_refusal(client: Client) -> None:
    cases = {"n": [0, 129, -1, 2**40, 1.5, "2", True], "max_tokens": [-2, 2**31, 2**64, 1.5, "a"]}
    cases |= {"logprobs": [-1, 10**6, 1.5], "seed": [-2, 2**32, 1e30], "temperature": [-1, "x", [], {}]}
    cases |= {"top_p": [2, -0.1, "a"], "stop": [1, {}, [1]], "stream": [1, "yes"], "logit_bias": [1, "a", {"a": "b"}]}
    for key, values in cases.items():
        for value in values:
            reply = client.post("/v1/completions", {"prompt": "a", key: value})
            assert reply.code == 400, (key, value, reply.body)
            assert key in reply.data["error"]["message"]


def test_no_setting_of_a_request_names_a_file_or_runs_code(client: Client) -> None:
    """What a request could name: each setting whose value is a path, and functions."""
    paths = [field.key for field in fields().values() if field.path]
    assert {"grammar_file", "temp_policy_file", "json_schema", "chat_template", "file"} <= {*paths}
    for key in paths:
        for value in ("/etc/passwd", "../../etc/passwd", "C:\\Windows\\win.ini", "p.py:f"):
            reply = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], key: value})
            assert reply.code in (400, 404), (key, reply.body)
            assert "root:" not in reply.body.decode()
    for choices in ("@/etc/passwd", ["@/etc/passwd"]):
        assert client.post("/v1/completions", {"prompt": "a", "choices": choices}).code == 400


def test_a_package_function_runs_only_if_the_command_names_it(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the code of a package was loaded")

    class Point:
        name, dist, value, load = "warmer", None, "package:warmer", forbidden

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Point])
    for temperature in ("warmer:1", "think=warmer:1,answer=0.5", "sentence:0.8,warmer:1"):
        reply = client.post("/v1/completions", {"prompt": "a", "temperature": temperature})
        assert (reply.code, "'warmer'" in reply.data["error"]["message"]) == (400, True), reply.body


def test_a_body_with_very_many_values_is_refused_at_once(client: Client) -> None:
    numbers, texts = b"1," * 1_100_000 + b"1", b'"a",' * 1_100_000 + b'"a"'
    for body in (b'{"prompt": [%s]}' % numbers, b'{"prompt": "a", "stop": [%s]}' % texts, b'{"input": [%s]}' % texts):
        reply = client.request("POST", "/v1/completions", body)
        assert reply.data["error"]["message"] == "the body has more than 1048576 values"
    message = {"role": "user", "content": "Hi"}
    reply = client.post("/v1/chat/completions", {"messages": [message] * 8193})
    assert reply.data["error"]["message"] == "messages has 8193 items, and at most 8192 are possible"
    reply = client.post("/v1/completions", {"prompt": "a", **{f"key{number}": 1 for number in range(2000)}})
    assert reply.data["error"]["message"] == "the body has 2001 fields, and at most 1024 are possible"
    biases = [[number, -1] for number in range(300)] * 30
    assert client.post("/v1/completions", {"prompt": "a", "logit_bias": biases}).code == 200
    reply = client.post("/v1/completions", {"prompt": "a", "temp": "sentence:" + "0.8," * 2000})
    assert reply.data["error"]["message"] == "temperature of a request must have at most 4096 characters, got 8009"
    reply = client.post("/v1/completions", {"prompt": "a", "logit_bias": dict.fromkeys(range(70_000), 1)})
    assert reply.data["error"]["message"] == "logit_bias of a request must have at most 65536 items, got 70000"


def test_commas_in_a_text_are_no_values(client: Client) -> None:
    reply = client.post("/v1/completions", {"prompt": 'a,\\",' * 600_000})
    assert "has more than 16" in reply.data["error"]["message"]  # tokens than the context


def test_templates_and_patterns_of_requests_have_limits(client: Client) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}{{ messages[0].content }}"
    attacks: list[dict[str, Any]] = [
        {"chat_template": loop},
        {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}"},
        {"chat_template": "{{ 'a' * 10**10 }}{{ messages[0].content }}"},
        {"chat_template": "{% include '/etc/passwd' %}{{ messages[0].content }}"},
        {"chat_template": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"},
        {"regex": "(" * 10_000 + "a" + ")" * 10_000},
        {"regex": "(a{1,1000}){1,1000}"},
        {"grammar": "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000},
        {"grammar": "root ::= root"},
        {"json_schema": {"type": "string", "pattern": "(a+)+$" * 100}},
        {"json_schema": {"$ref": "#"}},
        {"json_schema": {"$ref": "file:///etc/passwd"}},
        {"json_schema": {"$ref": "http://127.0.0.1:1/schema"}},
        {"stop": ["a" * 100_000] * 100},
        {"logit_bias": {str(number): 1 for number in range(100_000)}},
        {"banned_strings": ["a" * 1000] * 1000},
    ]
    for attack in attacks:
        start = time.monotonic()
        reply = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], **attack})
        assert reply.code in (200, 400, 422), (str(attack)[:80], reply.body)
        assert time.monotonic() - start < 30, str(attack)[:80]
