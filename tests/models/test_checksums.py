"""Recorded checksums: valid as long as the file is unchanged."""

import json
import os
import time
from pathlib import Path

import pytest

from llmcli.errors import DiskError
from llmcli.models import file_records
from tests.models.hub_folder import sha256

DATA = b"the bytes of a model"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def data(tmp_path: Path, file: Path) -> Path:
    """A data folder that knows the file."""
    file_records.record_sha256(tmp_path / "data", file, sha256(DATA))
    return tmp_path / "data"


def note(data: Path) -> Path:
    (path,) = (data / "verified").iterdir()
    return path


def test_the_checksum_of_a_file_is_computed_with_progress(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(file_records, "_BLOCK", 8)
    assert file_records.sha256_of(file, lambda done, size: seen.append((done, size))) == sha256(DATA)
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_empty_file_has_a_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert file_records.sha256_of(tmp_path / "empty", lambda _done, _size: None) == sha256(b"")


def test_unreadable_file_error_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot read .*none\.gguf"):
        file_records.sha256_of(tmp_path / "none.gguf", lambda _done, _size: None)


def test_recorded_sha256_has_its_time(data: Path, file: Path) -> None:
    known = file_records.recorded_sha256(data, file)
    assert known is not None
    assert known[0] == sha256(DATA)
    assert abs(known[1] - time.time()) < 60
    assert file_records.is_verified(data, file, sha256(DATA))


def test_is_verified_is_false_for_another_checksum(data: Path, file: Path) -> None:
    assert not file_records.is_verified(data, file, sha256(b"other"))


def test_link_is_verified_like_its_file(data: Path, file: Path) -> None:
    link = file.with_name("link.gguf")
    link.symlink_to(file.name)
    assert file_records.is_verified(data, link, sha256(DATA))


def test_file_without_a_record_is_not_verified(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(DATA)
    assert file_records.recorded_sha256(data, tmp_path / "other.gguf") is None
    assert file_records.recorded_sha256(tmp_path / "none", tmp_path / "other.gguf") is None


def test_changed_size_invalidates_the_record(data: Path, file: Path) -> None:
    info = file.stat()
    file.write_bytes(DATA + b"x")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert file_records.recorded_sha256(data, file) is None


def test_changed_time_invalidates_the_record(data: Path, file: Path) -> None:
    info = file.stat()
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns + 1_000_000_000))
    assert file_records.recorded_sha256(data, file) is None


def test_missing_file_is_not_verified(data: Path, file: Path) -> None:
    file.unlink()
    assert file_records.recorded_sha256(data, file) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"state": null}'],
    ids=["empty", "torn", "list", "null", "no utf-8", "deep", "lacking"],
)
def test_damaged_record_verifies_nothing(data: Path, file: Path, content: bytes) -> None:
    note(data).write_bytes(content)
    assert file_records.recorded_sha256(data, file) is None


def test_checksum_record_with_an_invalid_time_is_ignored(data: Path, file: Path) -> None:
    noted = json.loads(note(data).read_text())
    note(data).write_text(json.dumps(noted | {"time": 10**400}))
    assert file_records.recorded_sha256(data, file) is None


def test_unwritable_folder_is_ignored(tmp_path: Path, file: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    file_records.record_sha256(tmp_path / "data", file, sha256(DATA))
    assert file_records.recorded_sha256(tmp_path / "data", file) is None
