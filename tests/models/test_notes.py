"""Notes about files: facts that hold as long as a file is unchanged; a damaged note is a miss."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from llmcli.models import notes

BUILD = "0.3.36"
SHA256 = "1" * 64
BYTES = b"the bytes of a model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def known(data: Path, file: Path) -> Path:
    """The note of the file, with a fact of each kind."""
    notes.record_sha256(data, file, SHA256)
    notes.record_probed(data, [file], BUILD)
    notes.update(data, file, used=1000.0)
    (path,) = (data / notes.FOLDER).iterdir()
    return path


def change_time(file: Path, nanoseconds: int) -> None:
    info = file.stat()
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns + nanoseconds))


def test_unknown_file_has_no_facts(data: Path, file: Path) -> None:
    assert notes.read(data, file) == {}
    assert not notes.is_probed(data, [file], BUILD)


def test_facts_are_added_to_the_note(data: Path, file: Path, known: Path) -> None:
    note = notes.read(data, file)
    assert abs(note.pop("hashed") - time.time()) < 60
    assert note == {"sha256": SHA256, "probed": BUILD, "used": 1000.0}
    assert json.loads(known.read_text())["path"] == str(file)
    notes.update(data, file, used=2000.0)
    assert (notes.read(data, file)["used"], notes.read(data, file)["sha256"]) == (2000.0, SHA256)


def test_link_has_the_note_of_its_file(data: Path, file: Path, known: Path) -> None:
    link = file.with_name("link.gguf")
    link.symlink_to(file.name)
    assert notes.read(data, link) == notes.read(data, file) != {}
    notes.update(data, link, used=2000.0)
    assert notes.read(data, file)["used"] == 2000.0
    assert list(known.parent.iterdir()) == [known]


def test_other_file_with_the_same_bytes_has_no_facts(data: Path, file: Path, known: Path, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(BYTES)
    assert notes.read(data, tmp_path / "other.gguf") == {}


def test_note_of_a_path_with_the_same_checksum_is_a_miss(data: Path, file: Path, known: Path) -> None:
    known.write_text(known.read_text().replace("m.gguf", "n.gguf"))
    assert notes.read(data, file) == {}


@pytest.mark.parametrize("change", ["time", "size"])
def test_changed_file_keeps_only_its_last_use(data: Path, file: Path, known: Path, change: str) -> None:
    if change == "time":
        change_time(file, 1_000_000_000)
    else:
        info = file.stat()
        file.write_bytes(BYTES + b"x")
        os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert notes.read(data, file) == {"used": 1000.0}
    assert not notes.is_probed(data, [file], BUILD)
    notes.update(data, file, used=2000.0)
    assert notes.read(data, file) == {"used": 2000.0}


def test_file_with_its_former_time_is_known_again(data: Path, file: Path, known: Path) -> None:
    change_time(file, 1_000_000_000)
    change_time(file, -1_000_000_000)
    assert notes.is_probed(data, [file], BUILD)


def test_deleted_file_keeps_only_its_last_use(data: Path, file: Path, known: Path) -> None:
    file.unlink()
    assert notes.read(data, file) == {"used": 1000.0}


def test_forgotten_file_has_no_facts(data: Path, file: Path, known: Path) -> None:
    notes.forget(data, file)
    notes.forget(data, file)
    assert notes.read(data, file) == {}
    assert not known.exists()


def test_probe_is_of_one_release_of_llama_cpp(data: Path, file: Path, known: Path) -> None:
    assert notes.is_probed(data, [file], BUILD)
    assert not notes.is_probed(data, [file], "0.3.37")


@pytest.mark.parametrize("changed", [0, 1])
def test_split_model_is_probed_again_if_a_part_changes(data: Path, file: Path, tmp_path: Path, changed: int) -> None:
    parts = [file, tmp_path / "b.gguf"]
    parts[1].write_bytes(b"second")
    notes.record_probed(data, parts[:1], BUILD)
    assert not notes.is_probed(data, parts, BUILD)
    notes.record_probed(data, parts, BUILD)
    assert notes.is_probed(data, parts, BUILD)
    change_time(parts[changed], 1_000_000_000)
    assert not notes.is_probed(data, parts, BUILD)


def test_model_with_a_missing_part_is_not_probed(data: Path, file: Path, known: Path) -> None:
    file.unlink()
    assert not notes.is_probed(data, [file], BUILD)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\x00", b"[" * 100_000, b'{"state": null}', b" " * (5 << 20)],
    ids=["empty", "torn", "list", "null", "number", "no utf-8", "deep", "lacking", "long"],
)
def test_damaged_note_is_a_miss_and_is_replaced(data: Path, file: Path, known: Path, content: bytes) -> None:
    known.write_bytes(content)
    assert notes.read(data, file) == {}
    assert not notes.is_probed(data, [file], BUILD)
    notes.update(data, file, used=1.0)
    assert notes.read(data, file) == {"used": 1.0}


@pytest.mark.parametrize("wrong", [{"hashed": 10**400}, {"used": "now"}, {"sha256": 7}, {"probed": [BUILD]}])
def test_note_with_a_value_of_another_type_is_a_miss(
    data: Path, file: Path, known: Path, wrong: dict[str, object]
) -> None:
    known.write_text(json.dumps(json.loads(known.read_text()) | wrong))
    assert notes.read(data, file) == {}


def test_facts_of_a_newer_version_are_kept(data: Path, file: Path, known: Path) -> None:
    known.write_text(json.dumps(json.loads(known.read_text()) | {"stars": 5}))
    notes.update(data, file, used=2000.0)
    assert json.loads(known.read_text())["stars"] == 5
    assert "stars" not in notes.read(data, file)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are Unicode there")
def test_file_name_that_is_not_utf_8_can_have_a_note(data: Path, tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf"))
    file.write_bytes(BYTES)
    notes.record_sha256(data, file, SHA256)
    assert notes.read(data, file)["sha256"] == SHA256


def test_unwritable_folder_is_ignored(data: Path, file: Path) -> None:
    data.parent.mkdir()
    data.write_text("in the way")
    notes.update(data, file, used=1.0)
    notes.forget(data, file)
    assert notes.read(data, file) == {}


def test_update_leaves_no_temporary_file(known: Path) -> None:
    assert list(known.parent.iterdir()) == [known]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_notes_are_private_with_any_umask(data: Path, file: Path) -> None:
    before = os.umask(0)
    try:
        notes.update(data, file, used=1.0)
    finally:
        os.umask(before)
    (note,) = (data / notes.FOLDER).iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (note.parent, data, data.parent)] == [0o700] * 3
