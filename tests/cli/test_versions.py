"""Versions of models, offline mode, interrupted downloads and the first run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_hub_end_to_end import Place
from tests.conftest import Run
from tests.hub.server import FakeHub
from tests.models.gguf_writer import MODEL, write_gguf

REPO = "o/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with FakeHub() as hub:
        hub.add(REPO, {FILE: write_gguf(tmp_path / "one.gguf").read_bytes()})
        yield Place(tmp_path / "place", hub)


def test_a_model_changes_only_when_it_is_pulled_again(place: Place, tmp_path: Path) -> None:
    first = place.run("pull", REPO).text.strip()
    newer = write_gguf(tmp_path / "two.gguf", MODEL | {"general.name": "the second"})
    place.hub.repos[REPO].commit({FILE: newer.read_bytes()})
    assert first in place.run("models", "show", REPO).text
    again = place.run("pull", REPO)
    assert again.text.strip() != first
    assert "a newer version of this model" in again.stderr
    assert "the second" in place.run("models", "show", REPO).text
    assert Path(first).exists()


def test_an_offline_pull_prints_the_path_of_a_local_model(place: Place) -> None:
    path = place.run("pull", REPO).text
    asked = len(place.hub.log)
    for ran in (place.run("pull", REPO, "--offline"), place.run("pull", REPO, HF_HUB_OFFLINE="1")):
        assert (ran.status, ran.text) == (0, path)
        assert "did not check for updates" in ran.stderr
    assert len(place.hub.log) == asked
    assert place.run("pull", f"{REPO}:Q8_0", "--offline").status == 5


def test_an_alias_of_an_alias_works_and_a_dangling_one_fails(place: Place) -> None:
    place.run("models", "alias", "a", REPO)
    place.run("models", "alias", "b", "a")
    assert place.run("models", "alias", "b").text.strip() == REPO
    assert place.run("models", "alias", "c", "nothing").status == 3


def test_a_corrupt_file_is_marked_until_it_is_repaired(place: Place) -> None:
    path = Path(place.run("pull", REPO).text.strip()).resolve()
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert place.run("models", "verify", REPO).status == 8
    assert "DAMAGED" in place.run("models", "show", REPO).text
    assert place.run("pull", REPO).status == 0
    assert path.read_bytes() == right
    assert "DAMAGED" not in place.run("models", "show", REPO).text


def test_the_parts_of_an_interrupted_pull_can_be_removed(place: Place, tmp_path: Path) -> None:
    part = write_gguf(tmp_path / "part.gguf").read_bytes()
    names = [f"big-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    place.hub.add("o/big-GGUF", {names[0]: part, names[1]: part + b"2"})
    place.run("pull", "o/big-GGUF")
    pointer = next(place.cache.rglob(names[1]))
    pointer.resolve().unlink()
    pointer.unlink()
    assert place.run("models", "list", "--json").text.strip() == "[]"
    removed = place.run("models", "rm", "o/big-GGUF", "--yes")
    assert removed.status == 0, removed.stderr
    assert names[0] in removed.stderr
    assert not list(place.cache.rglob("blobs/*"))


def test_only_the_first_run_names_better_models(run: Run, with_starter: Path, home: Path) -> None:
    (home / "data" / "welcomed").unlink()
    ask = ("generate", "--raw", "Hi", "--temp", "0", "-n", "1")
    assert "llmcli models recommend" not in run(*ask, "-m", "starter").stderr
    assert "llmcli models recommend" in run(*ask).stderr
    assert "recommend" not in run(*ask).stderr
