"""Texts of arguments and files: a line or a file each, with their places."""

import io
from pathlib import Path

import pytest

from llmcli.errors import DiskError
from llmcli.pipelines.text_source import Text, TextSource, pair_of


def texts(*files: Path | str, encoding: str = "utf-8", whole: bool = False, stdin: bytes = b"") -> list[Text]:
    return [*TextSource([], [*map(str, files)], lambda: io.BytesIO(stdin), encoding, whole)]


def test_each_line_is_a_text_and_empty_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\n  \n two \nthree")
    source = TextSource(["zero"], [str(path)], io.BytesIO)
    assert [(one.text, one.place) for one in source] == [
        ("zero", ""),
        ("one", f"{path}:1"),
        (" two ", f"{path}:4"),
        ("three", f"{path}:5"),
    ]
    assert source.n_empty == 2


def test_stdin_is_one_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("file\n")
    assert [one.place for one in texts("-", tmp_path / "a.txt", stdin=b"one\ntwo\n")][:2] == ["stdin:1", "stdin:2"]


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve\n", "utf-8"),
        (b"na\xefve\n", "latin-1"),
        ("naïve\n".encode("utf-16"), "utf-8"),
        ("naïve\n".encode("utf-16-le"), "utf-16-le"),
    ],
)
def test_the_encoding_of_a_file_is_its_mark_or_the_setting(tmp_path: Path, data: bytes, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert [one.text for one in texts(tmp_path / "a.txt", encoding=encoding)] == ["naïve"]


def test_lost_characters_are_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\nna\xefve\ncaf\xe9\n")
    assert len(texts(tmp_path / "a.txt")) == 3
    assert capsys.readouterr().err.count("a.txt, line 2: some characters are lost") == 1


def test_a_whole_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert texts(tmp_path / "a.txt", whole=True) == [Text("one\n\ntwo\n", str(tmp_path / "a.txt"))]


@pytest.mark.parametrize(("data", "reason"), [(None, "file not found"), (b"\0\1", "is not a text file")])
def test_a_file_that_cannot_be_read_is_found_before(tmp_path: Path, data: bytes | None, reason: str) -> None:
    if data:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DiskError, match=reason):
        TextSource([], [str(tmp_path / "a.txt")], io.BytesIO).check()
    with pytest.raises(DiskError, match="is a folder"):
        TextSource([], [str(tmp_path)], io.BytesIO).check()


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("a b\tc", ["a b", "c"]),
        ('["a", "b\\tc"]', ["a", "b\tc"]),
        ("[a]\tb", ["[a]", "b"]),
        ("a", ["a"]),
        ("a\tb\tc", ["a\tb\tc"]),
        ('["a"]', ['["a"]']),
        ('["a", 1]', ['["a", 1]']),
        ("a\t ", ["a\t "]),
    ],
)
def test_a_line_has_two_texts_or_is_left_alone(line: str, pair: list[str]) -> None:
    assert [one.text for one in pair_of(Text(line, "x", 3))] == pair
