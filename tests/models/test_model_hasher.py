"""The sha256 of a model: known from a record or the name of a blob, otherwise computed once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcli.models import notes
from llmcli.models.locations import STARTER, STARTER_SHA256, ModelFile, Progress
from llmcli.models.notes import ModelHasher

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read."""
    seen: list[Path] = []
    real = notes.sha256_of

    def sha256_of(path: Path, progress: Progress, stop: Callable[[], bool]) -> str:
        seen.append(path)
        return real(path, progress, stop)

    monkeypatch.setattr(notes, "sha256_of", sha256_of)
    return seen


def hasher_for(tmp_path: Path, *parts: Path, name: str = "a", trusted: bool = False) -> ModelHasher:
    return ModelHasher(ModelFile(parts[0], parts, name, trusted), tmp_path / "data")


def write_file(path: Path, data: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_starter_sha256_needs_no_hashing(tmp_path: Path, hashed: list[Path]) -> None:
    place = write_file(tmp_path / "any.gguf")
    assert hasher_for(tmp_path, place, name=STARTER, trusted=True).sha256() == STARTER_SHA256
    assert hashed == []


def test_file_with_the_name_of_the_starter_is_hashed(tmp_path: Path) -> None:
    place = write_file(tmp_path / "starter.gguf")
    assert hasher_for(tmp_path, place, name=STARTER).sha256() == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("name", [DIGEST, f"sha256-{DIGEST}"])
def test_blobs_are_named_by_their_sha256(tmp_path: Path, hashed: list[Path], name: str) -> None:
    blob, link = write_file(tmp_path / "blobs" / name), tmp_path / "model.gguf"
    try:
        link.symlink_to(blob)
    except OSError:
        link = blob
    assert hasher_for(tmp_path, link).sha256() == DIGEST
    assert hashed == []


@pytest.mark.parametrize("place", [f"blobs/{DIGEST[:40]}", f"else/{DIGEST}", f"blobs/{DIGEST}.gguf"])
def test_sha256_is_not_taken_from_other_file_names(tmp_path: Path, place: str) -> None:
    assert hasher_for(tmp_path, write_file(tmp_path / place)).known == ""


def test_file_is_hashed_again_only_when_it_changes(tmp_path: Path, hashed: list[Path]) -> None:
    place = write_file(tmp_path / "a.gguf")
    for _ in range(2):
        assert hasher_for(tmp_path, place).sha256() == hashlib.sha256(b"weights").hexdigest()
    assert hasher_for(tmp_path, place).known
    assert hashed == [place]
    write_file(place, b"other weights")
    assert hasher_for(tmp_path, place).known == ""
    assert hasher_for(tmp_path, place).sha256() == hashlib.sha256(b"other weights").hexdigest()


def test_sha256_of_a_split_model_joins_those_of_its_parts(tmp_path: Path) -> None:
    parts = [write_file(tmp_path / name, name.encode()) for name in ("a", "b")]
    digests = [hashlib.sha256(name).hexdigest() for name in (b"a", b"b")]
    expected = hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
    assert hasher_for(tmp_path, *parts).sha256() == expected
    assert hasher_for(tmp_path, *reversed(parts)).sha256() != expected


def test_unreadable_file_has_no_sha256(tmp_path: Path) -> None:
    one = hasher_for(tmp_path, tmp_path / "gone.gguf")
    one.start()
    assert (one.wait(60), one.sha256(), one.known) == ("", "", "")


def test_sha256_is_computed_in_the_background(tmp_path: Path) -> None:
    one = hasher_for(tmp_path, write_file(tmp_path / "a.gguf"))
    assert one.wait(60) == ""  # nothing was begun
    one.start()
    assert one.wait(60) == hashlib.sha256(b"weights").hexdigest()


def test_sha256_wait_has_a_time_limit(tmp_path: Path) -> None:
    one, steps = hasher_for(tmp_path, write_file(tmp_path / "a.gguf")), []
    assert one.sha256(lambda done, total: steps.append((done, total)), stop=lambda: True) == ""
    assert steps == []
    assert one.sha256(lambda done, total: steps.append((done, total)))
    assert steps == [(7, 7)]
