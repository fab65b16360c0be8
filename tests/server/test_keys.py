"""Keys: their file, what each may do, and the requests that have one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcli.cli.serve import _read_keys
from llmcli.errors import DiskError, UsageError
from llmcli.server.guard import Access
from llmcli.server.keys import Keys, TokenMeter, make_key
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker
from tests.waiting import wait_until

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
ALICE, BOB = "alice-" + "a" * 16, "bob-" + "b" * 16
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no bits for other users")


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def keys_of(folder: Path, text: str, warn: Callable[[str, str], None] = lambda *_: None) -> Keys:
    return Keys(key_file(folder, text), (), warn)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_line_has_a_name_a_key_and_limits(tmp_path: Path) -> None:
    text = f"\ufeff# who\n\nalice: {ALICE} models=qwen,smol tokens=1000\r\n  bob :{BOB}\n"
    keys = keys_of(tmp_path, text)
    alice, bob = keys.find(ALICE), keys.find(BOB)
    assert alice
    assert bob
    assert (alice.name, alice.models, alice.tokens_per_minute) == ("alice", ("qwen", "smol"), 1000)
    assert (bob.name, bob.models, bob.tokens_per_minute) == ("bob", (), 0)
    assert keys.find(ALICE[:-1]) is None
    assert keys.find("") is None


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:",
        f"{ALICE}",
        f"al ice: {ALICE}",
        f"alice: {ALICE} tokens=none",
        f"alice: {ALICE} tokens=0",
        f"alice: {ALICE} models=",
        f"alice: {ALICE} speed=3",
        f"alice: {ALICE} {ALICE}",
        f"alice: {ALICE}\nalice: {BOB}",
        f"alice: {ALICE}\nbob: {ALICE}",
        f"alice: {ALICE}\u00fc",  # no client sends it as it is written here
        f"alice: {ALICE}\x7f",
        "# nobody",
    ],
)
def test_a_file_that_is_not_valid_is_refused_without_a_key(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        keys_of(tmp_path, line + "\n")
    assert "a" * 8 not in f"{caught.value} {caught.value.hint}"
    assert "b" * 8 not in f"{caught.value} {caught.value.hint}"


def test_a_short_key_gets_a_warning_without_the_key(tmp_path: Path) -> None:
    warnings: list[str] = []
    keys_of(tmp_path, "alice: secret\n", lambda *texts: warnings.extend(texts))
    assert "less than 16 characters" in warnings[0]
    assert "secret\n" not in " ".join(warnings)
    assert not any("secret" in one.replace("secrets", "") for one in warnings)


def test_the_key_of_the_environment_is_trimmed_and_checked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMCLI_API_KEY", f" {ALICE}\n")
    keys = _read_keys(None)
    assert keys
    assert keys.find(ALICE)
    monkeypatch.setenv("LLMCLI_API_KEY", " \n")
    assert _read_keys(None) is None
    monkeypatch.setenv("LLMCLI_API_KEY", "secret")
    assert _read_keys(None)
    assert "the key in LLMCLI_API_KEY has less than 16 characters" in capfd.readouterr().err
    monkeypatch.setenv("LLMCLI_API_KEY", f"{ALICE}\u00fc")
    with pytest.raises(UsageError, match="the key of LLMCLI_API_KEY has characters that a header cannot have"):
        _read_keys(None)


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageError, match="other users can read it") as caught:
        Keys(key_file(tmp_path, f"alice: {ALICE}\n", mode), (), lambda *_: None)
    assert caught.value.hint.startswith("run: chmod 600 ")


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot read .*none") as caught:
        Keys(tmp_path / "none", (), lambda *_: None)
    assert caught.value.hint == "check its name"


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.server.keys._CHECK_EVERY", 0.0)
    keys = keys_of(tmp_path, f"alice: {ALICE}\n")
    key_file(tmp_path, f"bob: {BOB} # not valid\n")
    assert keys.find(ALICE), "a file that is not valid changes nothing"
    key_file(tmp_path, f"bob: {BOB}\n")
    assert keys.find(BOB)
    assert keys.find(ALICE) is None


def test_a_file_that_is_lost_keeps_its_keys_with_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    keys = keys_of(tmp_path, f"alice: {ALICE}\n", lambda *texts: warnings.append(texts[0]))
    (tmp_path / "keys").unlink()
    keys.read_again()
    assert keys.find(ALICE)
    assert warnings[0].startswith("the keys stay as they were: cannot read")


@POSIX
@pytest.mark.timeout(60)
def test_keys_come_through_a_pipe_too() -> None:
    reader, writer = os.pipe()
    os.write(writer, f"alice: {ALICE}\n".encode())
    os.close(writer)
    keys = Keys(Path(f"/dev/fd/{reader}"), (), lambda *_: None)
    keys.read_again()
    assert keys.find(ALICE)
    os.close(reader)


def test_the_meter_forgets_tokens_after_a_minute() -> None:
    now = 0.0
    meter, key = TokenMeter(lambda: now), make_key("alice", ALICE, (), 100)
    meter.add(key, 60)
    now = 20.0
    assert meter.wait(key) == 0.0
    assert meter.wait(key, n_running=40) == 40.0  # those of 0 s count until 60 s
    meter.add(key, 70)
    assert meter.wait(key) == 40.0
    now = 61.0
    assert meter.wait(key) == 0.0
    meter.add(key, 30)
    assert meter.wait(key) == pytest.approx(19.0)
    assert TokenMeter().wait(make_key("bob", BOB), n_running=10**9) == 0.0


@pytest.fixture
def access(tmp_path: Path) -> Access:
    lines = (f"alice: {ALICE}", f"bob: {BOB} models=other", f"carol: carol-{'c' * 16} tokens=20")
    return Access(keys_of(tmp_path, "\n".join(lines)))


def test_a_request_without_a_valid_key_gets_401(serve: ServerMaker, access: Access) -> None:
    client = serve(access=access)
    for headers in [
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": f"Basic {ALICE}"},
        {"X-Api-Key": "wrong"},
        bearer(f"{ALICE}x"),
    ]:
        for path in ("/v1/chat/completions", "/nowhere"):
            reply = client.post(path, ASK, headers)
            assert (reply.code, reply.data["error"]["type"]) == (401, "authentication_error")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers).code == 401


def test_a_valid_key_is_taken_in_both_headers(serve: ServerMaker, access: Access) -> None:
    client = serve(access=access)
    for headers in [bearer(ALICE), {"X-Api-Key": ALICE}, {"authorization": f"bearer  {ALICE}"}]:
        assert client.post("/v1/chat/completions", ASK, headers).code == 200
        key = client.record().key
        assert key
        assert key.name == "alice"


def test_health_and_the_page_need_no_key(serve: ServerMaker, access: Access) -> None:
    client = serve(access=access)
    for path in ("/health", "/v1/health", "/"):
        assert client.get(path).code == 200
    for path in ("/status", "/v1/models", "//", "/health/", "/%2e/health", "/../health"):
        assert client.get(path).code == 401, path


def test_a_key_uses_and_sees_its_models_only(serve: ServerMaker, access: Access) -> None:
    other = FakeEngine(["from other"])
    other.name = "other"
    client = serve(FakeEngine(), other, access=access)
    reply = client.post("/v1/chat/completions", {**ASK, "model": "fake"}, bearer(BOB))
    assert (reply.code, reply.data["error"]["type"]) == (403, "permission_error")
    reply = client.post("/v1/chat/completions", ASK, bearer(BOB))
    assert reply.data["choices"][0]["message"]["content"] == "from other"
    assert [one["id"] for one in client.get("/v1/models", bearer(BOB)).data["data"]] == ["other"]
    assert [one["id"] for one in client.get("/v1/models", bearer(ALICE)).data["data"]] == ["fake", "other"]


def test_a_key_at_its_limit_gets_429_with_a_time(
    serve: ServerMaker, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, carol = serve(FakeEngine(["x"] * 15), access=access), bearer("carol-" + "c" * 16)
    monkeypatch.setattr(client.service.meter, "_clock", lambda: 5.0)
    assert client.post("/v1/completions", {"prompt": "0123456789"}, carol).code == 200
    reply = client.post("/v1/completions", {"prompt": "a"}, carol)
    assert (reply.code, reply.data["error"]["type"]) == (429, "rate_limit_error")
    assert reply.headers["retry-after"] == "60"
    assert client.post("/v1/completions", {"prompt": "a"}, bearer(ALICE)).code == 200


def test_tokens_of_a_running_answer_count(serve: ServerMaker, access: Access) -> None:
    client, carol = serve(FakeEngine(["x"], ["x"] * 10_000, delay=0.005), access=access), bearer("carol-" + "c" * 16)
    connection, response = client.open("POST", "/v1/completions", b'{"prompt": "a", "stream": true}', carol)
    wait_until(lambda: sum(one.n_generated for one in list(client.service.running)) >= 20)
    assert client.post("/v1/completions", {"prompt": "a", "max_tokens": 0}, carol).code == 429
    assert client.service.models[0].worker.n_running == 1
    response.close()
    connection.close()


def test_no_key_appears_in_errors_and_logs(serve: ServerMaker, access: Access) -> None:
    client = serve(access=access)
    replies = [
        client.post("/v1/chat/completions", ASK, bearer("wrong-" + "w" * 16)),
        client.post("/v1/chat/completions", {"top_q": 1}, bearer(ALICE)),
        client.get(f"/v1/none?api_key={ALICE}", bearer(ALICE)),
    ]
    shown = b"".join(one.body for one in replies).decode() + str([one.data(True) for one in client.records])
    assert not [key for key in (ALICE, "w" * 16) if key in shown]
