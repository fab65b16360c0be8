"""Records of pulls: kept as saved; a torn, forged or unreadable one is ignored."""

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.models.hub import cache
from llmcli.models.hub.cache import PulledRevision
from llmcli.models.hub.repo_files import RepoFile
from tests.models.hub_folder import NEW, REPO

FILES = (RepoFile("sub/m-00001-of-00002.gguf", 5, "1" * 64), RepoFile("sub/m-00002-of-00002.gguf", 6, ""))
RECORD = PulledRevision(f"{REPO}:Q4_K_M", REPO, NEW, FILES, RepoFile("mmproj-é.gguf", 7, "2" * 64), "apache-2.0", 1.5)


def load_revision(data: Path, reference: str) -> PulledRevision | None:
    return cache.read_revision(cache.revision_path(data, reference))


def record_path(data: Path, **changes: Any) -> PulledRevision | None:
    """What is read of a record with these values changed by another hand."""
    cache.save_revision(data, RECORD)
    (path,) = (data / "pulled").iterdir()
    path.write_text(json.dumps(asdict(RECORD) | changes))
    return load_revision(data, RECORD.reference)


def test_record_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    cache.save_revision(tmp_path, RECORD)
    assert load_revision(tmp_path, RECORD.reference) == RECORD
    assert cache.all_revisions(tmp_path) == [RECORD]


def test_no_records_give_an_empty_list(tmp_path: Path) -> None:
    assert load_revision(tmp_path / "none", REPO) is None
    assert cache.all_revisions(tmp_path / "none") == []


def test_newer_record_replaces_the_older_one(tmp_path: Path) -> None:
    cache.save_revision(tmp_path, RECORD)
    newer = replace(RECORD, commit="c" * 40, projector=None, time=2.0)
    cache.save_revision(tmp_path, newer)
    assert cache.all_revisions(tmp_path) == [newer]


def test_similar_references_have_separate_records(tmp_path: Path) -> None:
    names = ["o/r:Q4", "o/r@Q4", "o/r/Q4", "o-r:Q4", "O/R:Q4", "o/r:Q4@main", "o/" + "r" * 96, "o/" + "r" * 95 + "s"]
    for number, name in enumerate(names):
        cache.save_revision(tmp_path, replace(RECORD, reference=name, time=float(number)))
    assert [record.reference for record in cache.all_revisions(tmp_path)] == names[::-1]  # the newest first
    assert all(load_revision(tmp_path, name) for name in names)


def test_record_of_an_early_version_is_loaded(tmp_path: Path) -> None:
    cache.save_revision(tmp_path, RECORD)
    (path,) = (tmp_path / "pulled").iterdir()
    path.write_text(path.read_text().replace('"license"', '"licence"'))
    assert load_revision(tmp_path, RECORD.reference) == RECORD


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_records_are_private(tmp_path: Path) -> None:
    cache.save_revision(tmp_path, RECORD)
    (path,) = (tmp_path / "pulled").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)],
    ids=["empty", "torn", "null", "list", "object", "number", "text", "no utf-8", "deep", "long"],
)
def test_damaged_record_is_ignored(tmp_path: Path, content: bytes) -> None:
    other = replace(RECORD, reference="a/b")
    cache.save_revision(tmp_path, RECORD)
    (path,) = (tmp_path / "pulled").iterdir()
    path.write_bytes(content)
    cache.save_revision(tmp_path, other)
    assert load_revision(tmp_path, RECORD.reference) is None
    assert cache.all_revisions(tmp_path) == [other]


@pytest.mark.parametrize(
    "path",
    [
        "../x.gguf",
        "/etc/x.gguf",
        "a/../../x.gguf",
        "",
        "a\\..\\x.gguf",
        "C:x.gguf",
        "x\n.gguf",
        "\ud800.gguf",
        "-x.gguf",
    ],
)
def test_record_with_unsafe_path_is_ignored(tmp_path: Path, path: str) -> None:
    entry = {"path": path, "size": 1, "sha256": ""}
    assert record_path(tmp_path, files=[entry]) is None
    assert record_path(tmp_path, projector=entry) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"commit": "../../x"},
        {"commit": "B" * 40},
        {"files": []},
        {"files": "abc"},
        {"files": [{"path": "x.gguf", "size": float("inf"), "sha256": ""}]},
        {"files": [{"path": "x.gguf", "size": "many", "sha256": ""}]},
        {"projector": 7},
        {"time": 1 << 2000},
        {"time": [1]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_record_with_an_invalid_value_is_ignored(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert record_path(tmp_path, **changes) is None


def test_folder_instead_of_a_record_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "pulled" / "x.json").mkdir(parents=True)
    assert cache.all_revisions(tmp_path) == []
