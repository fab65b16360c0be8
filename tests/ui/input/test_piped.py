"""Turns from a stream: lines, blocks, and what a pipe may bring."""

from io import BytesIO

import pytest

from llmcli.errors import UsageError
from llmcli.text import block_body, is_open_block
from llmcli.ui.input import piped
from llmcli.ui.input.piped import LineReader


def messages(data: bytes) -> list[str]:
    reader, found = LineReader(BytesIO(data)), []
    while True:
        try:
            found.append(reader.read())
        except EOFError:
            return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"no end", ["no end"]),
        (b"\n  \none\n\n", ["one"]),
        (b"\xef\xbb\xbfone\r\ntwo\r\n", ["one", "two"]),
        ("naïve 🙂\n".encode(), ["naïve 🙂"]),
        (b"a\xff\xfeb\n", ["a��b"]),
        (b"one\\\n/help\nC:\\", ["one\\", "/help", "C:\\"]),
        (b"// one\n", ["// one"]),
        (b'"""\none\n\ntwo\n"""\nthree\n', ["one\n\ntwo", "three"]),
        (b'"""\r\none\r\n"""  \r\nthree\r\n', ["one", "three"]),
        (b'"""one\ntwo"""\nthree\n', ["one\ntwo", "three"]),
        (b'"""one"""\ntwo\n', ["one", "two"]),
        (b'"""\nx\\\n"""\n', ["x\\"]),
        (b'"""\ndef f():\n    """Doc."""\n    """\n"""\nnext\n', ['def f():\n    """Doc."""\n    """', "next"]),
        (b'"""\nnever closed\n', ["never closed"]),
        (b'"""\n"""\n""""""\n"""', []),
        (b'"""\n/exit\n"""\n', ["/exit"]),
        (b'say """\nno block\n', ['say """', "no block"]),
        (b'/system """You are\na poet."""\nhi\n', ["/system You are\na poet.", "hi"]),
        (b'/system """\none\ntwo\n"""\nhi\n', ["/system one\ntwo", "hi"]),
        (b'/etc/hosts """\nhi\n', ['/etc/hosts """', "hi"]),
    ],
)
def test_a_message_is_a_line_or_a_block(data: bytes, expected: list[str]) -> None:
    assert messages(data) == expected


@pytest.mark.parametrize(
    ("text", "still_open", "content"),
    [
        ("one", False, "one"),
        ("one\n", False, "one\n"),
        ('"""', True, ""),
        ('"""\none', True, "one"),
        ('"""\none"""', True, 'one"""'),
        ('"""\none\n"""', False, "one"),
        ('"""\none\n"""\n \n', False, "one"),
        ('"""\n\none\n\n"""', False, "\none\n"),
        ('"""one', True, "one"),
        ('"""one\n  two"""', False, "one\n  two"),
        ('"""one."""\ntwo', False, '"""one."""\ntwo'),
        ('""""""', False, ""),
        ('"""""', True, '""'),
        (' """\none', False, ' """\none'),
    ],
)
def test_a_block_ends_as_it_began(text: str, still_open: bool, content: str) -> None:
    assert is_open_block(text) is still_open
    assert block_body(text) == content


def test_a_message_that_is_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piped, "MOST", 64)
    many = b'"""\n' + b"line\n" * 40 + b'"""\n'
    umlauts = "ü".encode() * 40 + b"\n"  # too many bytes, not too many characters
    reader = LineReader(BytesIO(b"x" * 64 + b"\n" + b"x" * 1000 + b"\nsecond\n" + many + umlauts + b"third\n"))
    for expected in ("", "", "second", "", "", "third"):
        if expected:
            assert reader.read() == expected
            continue
        with pytest.raises(UsageError, match="at most"):
            reader.read()


def test_the_marker_is_shown_once_for_each_message() -> None:
    shown: list[str] = []
    reader = LineReader(BytesIO(b'one\n"""\ntwo\n"""\nthree\\\nfour\n\nfive\n'), lambda: shown.append("> "))
    assert [reader.read() for _ in range(4)] == ["one", "two", "three\nfour", "five"]
    assert len(shown) == 5  # once more after the empty line


def test_a_block_that_is_not_closed_is_sent_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert messages(b'one\n"""\ntwo\n') == ["one", "two"]
    said = capfd.readouterr().err
    assert said == 'warning: the block at the end of the input is not closed: its last line must be """\n'
    assert messages(b'"""\ntwo\n"""\n') == ["two"]
    assert capfd.readouterr().err == ""


def test_a_backslash_continues_a_line_at_a_terminal_only() -> None:
    assert LineReader(BytesIO(b"one\\\ntwo\n"), lambda: None).read() == "one\ntwo"
    assert LineReader(BytesIO(b"one\\\ntwo\n")).read() == "one\\"
