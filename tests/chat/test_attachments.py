"""Files beside a message: which words mean one, which files a pattern means, and how a model reads them."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmcli.chat.conversation import Attachment, Message, attach, expand, find_mentions, missing_mentions
from llmcli.errors import DiskError, UsageError

WINDOWS = sys.platform == "win32"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some files, and a home with one."""
    folder = tmp_path / "work"
    (folder / "src" / "deep").mkdir(parents=True)
    for name in ("notes.txt", "a file.txt", "src/b.py", "src/a.py", "src/.hidden.py", "src/deep/c.py", "x[1].txt"):
        (folder / name).write_text(f"{name}\n")
    home = Path(os.path.expanduser("~"))
    home.mkdir()
    (home / "x.md").write_text("home\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("see @notes.txt", ["notes.txt"]),
        ("@notes.txt and @src/a.py", ["notes.txt", "src/a.py"]),
        ("what says @notes.txt?", ["notes.txt"]),
        ("(in @notes.txt).", ["notes.txt"]),
        ('"@notes.txt"', ["notes.txt"]),
        ("**@notes.txt**, look", ["notes.txt"]),
        ("在 @notes.txt。", ["notes.txt"]),
        ('@"a file.txt" says', ["a file.txt"]),
        ("@'a file.txt' says", ["a file.txt"]),
        ("@~/x.md", ["~/x.md"]),
        ("@./src/a.py\n@src/./b.py", ["./src/a.py", "src/./b.py"]),
        ("@notes.txt @notes.txt @notes.txt!", ["notes.txt"]),
        ("@x[1].txt", ["x[1].txt"]),
    ],
)
def test_an_existing_file_behind_an_at_sign_is_found(text: str, names: list[str]) -> None:
    assert find_mentions(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@ notes.txt",
        '@""',
        "joe@notes.txt",
        "joe.@notes.txt",
        "@@notes.txt",
        "@nobody",
        "@src",
        "@...",
        "@notes.txt.bak",
        "@a file.txt",
        '@"a file.txt.bak"',
        "@\0",
        '@"a\0b"',
        "@" + "x" * 10_000,
        "@/dev/null",
    ],
)
def test_every_other_at_sign_is_just_text(text: str) -> None:
    assert find_mentions(text) == []


def test_punctuation_belongs_to_the_name_of_a_file_that_has_it(folder: Path) -> None:
    (folder / "wow!").touch()
    assert find_mentions("@wow!") == ["wow!"]
    assert find_mentions("@wow!?!") == ["wow!"]
    assert find_mentions("@notes.txt!?!") == ["notes.txt"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["@x " * 300_000, "@" * 1_000_000, '@"' * 500_000, "@" + "!" * 1_000_000, "@a'@b\"" * 9]
)
def test_a_megabyte_of_at_signs_is_searched_at_once(text: str) -> None:
    assert find_mentions(text) == []


@given(st.text())
def test_any_text_can_be_searched_for_mentions(text: str) -> None:
    assert isinstance(find_mentions(text), list)


def test_an_attachment_has_the_typed_name_and_the_text() -> None:
    assert attach("~/x.md") == Attachment("~/x.md", "home\n")
    assert attach("a file.txt").text == "a file.txt\n"


def test_a_file_that_cannot_be_attached_is_an_error(folder: Path) -> None:
    (folder / "binary").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(DiskError, match="is a folder"):
        attach("src")
    with pytest.raises(DiskError, match="not a text file"):
        attach("binary")
    with pytest.raises(DiskError, match=r"file not found: gone\.txt"):
        attach("gone.txt")
    with pytest.raises(DiskError):
        attach("a\0b")
    with pytest.raises(UsageError, match="empty"):
        attach(" ")


@pytest.mark.skipif(WINDOWS, reason="pipes have no names in folders there")
@pytest.mark.timeout(10)
def test_a_pipe_without_a_writer_does_not_block_the_chat(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(DiskError, match="device or a pipe"):
        attach("pipe")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("notes.txt", ["notes.txt"]),
        ("gone.txt", ["gone.txt"]),  # reading it tells what is wrong
        ("x[1].txt", ["x[1].txt"]),
        ("src/*.py", ["src/a.py", "src/b.py"]),
        ("src/?.py", ["src/a.py", "src/b.py"]),
        ("src/[b-z].py", ["src/b.py"]),
        ("src/.*.py", ["src/.hidden.py"]),
        ("src/*", ["src/a.py", "src/b.py"]),
        ("**/*.py", ["src/a.py", "src/b.py", "src/deep/c.py"]),
    ],
)
def test_a_pattern_matches_files_in_order(pattern: str, names: list[str]) -> None:
    assert [name.replace(os.sep, "/") for name in expand(pattern)] == names


def test_a_pattern_may_start_in_the_home_folder() -> None:
    assert expand("~/*.md") == [os.path.join(os.path.expanduser("~"), "x.md")]


def test_a_pattern_with_no_match_or_too_many_is_an_error(folder: Path) -> None:
    for pattern in ("*.rs", "nowhere/*", "*\0"):
        with pytest.raises(DiskError):
            expand(pattern)
    for number in range(100):
        (folder / f"{number:03}.log").touch()
    assert expand("*.log") == [f"{number:03}.log" for number in range(100)]
    (folder / "100.log").touch()
    with pytest.raises(DiskError, match="more than 100 files"):
        expand("*.log")


def text_of(*attachments: Attachment) -> str:
    return Message(1, None, "user", "Look.", attachments=attachments).text


@pytest.mark.parametrize(
    ("name", "text", "block"),
    [
        ("a.py", "x = 1\n", "File a.py:\n```python\nx = 1\n```"),
        ("a.TXT", "no end", "File a.TXT:\n```\nno end\n```"),
        ("dir/Makefile", "", "File dir/Makefile:\n```makefile\n```"),
        ("README.md", "```\ncode\n```\n", "File README.md:\n````markdown\n```\ncode\n```\n````"),
        ("a.go", "`````", "File a.go:\n``````go\n`````\n``````"),
        ("a.b c", "x\n", "File a.b c:\n```\nx\n```"),
        ("a\n\x1b.c", "x\n", "File a\ufffd\ufffd.c:\n```c\nx\n```"),
    ],
)
def test_a_model_reads_a_fenced_block_under_the_name(name: str, text: str, block: str) -> None:
    assert text_of(Attachment(name, text)) == f"Look.\n\n{block}"


def test_several_files_are_separate_blocks() -> None:
    two = text_of(Attachment("a.txt", "a"), Attachment("b.txt", "b"))
    assert two == "Look.\n\nFile a.txt:\n```\na\n```\n\nFile b.txt:\n```\nb\n```"
    assert text_of() == "Look."


@given(st.text("`~ab\n "))
def test_no_text_ends_its_own_fence(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(text_of(Attachment("a.txt", text), Attachment("b.txt", "end")))
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences == [text if text.endswith("\n") or not text else text + "\n", "end\n"]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see @typo.txt, and @src/no.py.", ["@typo.txt", "@src/no.py"]),
        ('see @"no such file.txt" @./no @~/no', ["@no such file.txt", "@./no", "@~/no"]),
        ("see @a.b @c.d @e.f @g.h", ["@a.b", "@c.d", "@e.f"]),
        ("mail me@example.com, ask @ada, use @scope/package and @pytest.fixture", []),
        ("@app.get\ndef f():", []),
        ("see @here.txt and @folder.d", []),
    ],
)
def test_a_mention_that_looks_like_a_missing_file_is_found(
    text: str, missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("x")
    (tmp_path / "folder.d").mkdir()
    assert missing_mentions(text) == missing
