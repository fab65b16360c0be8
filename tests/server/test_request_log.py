"""The log: a line for each request, without what it says unless that is asked for."""

import json
import re
from typing import Any

import pytest

from llmcli.errors import LlmcliError
from llmcli.server.guard import Access
from llmcli.server.keys import Keys, make_key
from llmcli.server.request_log import RequestRecord, json_line, text_line
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import Client, ServerMaker

KEY = "a" * 20
SECRET = "the secret question"


@pytest.fixture
def client(serve: ServerMaker) -> Client:
    engine = FakeEngine(["x"], ["the ", "secret ", "answer"], delay=0.002)
    return serve(engine, access=Access(Keys(None, [make_key("alice", KEY)], lambda *_: None)))


def ask(client: Client, **body: Any) -> dict[str, Any]:
    client.post("/v1/completions", {"prompt": SECRET, **body}, {"X-Api-Key": KEY})
    return client.record().data(has_content=False)


def test_a_line_has_the_request_its_key_its_tokens_and_times(client: Client) -> None:
    for stream in (False, True):
        data = ask(client, stream=stream)
        assert (data["key"], data["method"], data["path"], data["status"]) == ("alice", "POST", "/v1/completions", 200)
        assert (data["model"], data["prompt_tokens"], data["generated_tokens"]) == ("fake", 19, 3)
        assert 2 <= data["first_token_ms"] < data["total_ms"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["time"])
        words = f"{data['id']} alice POST /v1/completions 200 fake prompt=19 cached=0 generated=3 first="
        assert f" {words}" in text_line(data)
        assert json.loads(json_line(data)) == data


def test_the_response_has_the_id_of_the_line(client: Client) -> None:
    reply = client.get("/health")
    assert re.fullmatch("[0-9a-f]{16}", reply.headers["x-request-id"])
    assert client.record().id == reply.headers["x-request-id"]
    assert client.get("/health", {"X-Request-Id": "my-1.2_3"}).headers["x-request-id"] == "my-1.2_3"
    assert client.get("/health", {"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
    assert client.get("/nowhere", {"X-Api-Key": KEY}).headers["x-request-id"] == client.record().id


def test_no_content_is_logged_unless_it_is_asked_for(client: Client) -> None:
    ask(client)
    ask(client, logit_bias=SECRET)  # an error quotes it
    client.record()
    lines = [line(one.data(False)) for one in client.records for line in (text_line, json_line)]
    assert "secret" not in "".join(lines)
    assert "invalid_request_error" in lines[-1]
    first, second = [one.data(has_content=True) for one in client.records]
    assert (first["prompts"], first["answers"]) == ([SECRET], ["the secret answer"])
    assert SECRET in str(second["message"])
    assert f'prompts=["{SECRET}"] answers=["the secret answer"]' in text_line(first)


def test_faults_of_the_server_are_logged_with_their_message(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["x"], ["a", LlmcliError("the model computed NaN")], [RuntimeError("broken")], ["b"]))
    reply = client.post("/v1/completions", {"prompt": "a"})
    assert (reply.code, reply.data["error"]["message"]) == (500, "the model computed NaN")
    assert client.record().data(False)["message"] == "the model computed NaN"
    reply = client.post("/v1/completions", {"prompt": "a"})
    assert "RuntimeError: broken" in reply.data["error"]["message"]
    assert client.record().data(False)["message"] == "RuntimeError: broken"
    assert client.post("/v1/completions", {"prompt": "a"}).code == 200


def test_a_stream_that_fails_is_logged_with_its_error(serve: ServerMaker) -> None:
    client = serve(FakeEngine(["x"], ["a", LlmcliError("the model computed NaN")]))
    reply = client.post("/v1/completions", {"prompt": "a", "stream": True})
    assert reply.events[-1]["error"]["message"] == "the model computed NaN"
    data = client.record().data(False)
    assert (data["status"], data["error"], data["message"]) == (200, "server_error", "the model computed NaN")


def test_control_characters_do_not_reach_the_terminal() -> None:
    record = RequestRecord("id", "GET", "/a", model="m\x1b[31m\nfake line", error=LlmcliError("b\x1b]0;\x07\u202e\n"))
    data = record.data(has_content=True)
    for line in (text_line(data), json_line(data)):
        assert line.endswith("\n")
        assert line[:-1].isprintable()


def test_the_path_is_logged_without_its_query(client: Client) -> None:
    client.get("/a%0Ab%1B[31m?key=secret", {"X-Api-Key": KEY})
    assert client.record().path == "/a%0Ab%1B[31m"
    client.get("/" + "a" * 5000)
    assert len(client.record().path) == 200


def test_headers_are_written_in_the_usual_case(serve: ServerMaker) -> None:
    connection, response = serve().open("GET", "/health")
    names = [name for name, _ in response.getheaders()]
    assert {"X-Request-Id", "Content-Type", "Content-Length"} <= {*names}
    connection.close()
