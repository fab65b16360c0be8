"""Endpoints: URLs with and without /v1, profiles, and keys that no text shows."""

from pathlib import Path

import pytest

from llmcli.config.endpoints import Endpoint, base_url, find_endpoint
from llmcli.errors import DiskError, LlmcliError, NotAllowedError, UsageError
from llmcli.files import config_path

SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("http://localhost:8080/", "http://localhost:8080/v1"),
        ("http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
        ("https://host/api", "https://host/api/v1"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_a_url_may_have_v1_a_slash_or_neither(text: str, base: str) -> None:
    assert base_url(text) == base
    assert find_endpoint(text).base == base


@pytest.mark.parametrize(("text", "base"), [("localhost:8080", "localhost:8080"), ("[::1]:9/v1", "[::1]:9")])
def test_a_host_of_this_machine_needs_no_scheme(text: str, base: str) -> None:
    assert find_endpoint(text).base == f"http://{base}/v1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host", "must be an http or https URL"),
        ("http://", "must be an http or https URL"),
        ("http://host:99999", "is not a valid URL"),
        ("http://[::1", "is not a valid URL"),
        ("http://host/v1?key=1", "without ? and #"),
        ("http://host with space/", "must be an http or https URL"),
        ("example.com", "must be an http or https URL"),
        ("nobody", "unknown endpoint 'nobody'"),
    ],
)
def test_what_is_not_an_endpoint_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        find_endpoint(text)


@pytest.mark.parametrize("text", [f"https://me:{SECRET}@host/v1", f"me:{SECRET}@host", f"http://{SECRET}@host"])
def test_a_password_in_a_url_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_endpoint(text)
    assert SECRET not in str(caught.value) + caught.value.hint


def write(text: str) -> None:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text(text)


def test_a_profile_names_url_model_kind_and_the_file_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    write(
        "[endpoints.work]\nurl = 'https://host.example'\nmodel = 'big'\nkind = 'vllm'\n"
        f"api_key_file = '{tmp_path / 'key'}'\n"
    )
    found = find_endpoint("work")
    assert (found.base, found.name, found.model, found.kind) == ("https://host.example/v1", "work", "big", "vllm")
    assert (found.key, found.key_source) == (SECRET, str(tmp_path / "key"))
    assert SECRET not in repr(found) + str(found)


def test_a_relative_file_of_a_key_lies_beside_the_configuration() -> None:
    write("[endpoints.work]\nurl = 'https://host'\napi_key_file = 'work.key'\n")
    (config_path().parent / "work.key").write_text(SECRET)
    assert find_endpoint("work").key == SECRET


def test_a_profile_without_a_key_takes_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMCLI_API_KEY", SECRET)
    write("[endpoints.work]\nurl = 'https://host'\n")
    assert find_endpoint("work").key == find_endpoint("https://host").key == SECRET
    assert find_endpoint("work").key_source == "LLMCLI_API_KEY"


def test_the_keyring_is_asked_for_service_and_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[endpoints.work]\nurl = 'https://host'\nkeyring = 'llmcli'\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(NotAllowedError, match="the package keyring is not installed"):
        find_endpoint("work")
    (tmp_path / "keyring.py").write_text("def get_password(*who): return '-'.join(who)\n")
    monkeypatch.delitem(__import__("sys").modules, "keyring", raising=False)
    found = find_endpoint("work")
    assert (found.key, found.key_source) == ("llmcli-work", "the keyring (llmcli)")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("api_key = 'x'\nurl = 'http://h'", "has a key itself"),
        ("model = 'x'", "has no url"),
        ("url = 'nowhere'", "url must be an http or https URL"),
        ("url = 'http://h'\nmodle = 'x'", "unknown key 'modle'"),
        ("url = 'http://h'\nkind = 'x'", "kind must be one of"),
        ("url = 3", "url must be a text"),
    ],
)
def test_a_profile_that_is_not_valid_is_named(table: str, words: str) -> None:
    write(f"[endpoints.work]\n{table}\n")
    with pytest.raises(UsageError, match=words) as caught:
        find_endpoint("work")
    assert "[endpoints.work]" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, DiskError, "does not exist"),
        (b"\n", NotAllowedError, "is empty"),
        (b"two words", NotAllowedError, "must be one word"),
        ("sché".encode(), NotAllowedError, "must be one word"),
        (b"x" * 9000, NotAllowedError, "must be one word"),
    ],
)
def test_a_key_that_cannot_be_used_is_an_error_without_it(
    content: bytes | None, kind: type[LlmcliError], words: str
) -> None:
    write("[endpoints.work]\nurl = 'https://host'\napi_key_file = 'k'\n")
    if content is not None:
        (config_path().parent / "k").write_bytes(content)
    with pytest.raises(kind, match=words) as caught:
        find_endpoint("work")
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "is_open"),
    [
        ("http://example.com/v1", True),
        ("https://example.com/v1", False),
        ("http://127.0.0.1:1/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]/v1", False),
    ],
)
def test_a_key_over_http_is_open_to_others_on_the_way(base: str, is_open: bool) -> None:
    assert bool(Endpoint(base, key="k").warnings) == is_open
    assert not Endpoint(base).warnings
