"""The sha256 of a file is computed with progress."""

from pathlib import Path

import pytest

from llmcli.errors import DiskError
from llmcli.models import notes
from tests.models.hub_folder import sha256

DATA = b"the bytes of a model"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(DATA)
    return path


def test_the_checksum_of_a_file_is_computed_with_progress(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(notes, "_BLOCK", 8)
    assert notes.sha256_of(file, lambda done, size: seen.append((done, size))) == sha256(DATA)
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_empty_file_has_a_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert notes.sha256_of(tmp_path / "empty", lambda _done, _size: None) == sha256(b"")


def test_unreadable_file_error_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot read .*none\.gguf"):
        notes.sha256_of(tmp_path / "none.gguf", lambda _done, _size: None)
