"""The settings of the environment: equal to those of huggingface_hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.errors import NetworkError
from llmcli.models.download.http import client
from llmcli.models.hub import environment

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"HF_HOME": "/data/hf"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "$BASE/hf"},
    {"HF_HOME": "relative/hf"},
    {"HF_HOME": "/data/hf/"},
    {"HF_HUB_CACHE": "/data/hub"},
    {"HF_HUB_CACHE": "~/hub"},
    {"HF_HUB_CACHE": "${BASE}/hub"},
    {"HF_HUB_CACHE": "/data/hub", "HF_HOME": "/data/hf"},
    {"HUGGINGFACE_HUB_CACHE": "~/old"},
    {"HUGGINGFACE_HUB_CACHE": "/data/old", "HF_HUB_CACHE": "/data/new"},
    {"XDG_CACHE_HOME": "/xdg"},
    {"XDG_CACHE_HOME": "~/xdg"},
    {"XDG_CACHE_HOME": "$BASE", "HF_TOKEN_PATH": "$BASE/token"},
    {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/data/hf"},
    {"HF_TOKEN_PATH": "~/secret/token"},
    {"HF_TOKEN_PATH": "$NOBODY/token"},
    {"HF_ENDPOINT": "https://mirror.example/"},
    {"HF_ENDPOINT": "http://127.0.0.1:8080/hub//"},
    *({"HF_HUB_OFFLINE": value} for value in ("1", "true", "YES", "on", "0", "false", "2", "")),
    {"TRANSFORMERS_OFFLINE": "1"},
    {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"},
    {"TRANSFORMERS_OFFLINE": "0", "HF_HUB_OFFLINE": "1"},
]

# The library reads the environment when it is imported: here its module is run once for each.
_PROGRAM = """
import json, os, runpy, sys
from huggingface_hub import constants
found = []
for environment in json.load(sys.stdin):
    os.environ.update(environment)
    there = runpy.run_path(constants.__file__)
    found.append([there[name] for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "ENDPOINT", "HF_HUB_OFFLINE")])
    for name in environment:
        del os.environ[name]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def library_values() -> list[list[object]]:
    """What huggingface_hub takes in each of the environments."""
    names = {name for environment in ENVIRONMENTS for name in environment}
    rest = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(ENVIRONMENTS),
        env=rest | {"HOME": "/home/me", "USERPROFILE": "/home/me", "BASE": "/base"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", range(len(ENVIRONMENTS)), ids=lambda number: str(ENVIRONMENTS[number]))
def test_environment_paths_equal_those_of_huggingface_hub(
    library_values: list[list[object]], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT")
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", "BASE": "/base", **ENVIRONMENTS[number]}.items():
        monkeypatch.setenv(name, value)
    cache, token, endpoint, offline = library_values[number]
    assert environment.hub_cache() == Path(str(cache))
    assert environment.token_file() == Path(str(token))
    assert environment.endpoint() == endpoint
    assert environment.is_offline() is offline


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    monkeypatch.setenv("HF_TOKEN_PATH", str(path))
    return path


def test_without_a_token_there_is_no_source(token_file: Path) -> None:
    assert environment.token_source() == ""


def test_the_token_of_the_environment_comes_before_the_file(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_file.write_text("hf_file")
    assert environment.token_source() == str(token_file)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    assert environment.token_source() == "HUGGING_FACE_HUB_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    assert environment.token_source() == "HF_TOKEN"


def test_disabled_implicit_token_has_no_source(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_file.write_text("hf_file")
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")
    assert environment.token_source() == ""


def test_folder_instead_of_the_token_file_is_no_token(token_file: Path) -> None:
    token_file.mkdir()
    assert environment.token_source() == ""


@pytest.mark.parametrize(
    ("endpoint", "unusual"),
    [
        ("https://huggingface.co", ""),
        ("https://HF.co/", ""),
        ("https://hub-ci.huggingface.co", ""),
        ("http://huggingface.co", "http://huggingface.co, unencrypted"),
        ("https://mirror.example/hub", "https://mirror.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080, unencrypted"),
        ("https://huggingface.co.evil.example", "https://huggingface.co.evil.example"),
        ("https://evilhuggingface.co", "https://evilhuggingface.co"),
        ("https://huggingface.co@evil.example", "https://evil.example"),
        ("https://me:secret@mirror.example", "https://mirror.example"),
    ],
)
def test_unofficial_endpoint_is_shown_without_password(
    endpoint: str, unusual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert environment.unofficial_endpoint() == unusual


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SSL_CERT_FILE": "/nonexistent"}, "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": os.devnull}, "SSL_CERT_FILE"),  # without a certificate
        ({"SSL_CERT_DIR": "/nonexistent"}, "SSL_CERT_DIR"),
        ({"HTTPS_PROXY": "http://127.0.0.1:abc"}, "HTTPS_PROXY"),
        ({"https_proxy": "foo://x:1", "HTTP_PROXY": "http://x:1"}, "https_proxy"),
        ({"ALL_PROXY": "http://x:abc"}, "ALL_PROXY"),
    ],
)
def test_a_variable_that_no_request_can_use_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(NetworkError, match=rf"^(cannot use )?{name}\b") as caught:
        client.__wrapped__()
    assert "unset it" in caught.value.hint


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_a_timeout_that_is_not_a_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "abc")
    with pytest.raises(NetworkError, match=f"^{name} must be a whole number of seconds, got 'abc'"):
        environment.hub_headers()
