"""The file of `--output`: it appears whole, or not at all."""

import os
import stat
import sys
from pathlib import Path

import pytest

from llmcli.errors import DiskError, UsageError
from llmcli.ui.terminal.output import print_line, print_text, to_stderr
from llmcli.ui.terminal.output_file import OutputFile


def test_the_file_appears_when_the_output_is_complete(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    with OutputFile(str(path)) as file:
        print_text("one\n")
        print_line("two", "1")
        with to_stderr(True):
            print_text("a note\n")
        assert not path.exists()
        assert (tmp_path / "a.txt.partial").read_text() == "one\ntwo\n"
        file.complete()
    print_text("stdout again\n")
    assert path.read_text() == "one\ntwo\n"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    assert capfd.readouterr() == ("stdout again\n", "a note\n")


def test_an_incomplete_output_leaves_the_old_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old\n")
    with OutputFile(str(path), force=True):
        print_text("new")
    assert path.read_text() == "old\n"
    partial = tmp_path / "a.txt.partial"
    assert partial.read_text() == "new"
    assert capfd.readouterr().err == f"the output until then is in {partial}\n"


def test_nothing_stays_of_an_empty_output(tmp_path: Path) -> None:
    with OutputFile(str(tmp_path / "a.txt")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(UsageError, match="already exists") as caught:
        OutputFile(str(path))
    assert caught.value.hint == "replace it with --force, or add to it with --append"
    with OutputFile(str(path), force=True) as file:
        print_text("new")
        file.complete()
    assert path.read_text() == "new"
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o640


def test_append_adds_after_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("one\n", "two", "three\n"):
        with OutputFile(str(path), append=True) as file:
            print_text(text)
            file.complete()
    assert path.read_text() == "one\ntwo\nthree\n"


def test_append_adds_nothing_of_an_incomplete_output(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    with OutputFile(str(path), append=True):
        print_text("tw")
    assert path.read_text() == "one\n"


def test_tee_writes_to_stdout_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with OutputFile(str(tmp_path / "a.txt"), tee=True) as file:
        print_text("one\n")
        file.complete()
    assert capfd.readouterr().out == (tmp_path / "a.txt").read_text() == "one\n"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="Windows has no such device")
def test_a_device_is_written_to_as_it_is() -> None:
    with OutputFile("/dev/null") as file:
        print_text("x")
        file.complete()
    assert not Path("/dev/null.partial").exists()


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="only a POSIX system has it")
def test_a_pipe_of_the_shell_is_written_to() -> None:
    reader, writer = os.pipe()  # as in -o >(wc)
    with os.fdopen(reader) as pipe, OutputFile(f"/dev/fd/{writer}") as file:
        print_text("one\n")
        file.complete()
        os.close(writer)
        assert pipe.readline() == "one\n"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(path)
    with OutputFile(str(link), force=True) as file:
        print_text("new")
        file.complete()
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot write .*: No such file or directory"):
        OutputFile(str(tmp_path / "none" / "a.txt"))
    with pytest.raises(UsageError, match="is a folder"):
        OutputFile(str(tmp_path))
    with pytest.raises(UsageError, match="is empty"):
        OutputFile(" ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has it")
def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(DiskError, match="cannot write /dev/full: No space left"), OutputFile("/dev/full"):
        print_text("x")
