"""What is at an endpoint: doctor, the list of models, and completion in a shell."""

import json
import threading
from pathlib import Path

import pytest

from llmcli.cli import completion
from llmcli.inference import endpoint_client
from llmcli.models.download import http
from tests.conftest import Run
from tests.endpoints.server import serving

SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    ("kind", "server", "temperature", "constraints", "scores"),
    [
        ("llama-server", "llama-server b1-test", "numbers and ranges", "json_schema, grammar", "no"),
        ("vllm", "vLLM 0.99", "numbers", "json_schema, regex, grammar", "yes"),
        ("ollama", "ollama 0.88", "numbers", "json_schema", "no"),
        ("llmcli", "llmcli", "every policy", "json_schema, grammar, regex", "yes"),
        ("other", "a server of an unknown kind", "numbers", "json_schema", "no"),
    ],
)
def test_doctor_says_what_a_server_can_do(
    kind: str, server: str, temperature: str, constraints: str, scores: str, inside: Run
) -> None:
    with serving(kind=kind) as (url, _):
        ran = inside("doctor", "--endpoint", url, "--json")
    found = json.loads(ran.text)["facts"]
    assert ran.status == 0
    assert (found["endpoint"], found["server"]) == (f"{url}/v1", server)
    assert (found["models"], found["key"]) == ("first-model, second-model", "not present")
    assert (found["temperature"], found["constraints"]) == (temperature, constraints)
    assert found["score, --choices"] == scores


def test_doctor_of_a_profile_shows_where_the_key_is_and_not_the_key(inside: Run, home: Path) -> None:
    with serving(kind="vllm", key=SECRET) as (url, dialect):
        (home / "config").mkdir(parents=True)
        (home / "config" / "key").write_text(SECRET)
        (home / "config" / "key").chmod(0o600)
        (home / "config" / "config.toml").write_text(f"[endpoints.work]\nurl = '{url}'\napi_key_file = 'key'\n")
        ran = inside("doctor", "--endpoint", "work", "--json")
        answer = inside("generate", "why?", "--endpoint", "work", "-v", "--debug")
    data = json.loads(ran.text)
    assert data["facts"]["key"] == f"present ({home / 'config' / 'key'})"
    assert data["facts"]["endpoint"] == f"{url}/v1 (profile work)"
    assert (ran.status, answer.status) == (0, 0)
    assert dialect.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in ran.text + ran.stderr + answer.text + answer.stderr


def test_a_profile_names_its_model(inside: Run, home: Path) -> None:
    with serving() as (url, dialect):
        (home / "config").mkdir(parents=True)
        text = f"endpoint = 'work'\n[endpoints.work]\nurl = '{url}'\nmodel = 'second-model'\n"
        (home / "config" / "config.toml").write_text(text)
        assert inside("generate", "why?").stderr == ""
        assert dialect.body["model"] == "second-model"
        assert inside("generate", "why?", "-m", "first-model").status == 0
    assert dialect.body["model"] == "first-model"


def test_doctor_of_a_server_that_is_not_there_fails(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.01)
    ran = inside("doctor", "--endpoint", "http://127.0.0.1:9")
    assert ran.status == 1
    assert "cannot reach 127.0.0.1:9" in ran.stderr
    assert ran.text == "endpoint  http://127.0.0.1:9/v1\nkey       not present\n"


def test_the_models_of_an_endpoint_are_listed(inside: Run) -> None:
    with serving(kind="vllm") as (url, _):
        table = inside("models", "list", "--endpoint", url)
        data = json.loads(inside("models", "list", "--endpoint", url, "--json").text)
    assert [line.split() for line in table.text.splitlines()] == [
        ["NAME", "CONTEXT", "OWNER"],
        ["first-model", "4096", "vllm"],
        ["second-model", "4096", "vllm"],
    ]
    assert data[1] == {"name": "second-model", "owner": "vllm", "n_ctx": 4096}


def complete(inside: Run, line: str) -> list[str]:
    variables = {
        "_LLMCLI_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": f"llmcli {line}",
    }
    return [word for line in inside(env=variables).text.splitlines() if (word := line.partition("\t")[0])]


def test_the_models_and_profiles_of_endpoints_complete(
    inside: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_PATIENCE", 60.0)
    (home / "config").mkdir(parents=True)
    with serving(models=("first-model", "second-model", "sec\\x")) as (url, _):
        (home / "config" / "config.toml").write_text(f"[endpoints.work]\nurl = '{url}'\n")
        assert complete(inside, f"generate --endpoint {url} -m s") == ["second-model"]
        assert complete(inside, "generate --endpoint work -m ") == ["first-model", "second-model"]
    assert complete(inside, "chat --endpoint w") == ["work"]


def test_the_completion_does_not_wait_for_a_slow_server(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "LOOK_SECONDS", 600.0)
    released, n_ended = threading.Event(), 0

    def reply(_handler: object, _body: object) -> bool:
        nonlocal n_ended
        released.wait(60)
        n_ended += 1
        return False

    with serving(reply=reply) as (url, _):
        assert complete(inside, f"generate --endpoint {url} -m ") == []
        assert n_ended == 0
        released.set()


@pytest.mark.parametrize("command", ["doctor", "generate why?"])
def test_a_key_sent_without_encryption_is_a_warning(command: str, inside: Run) -> None:
    # A name that means this machine, and does not look as if it did.
    with serving() as (url, _):
        port = url.rpartition(":")[2]
        ran = inside(*command.split(), "--endpoint", f"http://0.0.0.0:{port}", env={"LLMCLI_API_KEY": "k"})
    assert f"the key is sent to 0.0.0.0:{port} without encryption" in ran.stderr


def test_a_list_alone_is_a_list_of_models(inside: Run) -> None:
    def reply(handler, body):  # type: ignore[no-untyped-def]
        if not body:
            handler.json([{"id": "alone"}])
        return not body

    with serving(reply=reply) as (url, dialect):
        assert inside("generate", "why?", "--endpoint", url).status == 0
    assert dialect.body["model"] == "alone"


def test_offline_means_no_server_elsewhere(inside: Run) -> None:
    ran = inside("generate", "why?", "--endpoint", "https://example.com", "--offline")
    assert ran.status == 5
    assert "example.com needs the network, but --offline is set" in ran.stderr


def test_llama_server_has_one_model_whatever_is_asked(inside: Run) -> None:
    with serving(kind="llama-server", models=("loaded",)) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "-m", "other", "--json")
    assert "has the model loaded, which answers in place of other" in ran.stderr
    assert json.loads(ran.text)["model"] == "loaded"


def test_doctor_names_the_endpoint_of_the_configuration(inside: Run, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("endpoint = 'work'\n[endpoints]\nwork = 3\n")
    ran = inside("doctor", "--json")
    assert json.loads(ran.text)["facts"]["endpoint"] == "work (doctor --endpoint work asks it)"
    assert "[endpoints] must give a table with a url for each name" in ran.stderr
