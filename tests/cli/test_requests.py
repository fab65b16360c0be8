"""Requests: none that the user did not ask for, and the token is sent to the Hub only."""

import http.client
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.test_hub_end_to_end import ASK, Place, harmless
from tests.cli_result import CliResult
from tests.hub.server import FakeHub, Fault
from tests.models.gguf_writer import write_gguf

SENTINEL = "hf_SENTINELsentinelSENTINEL"
OPEN, GATED, PRIVATE, ABLE = "test/open-GGUF", "test/gated-GGUF", "test/private-GGUF", "test/able-GGUF"
FILE = "m-Q4_0.gguf"
# Every command that asks the hub, with a model that is not here.
ASKING = {
    "search": ("models", "search", "open"),
    "files": ("models", "files", OPEN),
    "show": ("models", "show", OPEN),
    "pull": ("pull", OPEN),
    "generate": ("generate", "hi", "--pull", "-m", OPEN),
}


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    mute = write_gguf(tmp_path_factory.mktemp("tiny") / "mute.gguf")
    with FakeHub() as hub:
        hub.token = SENTINEL
        hub.add(OPEN, {FILE: mute})
        hub.add(GATED, {FILE: mute}, gated="manual")
        hub.add(PRIVATE, {FILE: mute}, private=True)
        hub.add(ABLE, {"able-Q4_1.gguf": tiny})
        hub.other_serves = mute
        yield hub


@pytest.fixture
def hub(server: FakeHub) -> Iterator[FakeHub]:
    """The hub with an empty log; at the end nobody has asked what only telemetry asks, nor told others a secret."""
    server.log.clear()
    server.faults.clear()
    server.repos[GATED].granted = False
    yield server
    for request in server.log:
        assert request.path != "/api/agent-harnesses"
        told = f"{request.path} {request.query} {dict(request.headers)} {request.body!r}"
        assert request.origin == "hub" or ("SENTINEL" not in told and request.token is None)


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Iterator[Place]:
    """A machine without models; at the end the token stands in no file of it but the user's own."""
    place = Place(tmp_path, hub)
    yield place
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "token":
            data = path.read_bytes()
            assert b"SENTINEL" not in data
            assert b"X-Amz-Signature" not in data


@pytest.fixture(scope="module")
def pulled(server: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A machine with a model that can answer."""
    place = Place(tmp_path_factory.mktemp("pulled"), server)
    assert place.run("pull", ABLE).status == 0
    return place


def assert_silent(ran: CliResult) -> CliResult:
    """Check that the output has neither the token nor a signed address."""
    for secret in ("SENTINEL", "X-Amz-Signature"):
        assert secret not in ran.text
        assert secret not in ran.stderr
    return ran


def only_error(text: str) -> str:
    """`text`, which is one error and at most one hint."""
    error, *hints = text.splitlines()
    assert error.startswith("error: ")
    assert len(hints) <= 1, text
    assert all(hint.startswith("  hint: ") for hint in hints)
    return text


def sent_requests(hub: FakeHub) -> list[tuple[str, str, str]]:
    return [(request.origin, request.method, request.path) for request in hub.log]


def expected(hub: FakeHub, name: str) -> list[tuple[str, str, str]]:
    """The requests that a command needs."""
    repo = hub.repos[OPEN]
    if name == "search":
        return [("hub", "GET", "/api/models")]
    listing = ("hub", "GET", f"/api/models/{OPEN}/revision/main")
    if name == "listing":
        return [listing]
    content = ("cdn", "GET", f"/{repo.files[FILE].sha256}")
    header = [listing, ("hub", "GET", f"/{OPEN}/resolve/{repo.head}/{FILE}"), content]
    return header if name in ("files", "show") else [*header, content]  # the header tells whether to download


@pytest.mark.parametrize("name", ASKING)
def test_a_command_sends_each_request_once_and_warns_first(place: Place, hub: FakeHub, name: str) -> None:
    ran = assert_silent(place.run(*ASKING[name], HF_TOKEN=SENTINEL))
    assert ran.status == (8 if name == "generate" else 0), ran.stderr  # there is nothing in it to answer with
    assert sent_requests(hub) == expected(hub, name)
    assert [request.token for request in hub.requests("hub")] == [SENTINEL] * len(hub.requests("hub"))
    warning = ran.stderr.splitlines()[0]
    assert warning.startswith(f"warning: your Hugging Face token (HF_TOKEN) is sent to {hub.endpoint}, unencrypted")
    assert ran.stderr.count("warning: your Hugging Face token") == 1


def test_a_file_is_requested_only_when_needed(place: Place, hub: FakeHub) -> None:
    assert place.run("pull", OPEN).status == 0
    hub.log.clear()
    assert place.run("pull", OPEN).status == 0
    assert sent_requests(hub) == expected(hub, "listing")
    hub.log.clear()
    assert place.run("pull", f"{OPEN}:Q8_0").status == 3
    assert sent_requests(hub) == expected(hub, "listing")
    hub.log.clear()
    lines = (f"generate hi -m {OPEN}:Q8_0", "models rm -y a/b", "models verify a/b", "models recommend")
    assert [ran.status for ran in place.runs(*(tuple(line.split()) for line in lines))] == [3, 3, 3, 0]
    assert hub.log == []


@pytest.mark.slow
def test_a_downloaded_model_needs_no_request(pulled: Place, hub: FakeHub, tmp_path: Path) -> None:
    twin = pulled.twin(tmp_path)
    commands = "models list", f"models show {ABLE}", "models verify", f"tokenize hi -m {ABLE}"
    reading = [tuple(command.split()) for command in commands]
    runs = twin.runs(*reading, HF_TOKEN=SENTINEL)
    runs += [twin.run(*line, HF_TOKEN=SENTINEL) for line in ((*ASK, "-m", ABLE), ("models", "rm", "--yes", ABLE))]
    for ran in map(assert_silent, runs):
        assert (ran.status, "warning" in ran.stderr) == (0, False), ran.stderr
    assert hub.log == []


@pytest.mark.parametrize("env", [{}, {"HF_TOKEN": SENTINEL, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}])
def test_without_a_token_none_is_sent_or_mentioned(place: Place, hub: FakeHub, env: dict[str, str]) -> None:
    ran = assert_silent(place.run("pull", OPEN, **env))
    assert ran.status == 0
    assert "token" not in ran.stderr
    assert [request.token for request in hub.log] == [None] * 4


def test_the_token_of_hf_auth_login_is_used(place: Place, hub: FakeHub, tmp_path: Path) -> None:
    for folder, env in (
        (tmp_path / "user/.cache/huggingface", {}),
        (tmp_path / "hf", {"HF_HOME": str(tmp_path / "hf")}),
    ):
        hub.log.clear()
        folder.mkdir(parents=True)
        (folder / "token").write_text(SENTINEL + "\n")
        ran = assert_silent(place.run("models", "files", PRIVATE, **env))
        assert ran.status == 0
        assert f"your Hugging Face token ({folder / 'token'}) is sent to" in ran.stderr
        assert [request.token for request in hub.requests("hub")] == [SENTINEL] * 2


@pytest.mark.parametrize("kind", ["hub", "files"])
def test_a_redirect_to_another_host_gets_no_token(place: Place, hub: FakeHub, kind: str) -> None:
    hub.faults.append(Fault("redirect", origin="hub", api=kind == "hub", times=None))
    ran = assert_silent(place.run("pull", OPEN, HF_TOKEN=SENTINEL))
    if kind == "hub":  # its API has no business elsewhere
        assert (ran.status, ran.stdout) == (5, b"")
        assert "redirects to another host, localhost:" in ran.stderr
        assert hub.requests("other") == []
    else:  # the files of a hub lie elsewhere
        assert ran.status == 0, ran.stderr
        assert [request.token for request in hub.requests("other")] == [None] * 2


def test_an_address_outside_the_hub_gets_no_token(place: Place, hub: FakeHub) -> None:
    ran = assert_silent(place.run("pull", f"{hub.other}/x.gguf", HF_TOKEN=SENTINEL))
    assert ran.status == 0
    assert "token" not in ran.stderr
    assert {origin for origin, _, _ in sent_requests(hub)} == {"other"}


def test_offline_makes_no_request_and_is_one_error(place: Place, hub: FakeHub) -> None:
    for ran in place.runs(*((*command, "--offline") for command in ASKING.values())):
        assert (ran.status, ran.stdout) == (5, b"")
        assert "--offline" in only_error(ran.stderr)
    assert hub.log == []


def test_the_environment_can_forbid_requests(place: Place, hub: FakeHub) -> None:
    ran = place.run("pull", OPEN, HF_HUB_OFFLINE="1")
    assert (ran.status, "HF_HUB_OFFLINE" in only_error(ran.stderr)) == (5, True)
    without = place.run("generate", "hi", "-m", OPEN, HF_HUB_OFFLINE="1")
    assert (without.status, f"`llmcli pull {OPEN}`" in only_error(without.stderr)) == (3, True)
    assert hub.log == []


def test_offline_does_not_warn_about_the_token(place: Place, hub: FakeHub) -> None:
    ran = assert_silent(place.run("pull", OPEN, HF_TOKEN=SENTINEL, HF_HUB_OFFLINE="1"))
    assert ran.status == 5
    only_error(ran.stderr)


BROKEN = {
    "HF_ENDPOINT=http://127.0.0.1:99999": 5,
    "HF_ENDPOINT=http://\x1b[bad": 5,
    "HF_ENDPOINT=http://": 5,
    "HF_ENDPOINT=hub.example": 5,
    "HF_TOKEN=hf_\u00fc": 4,
    "HF_TOKEN=hf_a\nb: c": 4,
}


@pytest.mark.parametrize("setting", BROKEN)
def test_a_variable_that_is_not_valid_is_one_error(place: Place, hub: FakeHub, setting: str) -> None:
    name, _, value = setting.partition("=")
    ran = place.run("pull", OPEN, **{name: value})
    assert (ran.status, ran.stdout) == (BROKEN[setting], b"")
    text = harmless(ran.stderr.encode())
    warning, _, error = text.rpartition("error: ")
    assert "bug" not in only_error("error: " + error)
    assert warning.count("warning: ") == (name == "HF_TOKEN")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[bad"])
def test_a_redirect_to_an_invalid_address_is_one_error(place: Place, hub: FakeHub, target: str) -> None:
    hub.faults.append(Fault("redirect", api=True, value=target, times=None))
    ran = place.run("models", "files", OPEN)
    assert (ran.status, ran.stdout) == (5, b"")
    assert only_error(harmless(ran.stderr.encode())).startswith("error: 127.0.0.1:")
    assert len(hub.log) <= 6


class _ProxyServer(socketserver.ThreadingTCPServer):
    def __init__(self, *args: Any) -> None:
        self.seen: list[str] = []
        super().__init__(*args)


class _Proxy(BaseHTTPRequestHandler):
    """Fetches what it is asked for, and keeps a list of it."""

    server: "_ProxyServer"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        with connection.getresponse() as answer:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())
        connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (as the base class has it)
        """Nothing is printed."""


def test_the_proxy_of_the_environment_gets_every_request(place: Place, hub: FakeHub) -> None:
    with _ProxyServer(("127.0.0.1", 0), _Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        try:
            ran = place.run("pull", OPEN, HTTP_PROXY=f"http://127.0.0.1:{proxy.server_address[1]}")
        finally:
            proxy.shutdown()
            thread.join()
    assert ran.status == 0, ran.stderr
    assert [urlsplit(url).path for url in proxy.seen] == [path for _, _, path in sent_requests(hub)]
    assert sent_requests(hub) == expected(hub, "pull")


def test_a_gated_repository_names_its_page_until_granted(place: Place, hub: FakeHub) -> None:
    page = f"{hub.endpoint}/{GATED}"
    for env, advice in (({}, f"accept its terms at {page}, then run"), ({"HF_TOKEN": SENTINEL}, f"access at {page}")):
        ran = assert_silent(place.run("pull", GATED, **env))
        assert (ran.status, ran.stdout) == (4, b"")
        assert advice in ran.stderr.splitlines()[-1]
    listed = place.run("models", "files", GATED)
    assert listed.status == 0
    assert f"{GATED} is gated; accept its terms at {page} first" in listed.stderr
    hub.repos[GATED].granted = True
    assert assert_silent(place.run("pull", GATED, HF_TOKEN=SENTINEL)).status == 0


def test_a_wrong_token_and_a_private_repository_differ(place: Place, hub: FakeHub) -> None:
    wrong = place.run("pull", OPEN, HF_TOKEN="hf_wrong")
    assert (wrong.status, wrong.stdout) == (4, b"")
    error, hint = wrong.stderr.splitlines()[-2:]
    assert error == "error: the Hub refused the token from HF_TOKEN"
    assert hint.startswith("  hint: create a new token at ")
    assert "hf_wrong" not in wrong.stderr
    hidden = place.run("pull", PRIVATE)
    assert hidden.status == 3
    assert only_error(hidden.stderr).rstrip().endswith("or run `hf auth login` if it is private")
    assert assert_silent(place.run("pull", PRIVATE, HF_TOKEN=SENTINEL)).status == 0
