"""A model that is not here: an error in a pipe, an offer on a terminal, and fetched at once where that is allowed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_hub_end_to_end import Place, error_line, harmless, on_terminal, screen_of, sole
from tests.cli_result import CliResult
from tests.hub.server import FakeHub
from tests.models.gguf_writer import write_gguf
from tests.models.split_writer import split_model

REPO, ANSWER = "test/Smol-GGUF", " Paris"
HERE = "Smol-Q4_1.gguf"


def ask(model: str, *more: str) -> tuple[str, ...]:
    return ("generate", "The capital of France is", "--raw", "-n", "1", "--temp", "0", "-m", model, *more)


@pytest.fixture(scope="module")
def server(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("models")
    tiny = write_gguf(folder / "tiny.gguf")
    with FakeHub() as hub:
        hub.add(REPO, {HERE: starter})
        hub.add("test/bare", {"README.md": b"# nothing\n"})
        hub.add("test/gated-GGUF", {"m-Q4_0.gguf": tiny}, gated="manual")
        parts = (1, 3)
        hub.add("test/torn-GGUF", {f"m-Q4_0-{number:05d}-of-00003.gguf": tiny for number in parts})
        whole = split_model(starter, folder, 2)
        hub.add("test/split-GGUF", {part.name.replace("model", "Smol-Q4_1"): part for part in whole})
        yield hub


@pytest.fixture
def place(server: FakeHub, tmp_path: Path) -> Place:
    """A machine without models."""
    server.log.clear()
    server.hold_at = server.throttle = None
    return Place(tmp_path, server)


def unwrapped(written: bytes) -> str:
    """What stands on a terminal, in one line."""
    return " ".join(harmless(written).split())


def is_empty(place: Place) -> bool:
    """Whether nothing was published."""
    return not [*place.cache.glob("models--*/snapshots/*/*"), *place.cache.glob("models--*/blobs/*")]


def test_missing_model_in_a_pipe_is_an_error_with_the_command(place: Place) -> None:
    ran = place.run(*ask(REPO), stdin="y\n")
    assert (ran.status, ran.stdout) == (3, b"")
    assert error_line(ran.stderr) == f"model '{REPO}' is not downloaded"
    assert f"`llmcli pull {REPO}`" in ran.stderr
    assert place.hub.log == []


def test_generate_with_pull_downloads_the_model(place: Place) -> None:
    ran = place.run(*ask(REPO, "--pull"))
    assert (ran.status, ran.text) == (0, ANSWER + "\n")
    said = f"{REPO} is not downloaded yet: {REPO}/{HERE}, 98 MB (the only file): text model, architecture llama"
    assert ran.stderr.splitlines()[0] == said
    place.hub.log.clear()
    again = place.run(*ask(REPO, "--pull"))
    assert (again.status, again.text) == (0, ANSWER + "\n")
    assert sole(again.stderr).startswith("cut off: max_tokens is 1")
    assert place.hub.log == []


def test_generate_with_pull_downloads_a_split_model(place: Place) -> None:
    ran = place.run(*ask("test/split-GGUF:Q4_1", "--pull"))
    assert (ran.status, ran.text) == (0, ANSWER + "\n")
    assert "Smol-Q4_1-00001-of-00002.gguf in 2 parts, 98 MB" in ran.stderr.splitlines()[0]
    assert len(place.hub.requests("cdn")) == 4  # two for the header


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [80, 40])
def test_offer_shows_size_and_enter_accepts(place: Place, columns: int) -> None:
    written, status = on_terminal(place, *ask(REPO), columns=columns, keys="\r")
    assert status == 0
    said = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).split())
    assert f"{REPO} is not downloaded yet: {REPO}/{HERE}, 98 MB (the only file)" in said
    assert "Download it? [Y/n]" in said
    assert "100%" in said
    lines = screen_of(written, columns)
    assert ANSWER in lines[-3:]  # a note that it is cut off follows
    assert sum("100%" in line for line in lines) == 1  # the bar stays once, as wide as the terminal at most


@pytest.mark.terminal
@pytest.mark.parametrize(("keys", "columns"), [("n\r", 40), ("\x04", 80)])
def test_declined_offer_ends_with_the_same_error(place: Place, keys: str, columns: int) -> None:
    written, status = on_terminal(place, *ask(REPO), columns=columns, keys=keys)
    assert status == 3
    assert f"`llmcli pull {REPO}`" in unwrapped(written)
    assert sum(request.sent for request in place.hub.requests("cdn")) <= 2 << 20  # only the header
    assert is_empty(place)


@pytest.mark.terminal
def test_ctrl_c_at_the_question_ends_quietly(place: Place) -> None:
    written, status = on_terminal(place, *ask(REPO), keys="\x03", env={"TERM": "dumb"})
    assert status == 130
    assert harmless(written).rstrip("^C\r\n").endswith("Download it? [Y/n] ")
    assert is_empty(place)


@pytest.mark.terminal
def test_offline_mode_offers_no_download(place: Place) -> None:
    for name, value in (("HF_HUB_OFFLINE", "1"), ("LLMCLI_OFFLINE", "true")):
        written, status = on_terminal(place, *ask(REPO), env={name: value})
        assert status == 3
        assert "Download it?" not in harmless(written)
    assert place.hub.log == []


IMPOSSIBLE = {
    f"{REPO}@no-such": (3, f"{REPO} has no revision 'no-such'"),
    "test/bare": (3, "test/bare has no GGUF files"),
    f"{REPO}/other.gguf": (3, f"{REPO} has no file 'other.gguf', only {HERE}"),
    "test/torn-GGUF": (3, "m-Q4_0-00002-of-00003.gguf"),
    "test/torn-GGUF:Q4_0": (3, "test/torn-GGUF: Q4_0 is incomplete, m-Q4_0-00002-of-00003.gguf is missing"),
    "test/gated-GGUF": (4, "test/gated-GGUF is gated"),
}


@pytest.fixture(scope="module")
def refused(server: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, CliResult]]:
    """What is said of each; the environment allows downloads as the flag does."""
    place = Place(tmp_path_factory.mktemp("refused"), server)
    server.log.clear()
    runs = place.runs(*map(ask, IMPOSSIBLE), LLMCLI_PULL="1")
    assert server.requests("cdn") == []
    return place, dict(zip(IMPOSSIBLE, runs, strict=True))


@pytest.mark.parametrize("reference", IMPOSSIBLE)
def test_failed_download_prints_one_error_and_its_status(
    refused: tuple[Place, dict[str, CliResult]], reference: str
) -> None:
    status, words = IMPOSSIBLE[reference]
    place, runs = refused
    assert (runs[reference].status, runs[reference].stdout) == (status, b""), runs[reference].stderr
    assert words in error_line(runs[reference].stderr)
    assert is_empty(place)


@pytest.mark.terminal
def test_foreign_model_is_refused_before_the_question(place: Place) -> None:
    written, status = on_terminal(place, *ask("test/gated-GGUF"), env={"TERM": "dumb"})
    assert status == 4
    assert "Download it?" not in harmless(written)
