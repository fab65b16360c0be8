"""The record of probed files: by path, size, time and build; a damaged record is ignored."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from llmcli.models.file_records import MAX_PROBED, PROBED, is_probed, record_probed

BUILD = "0.3.36"


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        path.write_bytes(b"x" * 10)
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


def test_recorded_model_is_probed(cache: Path, parts: list[Path]) -> None:
    assert not is_probed(cache, parts, BUILD)
    record_probed(cache, parts, BUILD)
    assert is_probed(cache, parts, BUILD)


def test_probe_record_does_not_match_other_build_or_parts(cache: Path, parts: list[Path]) -> None:
    record_probed(cache, parts, BUILD)
    assert not is_probed(cache, parts, "0.3.37")
    assert not is_probed(cache, parts[:1], BUILD)


@pytest.mark.parametrize("changed", [0, 1])
def test_changed_part_is_probed_again(cache: Path, parts: list[Path], changed: int) -> None:
    record_probed(cache, parts, BUILD)
    info = parts[changed].stat()
    os.utime(parts[changed], ns=(info.st_atime_ns, info.st_mtime_ns + 1_000_000_000))
    assert not is_probed(cache, parts, BUILD)
    os.utime(parts[changed], ns=(info.st_atime_ns, info.st_mtime_ns))
    assert is_probed(cache, parts, BUILD)
    parts[changed].write_bytes(b"y" * 11)
    os.utime(parts[changed], ns=(info.st_atime_ns, info.st_mtime_ns))
    assert not is_probed(cache, parts, BUILD)


def test_model_with_a_missing_part_is_not_probed(cache: Path, parts: list[Path]) -> None:
    record_probed(cache, parts, BUILD)
    parts[1].unlink()
    assert not is_probed(cache, parts, BUILD)


@pytest.mark.parametrize("torn", [b"", b'{"a": {', b"\xff\x00", b"[1, 2]", b"null", b"[" * 100_000, b'{"x": 3}'])
def test_damaged_probe_file_counts_as_empty(cache: Path, parts: list[Path], torn: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / PROBED).write_bytes(torn)
    assert not is_probed(cache, parts, BUILD)
    record_probed(cache, parts, BUILD)
    assert is_probed(cache, parts, BUILD)


def test_only_the_most_recent_entries_are_kept(cache: Path, parts: list[Path], tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    old = {f"/old/{k}.gguf": {"build": BUILD, "parts": []} for k in range(MAX_PROBED + 50)}
    (cache / PROBED).write_text(json.dumps(old))
    record_probed(cache, parts, BUILD)
    kept = json.loads((cache / PROBED).read_text())
    assert len(kept) == MAX_PROBED
    assert list(kept)[-1] == str(parts[0].resolve())
    assert "/old/0.gguf" not in kept


def test_save_leaves_no_temporary_file(cache: Path, parts: list[Path]) -> None:
    record_probed(cache, parts, BUILD)
    assert [path.name for path in cache.iterdir()] == [PROBED]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_probe_record_is_private_with_any_umask(cache: Path, parts: list[Path]) -> None:
    before = os.umask(0)
    try:
        record_probed(cache, parts, BUILD)
    finally:
        os.umask(before)
    assert stat.S_IMODE((cache / PROBED).stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
