"""An endpoint that does not do what it should: each fault is a sentence, and the text so far is kept."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcli.inference import endpoint_client
from llmcli.models.download import http
from tests.conftest import Run
from tests.endpoints.server import Handler, Reply, serving
from tests.waiting import wait_until

ANSWER = "Blue light scatters.\n"
SECRET = "sk-very-secret"
_MODEL = ("-m", "first-model")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.01)


def status(number: int, message: str = "no", times: int = 1 << 30, **headers: str) -> Reply:
    """A server that answers a request for an answer with a status, so many times."""
    left = [times]

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if not body or not left[0]:
            return False
        left[0] -= 1
        handler.json({"error": {"message": message}}, number, **headers)
        return True

    return reply


def ask(inside: Run, url: str, *flags: str, **env: str) -> tuple[int, str, str]:
    ran = inside("generate", "why?", "--endpoint", url, *_MODEL, *flags, env=env)
    return ran.status, ran.text, ran.stderr.replace(url.removeprefix("http://"), "HOST")


@pytest.mark.parametrize(
    ("number", "message", "code", "said"),
    [
        (400, "no such field", 2, "error: HOST refused the request: no such field\n"),
        (422, "no such field", 2, "error: HOST refused the request: no such field\n"),
        (
            400,
            "maximum context length is 4096 tokens",
            7,
            "error: the prompt does not fit the context of HOST: maximum",
        ),
        (401, "bad", 4, "error: HOST needs a key\n  hint: put it into LLMCLI_API_KEY"),
        (403, "not for you", 4, "error: HOST denies access: not for you\n"),
        (404, "The model `x` does not exist", 3, "error: HOST does not have the model: The model `x` does not exist\n"),
        (
            404,
            "no model",
            3,
            "error: HOST does not have the model: no model\n  hint: see its models: llmcli models list",
        ),
        (404, "nothing here", 5, "error: HOST has no such address: nothing here\n"),
        (418, "teapot", 5, "error: HOST reports an error: teapot\n"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_server(
    number: int, message: str, code: int, said: str, inside: Run
) -> None:
    with serving(reply=status(number, message)) as (url, _):
        ended = ask(inside, url)
    assert ended[:2] == (code, "")
    assert ended[2].startswith(said)


def test_the_type_of_an_error_counts_beside_a_number_as_its_code(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body:
            error = {"code": 400, "message": "9 > 8", "type": "exceed_context_size_error"}  # as llama-server has it
            handler.json({"error": error}, 400)
        return bool(body)

    with serving(reply=reply) as (url, _):
        assert ask(inside, url)[0] == 7


@pytest.mark.parametrize("number", [429, 500, 502, 503])
def test_a_passing_error_is_tried_again(number: int, inside: Run) -> None:
    with serving(reply=status(number, times=2)) as (url, dialect):
        assert ask(inside, url)[:2] == (0, ANSWER)
    assert len(dialect.asked) == 3


def test_a_lasting_error_ends_after_some_tries(inside: Run) -> None:
    with serving(reply=status(500, "broken")) as (url, dialect):
        ended = ask(inside, url)
    assert ended == (
        5,
        "",
        "error: HOST: server error (status 500): broken (5 attempts)\n"
        "  hint: check that the server runs, or try again later\n",
    )
    assert len(dialect.asked) == 5


def test_retry_after_is_kept(inside: Run) -> None:
    with serving(reply=status(429, times=1, retry_after="1")) as (url, _):
        begin = time.monotonic()
        ended = ask(inside, url)
        assert time.monotonic() - begin >= 1
    assert ended[:2] == (0, ANSWER)
    assert "too many requests (status 429): no, retrying in 1 s (retry 1 of 4)\n" in ended[2]
    with serving(reply=status(429, retry_after="3600")) as (url, dialect):
        assert "the server asks to wait 3600 s" in ask(inside, url)[2]
    assert len(dialect.asked) == 1


def test_a_wrong_key_is_not_repeated(inside: Run) -> None:
    with serving(key="right") as (url, _):
        refused = ask(inside, url, LLMCLI_API_KEY=SECRET)
        taken = ask(inside, url, LLMCLI_API_KEY="right")
    assert refused[0] == 4
    assert refused[2].startswith("error: HOST refused the key from LLMCLI_API_KEY\n")
    assert SECRET not in refused[2]
    assert taken[:2] == (0, ANSWER)


def test_a_key_in_the_text_of_an_error_is_hidden(inside: Run) -> None:
    with serving(reply=status(403, f"the key {SECRET} is old")) as (url, _):
        ended = ask(inside, url, "--debug", "-v", LLMCLI_API_KEY=SECRET)
    assert "the key [key] is old" in ended[2]
    assert SECRET not in ended[2]


def web_page(handler: Handler, _body: dict[str, Any]) -> bool:
    handler.send(b"<!DOCTYPE html><html>Welcome</html>", "text/html")
    return True


def test_a_web_page_is_not_an_answer(inside: Run) -> None:
    with serving(reply=web_page) as (url, _):
        ended = ask(inside, url)
    assert ended[:2] == (5, "")
    assert "HOST answered with a web page in place of JSON\n  hint: check the URL" in ended[2]


def streams(*pieces: bytes, end: bool = True, cut: bool = False) -> Reply:
    """A server whose answer has these pieces; with `cut` its connection breaks after them."""

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if not body:
            return False
        handler.begin_stream()
        for piece in pieces:
            handler.chunk(piece)
        if cut:
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif end:
            handler.end_stream()
        handler.close_connection = True
        return True

    return reply


def word(text: str, **choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}, **choice}]}).encode() + b"\n\n"


END = word("", finish_reason="stop")


@pytest.mark.parametrize("cut", [False, True])
def test_half_a_stream_keeps_the_text_and_fails(cut: bool, inside: Run) -> None:
    with serving(reply=streams(word("Half"), word(" an"), cut=cut)) as (url, dialect):
        code, text, stderr = ask(inside, url)
    assert (code, text) == (5, "Half an\n")
    assert stderr.endswith("; the answer is not complete\n  hint: check that the server runs, or try again later\n")
    assert len(dialect.asked) == 1


def test_a_connection_that_ends_before_the_first_token_is_tried_again(inside: Run) -> None:
    with serving(reply=streams(cut=True)) as (url, dialect):
        code, text, stderr = ask(inside, url)
    assert (code, text) == (5, "")
    assert "(5 attempts)" in stderr
    assert len(dialect.asked) == 5


@pytest.mark.parametrize(
    "details",
    [
        {"has_done": False},
        {"has_usage": False},
        {"finish_reason": None},
        {"has_usage": False, "has_done": False},
        {"line_end": "\r\n"},
        {"line_end": "\r"},
        {"has_content_type": False},
    ],
)
def test_servers_may_leave_things_out(details: dict[str, Any], inside: Run) -> None:
    with serving(**details) as (url, _):
        data = json.loads(ask(inside, url, "--json")[1])
    assert (data["text"], data["finish_reason"]) == (ANSWER.rstrip(), "stop")
    assert data["completion_tokens"] == 4
    assert data["prompt_tokens"] == (11 if details.get("has_usage", True) else 0)


@pytest.mark.parametrize(
    "pieces",
    [
        (b": ping\n\n", b"event: message\nid: 3\n", word("Blue"), b":\n", END),
        (word("Bl")[:-1], word("ue")[:-1], END),  # without empty lines
        (word("Blue")[:9], word("Blue")[9:12], word("Blue")[12:], END),  # in pieces
        (b"\xef\xbb\xbf" + word("Blue"), END),
        (b'data: {"choices": [{"delta":\ndata: {"content": "Blue"}}]}\n\n', END),
        (word("Blue") + END + b"data: [DONE]",),
        (b"data:" + word("Blue")[6:], END),
    ],
)
def test_every_shape_of_an_event_is_read(pieces: tuple[bytes, ...], inside: Run) -> None:
    with serving(reply=streams(*pieces)) as (url, _):
        assert ask(inside, url) == (0, "Blue\n", "")


def test_a_character_may_be_cut_between_two_packets(inside: Run) -> None:
    whole = 'data: {"choices": [{"delta": {"content": "é"}}]}\n\n'.encode()
    at = whole.index(b"\xc3") + 1
    with serving(reply=streams(whole[:at], whole[at:], END)) as (url, _):
        assert ask(inside, url)[1] == "é\n"


def test_bytes_that_are_not_utf8_become_a_mark(inside: Run) -> None:
    with serving(reply=streams(b'data: {"choices": [{"delta": {"content": "a\xffb"}}]}\n\n', END)) as (url, _):
        assert ask(inside, url)[1] == "a\ufffdb\n"
    lone = b'data: {"choices": [{"delta": {"content": "a\\ud800b"}}]}\n\n'
    with serving(reply=streams(lone, END)) as (url, _):
        assert ask(inside, url)[1] == "a\ufffd\ufffd\ufffdb\n"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (b'data: {"error": {"message": "out of memory", "code": 500}}\n\n', "HOST reports an error: out of memory\n"),
        (b'data: {"error": "out of memory"}\n\n', "HOST reports an error: out of memory\n"),
        (b'event: error\ndata: {"error": {"message": "x", "code": 400}}\n\n', "HOST refused the request: x\n"),
        (b"data: not json\n\n", "HOST sent what is not JSON: 'not json'\n"),
        (b"data: [1]\n\n", "HOST sent JSON that is not an object\n"),
        (b'data: {"object": "list"}\n\n', "HOST sent an answer without choices\n"),
    ],
)
def test_an_error_in_the_middle_keeps_the_text(event: bytes, said: str, inside: Run) -> None:
    with serving(reply=streams(word("Half"), event)) as (url, _):
        code, text, stderr = ask(inside, url)
    assert (code != 0, text) == (True, "Half\n")
    assert stderr.startswith(f"error: {said}")


def test_a_line_without_end_is_refused(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "MAX_LINE", 1 << 16)
    with serving(reply=streams(word("Half"), b"data: " + b"x" * (1 << 17))) as (url, _):
        code, text, stderr = ask(inside, url)
    assert (code, text) == (5, "Half\n")
    assert "HOST sent a line of more than 0 MiB" in stderr


def test_an_answer_that_is_not_streamed_is_an_answer(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body:
            message = {"role": "assistant", "content": "Blue.", "reasoning_content": "Hm."}
            usage = {"prompt_tokens": 5, "completion_tokens": 3}
            handler.json({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
        return bool(body)

    with serving(reply=reply) as (url, _):
        data = json.loads(ask(inside, url, "--json")[1])
    assert (data["text"], data["reasoning_content"]) == ("Blue.", "Hm.")
    assert (data["prompt_tokens"], data["completion_tokens"]) == (5, 3)


def test_a_server_without_stream_options_is_asked_without_them(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if "stream_options" in body:
            wait_until(lambda: dialect.most_running >= 3)  # the others are on their way
            handler.json({"detail": [{"msg": "extra fields not permitted", "loc": ["body", "stream_options"]}]}, 422)
            return True
        return False

    with serving(reply=reply) as (url, dialect):
        assert ask(inside, url, "--samples", "3", "--best", "vote")[:2] == (0, ANSWER)
    refused = [body for _, body in dialect.asked if "stream_options" in body]
    assert len(refused) == 3  # the first ones, which run side by side
    assert len(dialect.asked) == 6


def test_the_key_never_goes_to_another_server(inside: Run) -> None:
    with serving() as (other, stranger):

        def reply(handler: Handler, body: dict[str, Any]) -> bool:
            handler.send(b"", "text/plain", 307, location=f"{other}{handler.path}")
            return True

        with serving(reply=reply) as (url, _):
            code, text, stderr = ask(inside, url, LLMCLI_API_KEY=SECRET)
    assert (code, text) == (5, "")
    assert f"HOST redirects to another server, {other}/v1/models\n" in stderr
    assert stranger.headers == []


def test_a_redirect_of_the_server_to_itself_is_followed(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body and "?" not in handler.path:
            handler.send(b"", "text/plain", 307, location=f"{handler.path}?again")
            return True
        handler.path = handler.path.partition("?")[0]
        return False

    with serving(reply=reply, key="k") as (url, _):
        assert ask(inside, url, LLMCLI_API_KEY="k")[:2] == (0, ANSWER)


def test_a_redirect_that_never_ends_is_an_error(inside: Run) -> None:
    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        handler.send(b"", "text/plain", 307, location=handler.path)
        return True

    with serving(reply=reply) as (url, _):
        assert "HOST redirects too many times" in ask(inside, url)[2]


def test_nobody_at_the_port_is_an_error(inside: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        code, _, stderr = ask(inside, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert code == 5
    assert stderr.startswith("error: cannot reach HOST (")
    assert "(3 attempts)" in stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_program_at_the_port_is_an_error(scheme: str, inside: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                    connection.recv(1 << 16)

        threading.Thread(target=talk, daemon=True).start()
        code, _, stderr = ask(inside, f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
    assert code == 5
    assert ("does not speak https: " if scheme == "https" else "the connection to HOST failed (") in stderr


def half_until(released: threading.Event) -> Callable[[Handler, dict[str, Any]], bool]:
    """The first word of an answer, and then silence."""

    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if not body:
            return False
        handler.begin_stream()
        handler.chunk(word("Half"))
        released.wait(60)
        return True

    return reply


def test_silence_ends_an_answer_and_keeps_its_text(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "SILENCE_SECONDS", 0.3)
    released = threading.Event()
    with serving(reply=half_until(released)) as (url, _):
        code, text, stderr = ask(inside, url)
        released.set()
    assert (code, text) == (5, "Half\n")
    assert "HOST does not respond; the answer is not complete" in stderr


def test_a_time_limit_keeps_the_text(inside: Run) -> None:
    released = threading.Event()
    with serving(reply=half_until(released)) as (url, _):
        for seconds in ("0.4", "3", "20"):  # on a busy machine, the text may come too late for a short one
            code, text, _ = ask(inside, url, "--timeout", seconds)
            assert code == 124
            if text.strip():
                break
        released.set()
    assert text == "Half\n"


@pytest.mark.parametrize("models", [(), ("x",)])
def test_a_server_without_a_list_of_models_needs_a_name(models: tuple[str, ...], inside: Run) -> None:
    def no_list(handler: Handler, body: dict[str, Any]) -> bool:
        if body or models:
            return False
        handler.json({"detail": "Not Found"}, 404)
        return True

    with serving(models=models, reply=no_list) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url)
        assert ask(inside, url)[:2] == (0, ANSWER)
    assert ran.status == (0 if models else 2)
    assert ("does not list its models\n  hint: name the model with -m" in ran.stderr) == (not models)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(variable: str, inside: Run) -> None:
    with serving() as (url, _):
        assert ask(inside, url, **{variable: "http://127.0.0.1:9"})[:2] == (0, ANSWER)


def test_a_server_elsewhere_is_asked_through_the_proxy(inside: Run) -> None:
    def reply(handler: Handler, _body: dict[str, Any]) -> bool:
        assert handler.path.startswith("http://model.test/v1/")
        handler.path = handler.path.removeprefix("http://model.test")
        return False

    with serving(reply=reply) as (proxy, _):
        ran = inside("generate", "why?", "--endpoint", "http://model.test", *_MODEL, env={"HTTP_PROXY": proxy})
    assert (ran.status, ran.text) == (0, ANSWER)


@pytest.mark.parametrize(("variable", "value"), [("HTTP_PROXY", "nonsense://x"), ("SSL_CERT_FILE", "/nowhere/x")])
def test_a_variable_that_is_not_valid_is_named(variable: str, value: str, inside: Run) -> None:
    http._certificates.cache_clear()
    ran = inside("generate", "why?", "--endpoint", "http://model.test", *_MODEL, env={variable: value})
    http._certificates.cache_clear()
    assert ran.status == 5
    assert variable in ran.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
@pytest.mark.slow
def test_a_certificate_must_be_known(inside: Run, tmp_path: Path) -> None:
    key, known = tmp_path / "key.pem", tmp_path / "known.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(known)]
    subprocess.run(command, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(key.read_text() + known.read_text())
    with serving(certificate=both) as (url, dialect):
        http._certificates.cache_clear()
        refused = inside("generate", "why?", "--endpoint", url, *_MODEL, env={"LLMCLI_API_KEY": SECRET})
        assert dialect.headers == []
        http._certificates.cache_clear()
        taken = inside("generate", "why?", "--endpoint", url, *_MODEL, env={"SSL_CERT_FILE": str(known)})
        http._certificates.cache_clear()
    assert refused.status == 5
    assert "has a certificate that is not valid: " in refused.stderr
    assert "SSL_CERT_FILE can name a file" in refused.stderr
    assert (taken.status, taken.text) == (0, ANSWER)
