"""Links that an attacker puts into the cache: a download never changes their targets."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.errors import DiskError, LlmcliError
from llmcli.models.download import partial_file
from tests.models.pulls import FILE, MIB, REPO, Pulls, pulling, sha256, some_bytes

DATA = some_bytes(MIB)
DIGEST = hashlib.sha256(DATA).hexdigest()
PARTIAL = f"blobs/{DIGEST}{partial_file.PARTIAL}"


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    with pulling(DATA, tmp_path, monkeypatch) as made:
        yield made


def plant(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


@pytest.fixture(params=["another file", "a file of the right size", "nothing"])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    if request.param != "nothing":
        path.write_bytes(b"mine" if request.param == "another file" else bytes(len(DATA)))
    return path


def result_of(pulls: Pulls) -> LlmcliError | None:
    """How a pull ends: with the right file, or with this error and nothing published."""
    try:
        path = pulls.pull()
    except LlmcliError as error:
        return error
    assert sha256(path) == DIGEST
    assert path.resolve().is_relative_to(pulls.folder.resolve())
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [PARTIAL, f"{PARTIAL}.ranges", f"blobs/{DIGEST}", "refs/main", f"snapshots/COMMIT/{FILE}"]
)
def test_link_instead_of_a_file_is_refused(pulls: Pulls, victim: Path, name: str) -> None:
    before = victim.read_bytes() if victim.exists() else None
    plant(pulls.folder / name.replace("COMMIT", pulls.hub.repos[REPO].head), victim)
    if name.startswith(PARTIAL):  # a rest is there, so that the note is looked at
        pulls.begin(DATA[:1000], DATA) if name != PARTIAL else None
    error = result_of(pulls)
    assert error is None or isinstance(error, DiskError)
    assert (victim.read_bytes() if victim.exists() else None) == before


def test_link_instead_of_a_lock_is_refused(pulls: Pulls, victim: Path) -> None:
    before = victim.read_bytes() if victim.exists() else None
    plant(pulls.lock(DIGEST), victim)
    error = result_of(pulls)
    assert error is None or isinstance(error, DiskError)
    assert (victim.read_bytes() if victim.exists() else None) == before


@pytest.mark.parametrize("name", [".", "blobs", "snapshots", "snapshots/COMMIT", "refs"])
def test_link_instead_of_a_folder_is_refused(pulls: Pulls, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / FILE).write_bytes(b"mine")
    plant(pulls.folder / name.replace("COMMIT", pulls.hub.repos[REPO].head), outside)
    error = result_of(pulls)
    assert isinstance(error, DiskError)
    assert "leads out of the cache" in str(error)
    assert {path.name: path.read_bytes() for path in outside.iterdir() if path.is_file()} == {FILE: b"mine"}


def test_a_cache_that_is_itself_a_link_is_fine(pulls: Pulls, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    plant(pulls.locations.hub, tmp_path / "large disk")
    assert result_of(pulls) is None


def test_partial_file_that_is_a_folder_is_an_error(pulls: Pulls) -> None:
    (pulls.folder / PARTIAL).mkdir(parents=True)
    error = result_of(pulls)
    assert isinstance(error, DiskError)
    assert "is not a regular file" in str(error)
