"""Questions to the user: shown on stderr, and without an answer the default counts."""

import io

import pytest

from llmcli.ui.terminal.console import can_ask, confirm


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def type_at_terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> Terminal:
    """Type a text at the terminal; returns what the terminal shows."""
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("COLUMNS", "80")
    return shown


@pytest.mark.parametrize(
    ("typed", "default", "answer"),
    [
        ("y\n", False, True),
        ("Yes\n", False, True),
        ("  Y \r\n", False, True),
        ("n\n", True, False),
        ("No\n", True, False),
        ("\n", True, True),
        ("\n", False, False),
        ("   \n", True, True),
        ("maybe\n", True, False),
        ("yy\n", True, False),
        ("", True, False),
        ("", False, False),
        ("y", False, True),
    ],
)
def test_confirm_is_true_for_yes_or_a_default_of_yes(
    typed: str, default: bool, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_at_terminal(monkeypatch, typed)
    assert confirm("Download it?", default) is answer


@pytest.mark.parametrize(("default", "marks"), [(True, "[Y/n] "), (False, "[y/N] ")])
def test_a_question_shows_its_default_and_goes_to_stderr(
    default: bool, marks: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = type_at_terminal(monkeypatch, "\n")
    confirm("Download it?", default)
    assert shown.getvalue() == f"Download it? {marks}"
    assert capsys.readouterr().out == ""


def test_confirm_reads_one_line_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    type_at_terminal(monkeypatch, "y\nn\n")
    assert confirm("First?", default=False)
    assert not confirm("Second?", default=True)


def test_the_end_of_input_ends_the_line_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = type_at_terminal(monkeypatch, "")
    confirm("Download it?", default=True)
    assert shown.getvalue().endswith("\n")


def test_a_question_shows_control_characters_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = type_at_terminal(monkeypatch, "n\n")
    confirm("Remove a\x1b[2J\x9b31m\u202eb?", default=False)
    assert shown.getvalue() == "Remove a␛[2J\\x9b31m\\u202eb? [y/N] "


def test_a_long_question_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = type_at_terminal(monkeypatch, "n\n")
    monkeypatch.setenv("COLUMNS", "20")
    confirm("Remove owner/repository-GGUF:Q4_K_M and free 4.92 GB?", default=False)
    assert shown.getvalue().splitlines() == [
        "Remove",
        "owner/repository-GGUF:Q4_K_M",
        "and free 4.92 GB?",
        "[y/N] ",
    ]


def test_ctrl_c_at_the_question_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    type_at_terminal(monkeypatch, "")

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin.readline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        confirm("Download it?", default=True)


def test_invalid_utf8_is_not_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    type_at_terminal(monkeypatch, "")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    assert not confirm("Download it?", default=True)


@pytest.mark.parametrize(("stdin", "stderr"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_question_needs_a_terminal_at_stdin_and_stderr(
    stdin: bool, stderr: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, terminal in (("sys.stdin", stdin), ("sys.stderr", stderr)):
        monkeypatch.setattr(name, Terminal() if terminal else io.StringIO())
    assert can_ask() is (stdin and stderr)


def test_a_closed_stream_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("sys.stdin", None)
    assert not can_ask()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdin", closed)
    assert not can_ask()
