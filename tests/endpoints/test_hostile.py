"""An endpoint that means harm, or speaks oddly: it gets no key, no terminal, no memory and no patience."""

import gzip
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli import completion
from llmcli.errors import NetworkError
from llmcli.inference import endpoint, endpoint_client, endpoint_exchange, endpoint_server
from llmcli.inference.endpoint_answer import read_delta
from llmcli.inference.endpoint_tokens import EndpointVocab
from llmcli.models.download import http
from tests.conftest import Run
from tests.endpoints.server import Handler, Reply, serving
from tests.endpoints.test_faults import ANSWER, END, SECRET, ask, status, streams, word
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.01)


def sends(data: bytes, kind: str = "application/json", number: int = 200, **headers: str) -> Reply:
    """A server that gives these bytes in place of an answer."""

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body:
            handler.send(data, kind, number, **headers)
        return bool(body)

    return reply


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


# The key


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (sends(f"you sent {SECRET}".encode(), "text/plain"), "'you sent [key]'"),
        (status(400, "x" * 290 + SECRET), "x" * 290 + "[key]"),  # also where the text is cut
        (sends(b"", number=307, location=f"http://other.test/?key={SECRET}"), "http://other.test/?key=[key]"),
        (streams(event({"model": SECRET, "choices": [{"delta": {"content": "a"}}]}), END), "the model [key]"),
        (streams(event({"error": {"message": SECRET}})), "reports an error: [key]"),
    ],
)
def test_a_server_that_repeats_the_key_does_not_show_it(reply: Reply, shown: str, inside: Run) -> None:
    with serving(reply=reply) as (url, _):
        ended = ask(inside, url, "-v", LLMCLI_API_KEY=SECRET)
    assert shown in ended[2]
    assert SECRET not in ended[1] + ended[2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
@pytest.mark.parametrize(("mode", "is_shared"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_file_of_a_key_that_others_can_read_is_named(mode: int, is_shared: bool, inside: Run, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "k").write_text(SECRET)
    (home / "config" / "k").chmod(mode)
    with serving(key=SECRET) as (url, _):
        (home / "config" / "config.toml").write_text(f"[endpoints.work]\nurl = '{url}'\napi_key_file = 'k'\n")
        ran = inside("generate", "why?", "--endpoint", "work", "-m", "first-model")
        doctor = inside("doctor", "--endpoint", "work")
    assert ran.text == ANSWER
    for text in (ran.stderr, doctor.stderr):
        assert ("other users can read the key in " in text) == is_shared


# The wait


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Wed, 21 Oct 2037 07:28:00 GMT", r"hint: try again at 2037-10-2\d \d\d:28"),
        ("99999999999999999999", r"the server asks to wait 1000000000 s"),
        ("172800", r"hint: try again at 20\d\d-\d\d-\d\d \d\d:\d\d"),
        ("3000", r"hint: try again at \d\d:\d\d\n"),
    ],
)
def test_a_long_wait_says_until_when(value: str, said: str, inside: Run) -> None:
    import re

    with serving(reply=status(429, retry_after=value)) as (url, dialect):
        code, _, stderr = ask(inside, url)
    assert (code, len(dialect.asked)) == (5, 1)
    assert re.search(said, stderr)


@pytest.mark.parametrize(
    "value", ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo 2037 77:28:00 GMT", "-5", "soon", "\xb2", "", "1.5"]
)
def test_a_wait_that_is_over_or_not_valid_is_none(value: str, inside: Run) -> None:
    with serving(reply=status(503, times=2, retry_after=value)) as (url, _):
        assert ask(inside, url)[:2] == (0, ANSWER)


def test_a_server_that_does_not_say_what_it_has_is_given_up(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_server, "MAX_LOOK_SECONDS", 0.3)
    released = threading.Event()

    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        handler.begin_stream("application/json")
        while not released.wait(0.02):  # a byte now and then, for ever
            handler.chunk(b" ")
        return True

    with serving(reply=reply) as (url, _):
        ended = ask(inside, url)
        limited = ask(inside, url, "--timeout", "0.1")
        released.set()
    assert ended[0] == 5
    assert "HOST does not say what it has within 0.3 seconds" in ended[2]
    assert limited[0] == 124
    assert "stopped by --timeout after 0.1 s: HOST does not say yet what it has" in limited[2]


def test_a_complete_answer_does_not_wait_for_a_connection_that_stays_open(
    inside: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_exchange, "LINGER_MS", 100.0)
    released = threading.Event()

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body:
            handler.begin_stream()
            handler.chunk(word("Blue") + word("", finish_reason="length"))
            released.wait(60)
        return bool(body)

    with serving(reply=reply) as (url, _):
        data = json.loads(ask(inside, url, "--json")[1])
        assert not released.is_set()
        released.set()
    assert (data["text"], data["finish_reason"]) == ("Blue", "length")


def test_a_chat_that_still_connects_ends_at_once(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "LOOK_SECONDS", 600.0)
    released, n_ended = threading.Event(), 0

    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        nonlocal n_ended
        released.wait(50)  # less than the server has to say what it has
        n_ended += 1
        return False

    with serving(reply=reply) as (url, _):
        ran = inside("chat", "--no-save", "--endpoint", url, stdin="/exit\n")
        assert (ran.status, n_ended) == (0, 0)
        released.set()


@pytest.mark.parametrize("kind", ["vllm", "llama-server"])
def test_a_server_that_fails_to_count_is_not_asked_again(
    kind: str, inside: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_COUNT_SECONDS", 0.1)
    released = threading.Event()
    n_asked = 0

    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        nonlocal n_asked
        if handler.path in ("/tokenize", "/apply-template"):
            n_asked += 1
            released.wait(60)
        return False

    with serving(kind=kind, n_ctx=300, reply=reply) as (url, _):
        script = "word " * 120 + "\nand?\n"
        ran = inside("chat", "--no-save", "--endpoint", url, "-m", "first-model", stdin=script)
        wait_until(lambda: n_asked)
        released.set()
    assert ran.text == ANSWER * 2
    assert n_asked == 1
    assert ran.stderr.count("does not count tokens: they are estimated\n") == 1


# The amount


def test_lines_of_data_without_end_are_refused(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "MAX_LINE", 1 << 18)
    with serving(reply=streams(word("Half"), *[b"data: [\n" * 20_000] * 8)) as (url, _):
        begin = time.process_time()
        code, text, stderr = ask(inside, url)
        seconds = time.process_time() - begin
    assert (code, text) == (5, "Half\n")
    assert "HOST sent an event of more than 0 MiB" in stderr
    assert seconds < 10  # to read the whole event again with each line takes minutes


@pytest.mark.parametrize(("number", "said"), [(200, "sent a line of more than 0 MiB"), (400, "refused the request")])
def test_what_is_small_on_the_way_may_be_huge(
    number: int, said: str, inside: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_client, "MAX_LINE", 1 << 16)
    data = gzip.compress(b"\0" * (1 << 24))
    with serving(reply=sends(data, "text/event-stream", number, content_encoding="gzip")) as (url, _):
        assert said in ask(inside, url)[2]


def test_a_server_that_is_faster_than_the_terminal_waits() -> None:
    from llmcli.engine.events import Cancellation, Request, TokenEvent
    from llmcli.inference.endpoint import EndpointEngine
    from llmcli.inference.endpoint_server import open_endpoint
    from llmcli.inference.engine import TemplateOptions
    from llmcli.params.settings import Settings

    n_sent = 0

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        nonlocal n_sent
        if body:
            handler.begin_stream()
            while True:
                handler.chunk(word("word ") * 1000)
                n_sent += 1000
        return False

    with serving(reply=reply) as (url, dialect):
        engine = EndpointEngine(open_endpoint(Settings(endpoint=url)))
        prompt = engine.render([{"role": "user", "content": "why?"}], TemplateOptions("{{ messages }}"))
        request = Request(prompt, Settings(), cancellation=Cancellation())
        events = engine.generate([request])
        first: TokenEvent = next(events)
        before = -1
        while before < n_sent < 200_000:  # until the server can send no more
            before = n_sent
            time.sleep(0.2)
        assert n_sent < 200_000
        events.close()
        wait_until(lambda: dialect.n_closed)  # the thread that waits for its reader ends too
        engine.close()
    assert first.text == "word "


def test_many_models_in_one_answer_are_some_warnings(inside: Run) -> None:
    objects = [{"model": f"other-{number}", "choices": [{"delta": {"content": "a"}}]} for number in range(50)]
    with serving(reply=streams(*map(event, objects), END)) as (url, _):
        stderr = ask(inside, url)[2]
    assert stderr.count("answered with the model") == 5


# The shape


@pytest.mark.parametrize(
    ("asked", "said", "is_told"),
    [
        ("gpt-4", "gpt-4o-mini", True),
        ("gpt-4", "gpt-4-mini", True),
        ("gpt-4", "gpt-4-2026-01-01", False),
        ("gpt-4", "gpt-4-0613", False),
        ("llama", "llama:latest", False),
    ],
)
def test_the_dated_name_of_a_model_is_the_same_model(asked: str, said: str, is_told: bool, inside: Run) -> None:
    with serving(models=(asked,), answers_as=said) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "-m", asked)
    assert (f"answered with the model {said}, not with {asked}" in ran.stderr) == is_told


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((word("Half") + word(" an")[:25],), "Half"),  # in the middle of a line
        ((word("Half") + 'data: {"choices": [{"delta": {"content": "é'.encode()[:-1],), "Half"),  # of a character
        ((word("Half")[:20],), ""),
    ],
)
def test_half_an_object_is_half_an_answer(pieces: tuple[bytes, ...], text: str, inside: Run) -> None:
    with serving(reply=streams(*pieces)) as (url, dialect):
        code, shown, stderr = ask(inside, url)
    assert (code, shown.rstrip("\n")) == (5, text)
    assert "HOST ended the connection in the middle" in stderr
    assert len(dialect.asked) == (1 if text else 5)


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "Text/Event-Stream; charset=utf-8"])
@pytest.mark.parametrize("number", [200, 201])
def test_a_stream_is_one_whatever_it_is_called(kind: str, number: int, inside: Run) -> None:
    with serving(reply=sends(b": hi\n\n" + word("Blue") + END, kind, number)) as (url, _):
        assert ask(inside, url) == (0, "Blue\n", "")


def test_whole_json_is_an_answer_whatever_it_is_called(inside: Run) -> None:
    data = json.dumps({"choices": [{"message": {"content": "Blue"}, "finish_reason": "stop"}]}, indent=1).encode()
    with serving(reply=sends(data, "text/event-stream")) as (url, _):
        assert ask(inside, url) == (0, "Blue\n", "")


def test_the_text_of_an_error_may_be_no_json(inside: Run) -> None:
    with serving(reply=sends(b"upstream \x1b[31mbroken", "text/plain", 500)) as (url, _):
        assert "server error (status 500): upstream ␛[31mbroken" in ask(inside, url)[2]
    with serving(reply=sends(b"<html>Bad Gateway</html>", "text/html", 502)) as (url, _):
        assert "server error (status 502) (5 attempts)" in ask(inside, url)[2]


def test_only_the_first_choice_is_the_answer(inside: Run) -> None:
    def choices(*pairs: tuple[int, str]) -> bytes:
        return event({"choices": [{"index": index, "delta": {"content": text}} for index, text in pairs]})

    pieces = (choices((1, "B"), (0, "A")), choices((1, "B")), choices((0, "A")), END)
    with serving(reply=streams(*pieces)) as (url, _):
        assert ask(inside, url)[1] == "AA\n"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("tool_calls", "HOST asks for a call of a tool, which llmcli does not make"),
        ("abort", "HOST ended an answer before its end (abort)"),
        ({"a": 1}, "HOST ended an answer before its end (without a reason)"),
        ("content_filter", "HOST removed the rest of an answer (content filter)"),
    ],
)
def test_an_unusual_end_is_named(reason: object, said: str, inside: Run) -> None:
    with serving(reply=streams(word("Blue"), word("", finish_reason=reason))) as (url, _):
        assert ask(inside, url) == (0, "Blue\n", f"warning: {said}\n")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_every_field_of_reasoning_is_read(field: str, inside: Run) -> None:
    with serving(reasoning=("Hm.",), reasoning_field=field) as (url, _):
        assert json.loads(ask(inside, url, "--json")[1])["reasoning_content"] == "Hm."


LIMITS: list[tuple[object, list[tuple[str, float]]]]
LIMITS = [
    (None, []),
    ({"content": [None, {"token": "a", "logprob": None}, {"token": "a", "logprob": float("nan")}]}, []),
    ({"content": [{"token": "a", "logprob": float("-inf"), "top_logprobs": [None, {"logprob": 1}]}]}, [("a", -9999.0)]),
    ({"content": [{"token": "a", "logprob": -(10**400)}]}, [("a", -9999.0)]),
    ({"content": [{"token": "a", "logprob": 5.0}]}, []),
    ({"content": [{"token": "a\ud800", "logprob": -1, "bytes": [999]}]}, [("a\ufffd\ufffd\ufffd", -1.0)]),
    ({"tokens": ["\ud800"], "token_logprobs": [-1], "top_logprobs": [{"\ud800": -1}]}, [("\ufffd" * 3, -1.0)]),
    ({"tokens": [None], "token_logprobs": [10**400], "top_logprobs": 3}, []),
]


@pytest.mark.parametrize(("logprobs", "found"), LIMITS)
def test_odd_log_probabilities_are_none_or_json(logprobs: object, found: list[tuple[str, float]], inside: Run) -> None:
    pieces = event({"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}]})
    with serving(reply=streams(pieces, END)) as (url, _):
        code, text, stderr = ask(inside, url, "--json", "--logprobs", "2")
    data = json.loads(text, parse_constant=pytest.fail)
    assert (code, [(one["token"], one["logprob"]) for one in data["tokens"]]) == (0, found)
    assert ("HOST gave no log-probabilities" in stderr) == (not found)


@pytest.mark.parametrize("value", [float("-inf"), float("nan"), "x", None, 10**400])
def test_odd_scores_are_an_error(value: object, inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body.get("echo"):
            logprobs = {"tokens": ["a", "b", "c"], "token_logprobs": [None, value, -1.0]}
            handler.json({"choices": [{"index": 0, "logprobs": logprobs}]})
        return bool(body.get("echo"))

    with serving(kind="vllm", reply=reply) as (url, _):
        ran = inside("score", "abc", "--endpoint", url, "-m", "first-model", "--json")
    assert ran.status == 5
    assert "gave no log-probabilities of the prompt" in ran.stderr


# What it says of itself


def lists(*models: object) -> Reply:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if handler.path == "/v1/models":
            handler.json({"data": models})
        return handler.path == "/v1/models"

    return reply


def test_odd_models_are_listed_as_far_as_they_are_models(inside: Run) -> None:
    odd: tuple[object, ...] = (
        None,
        5,
        {"id": None},
        {"id": "good", "owned_by": None, "meta": [], "max_model_len": 10**400},
    )
    with serving(reply=lists(*odd)) as (url, _):
        assert json.loads(inside("models", "list", "--endpoint", url, "--json").text) == [
            {"name": "good", "owner": "", "n_ctx": None}
        ]
        facts = json.loads(inside("doctor", "--endpoint", url, "--json").text)["facts"]
    assert facts["models"] == "good"


def test_a_name_of_two_lines_does_not_complete(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_PATIENCE", 60.0)
    variables = {"_LLMCLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    with serving(reply=lists({"id": "a\nb"}, {"id": "good"})) as (url, _):
        ran = inside(env=variables | {"_TYPER_COMPLETE_ARGS": f"llmcli generate --endpoint {url} -m "})
    assert ran.text.split() == ["good"]


def test_odd_properties_are_not_known(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if handler.path == "/props":
            params = {"temperature": float("nan"), "top_k": 10**30, "top_p": "x"}
            settings = {"n_ctx": 10**400, "params": params}
            handler.json({"default_generation_settings": settings, "build_info": ["x"], "chat_template": 5})
        return handler.path == "/props"

    with serving(kind="llama-server", reply=reply) as (url, _):
        facts = json.loads(inside("doctor", "--endpoint", url, "--json").text)["facts"]
        assert inside("generate", "why?", "--endpoint", url, "-m", "first-model").text == ANSWER
    assert (facts["server"], facts["context"]) == ("llama-server", "not known: --ctx-size tells llmcli")


@pytest.mark.parametrize("command", [("doctor",), ("models", "list"), ("generate", "why?")])
def test_offline_holds_for_every_command(command: tuple[str, ...], inside: Run) -> None:
    ran = inside(*command, "--endpoint", "https://example.com", env={"LLMCLI_OFFLINE": "1"})
    assert ran.status == 5
    assert "example.com needs the network, but --offline is set" in ran.stderr


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test", "\u2603"])
def test_a_host_that_cannot_be_is_named(host: str, inside: Run) -> None:
    ran = inside("generate", "why?", "--endpoint", f"http://{host}")
    assert ran.status == 5
    assert ran.stderr == f"error: {host} is not a valid name of a host\n  hint: correct the URL\n"


# Proxies


def test_a_proxy_that_wants_a_password_is_named(inside: Run) -> None:
    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        handler.send(b"", "text/plain", 407)
        return True

    with serving(reply=reply) as (proxy, dialect):
        plain = inside("generate", "why?", "--endpoint", "http://model.test", env={"HTTP_PROXY": proxy})
    assert plain.status == 5
    assert "the proxy refuses the connection to model.test (status 407)" in plain.stderr
    assert len(dialect.paths) == 1


def test_a_proxy_that_refuses_a_tunnel_is_named(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: Handler) -> None:
        handler.send(b"", "text/plain", 407)
        handler.close_connection = True

    monkeypatch.setattr(Handler, "do_CONNECT", refuse, raising=False)
    with serving() as (proxy, _):
        ran = inside("generate", "why?", "--endpoint", "https://model.test", env={"HTTPS_PROXY": proxy})
    assert ran.status == 5
    assert "the proxy refuses the connection to model.test (407 Proxy Authentication Required)" in ran.stderr
    assert "hint: check HTTPS_PROXY" in ran.stderr


def test_a_trace_that_no_file_could_hold_is_an_error() -> None:
    numbers = {"i": 0, "id": 5, "p": 0.5, "rank": 1, "entropy": 0.5, "temperature": 1.0, "candidates": 2}
    token = {**numbers, "text": "The", "top": [], "policy": "1", "sentence": 0, "time": 1.0}
    whole = read_delta({"choices": [{"llmcli": {"trace": [token]}}]}, EndpointVocab("model"), "host")
    assert [one.text for one in whole.traces] == ["The"]
    for odd in ({"text": "\ud800"}, {"p": 10**400}, {"rank": "x"}):
        with pytest.raises(NetworkError, match="host sent a trace that is not valid"):
            read_delta({"choices": [{"llmcli": {"trace": [token | odd]}}]}, EndpointVocab("model"), "host")
