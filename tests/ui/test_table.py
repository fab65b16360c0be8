"""Tables: columns on a wide terminal, a block for each row on a narrow one, plain lines in a pipe."""

import io
import re

import pytest

from llmcli.ui.terminal.cells import cells
from llmcli.ui.terminal.output import print_facts, print_rows

HEADS = ("NAME", "SIZE", "USED")
ROWS = [("owner/repo:Q4_K_M", "4.92 GB", "3 days ago"), ("starter", "98 MB", "never")]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Terminal:
    """From here on stdout is a terminal of this width, without color."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return stream


def lines(stream: Terminal) -> list[str]:
    return stream.getvalue().splitlines()


def test_columns_are_aligned_and_numbers_to_the_right(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(HEADS, ROWS, right=("SIZE",))
    assert capfd.readouterr().out.splitlines() == [
        "NAME                  SIZE  USED",
        "owner/repo:Q4_K_M  4.92 GB  3 days ago",
        "starter              98 MB  never",
    ]


def test_a_pipe_has_no_width_and_no_color(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_rows(HEADS, [("x" * 300, "1", "now")])
    print_facts([("name", "y " * 300)])
    out = capfd.readouterr().out.splitlines()
    assert [len(line.split()[0]) for line in out] == [4, 300, 4]
    assert "\x1b" not in "".join(out)


def test_a_table_without_rows_prints_its_heads(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(HEADS, [])
    assert capfd.readouterr().out == "NAME  SIZE  USED\n"


def test_a_row_that_just_fits_stays_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 38)
    print_rows(HEADS, ROWS)
    assert len(lines(terminal)) == 3
    assert max(map(len, lines(terminal))) == 38


def test_a_narrow_terminal_gets_a_block_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 37)
    print_rows(HEADS, [*ROWS, ("empty", "", "never")], right=("SIZE",))
    assert lines(terminal) == [
        "owner/repo:Q4_K_M",
        "  size  4.92 GB",
        "  used  3 days ago",
        "starter",
        "  size  98 MB",
        "  used  never",
        "empty",
        "  used  never",
    ]


@pytest.mark.parametrize("columns", [80, 20])
def test_a_further_line_stands_below_its_row(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = on_terminal(monkeypatch, columns)
    print_rows(HEADS, ROWS, below=("llmcli pull one",))
    shown = lines(terminal)
    assert "  llmcli pull one" in shown
    assert shown.index("  llmcli pull one") < next(at for at, line in enumerate(shown) if line.startswith("starter"))


def test_a_single_column_fits_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 10)
    print_rows(("NAME",), [("a name longer than that",)])
    assert lines(terminal) == ["a name longer than that"]


def test_the_heads_are_bold_on_a_terminal_with_color(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 80)
    monkeypatch.delenv("NO_COLOR")
    print_rows(HEADS, ROWS)
    assert terminal.getvalue().startswith("\x1b[1mNAME")
    assert terminal.getvalue().count("\x1b[1m") == 1


@pytest.mark.parametrize("columns", [80, 20])
def test_a_cell_cannot_drive_the_terminal_or_make_a_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = on_terminal(monkeypatch, columns)
    hostile = "a\x1b[2J\x9b31m\r\nb\u202ec\td"
    print_rows(HEADS, [(hostile, hostile, hostile)])
    print_facts([("name", hostile)])
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", terminal.getvalue()) is None


def test_a_pipe_gets_safe_cells_and_facts_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(("NAME", "NOTE"), [("a\nb", "\x1b[2J")])
    print_facts([("name", "a\r\n\x1b[2J")])
    assert capfd.readouterr().out == "NAME  NOTE\na b   ␛[2J\nname  a ␛[2J\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("日本", 4), ("🙂", 2), ("ａ", 2), ("a → b …", 7)],
)
def test_the_width_of_a_text_is_its_columns(text: str, columns: int) -> None:
    assert cells(text) == columns


def test_wide_characters_keep_the_columns_aligned(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(("NAME", "SIZE"), [("日本", "1"), ("abcd", "2")])
    assert capfd.readouterr().out.splitlines()[1:] == ["日本  1", "abcd  2"]


def test_facts_are_aligned(capfd: pytest.CaptureFixture[str]) -> None:
    print_facts([("size", "98 MB"), ("quantization", "Q4_1\nof\tall")])
    assert capfd.readouterr().out == "size          98 MB\nquantization  Q4_1 of all\n"


def test_no_fact_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    print_facts([])
    assert capfd.readouterr().out == ""


def test_a_long_fact_is_wrapped_below_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 20)
    print_facts([("size", "98 MB"), ("file", "/a/very/long/path/that-has-no-end and more words")])
    assert lines(terminal) == ["size  98 MB", "file", "  /a/very/long/path/that-has-no-end", "  and more words"]


@pytest.mark.parametrize("columns", [3, 40, 80])
def test_a_table_fits_every_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = on_terminal(monkeypatch, columns)
    print_rows(HEADS, ROWS)
    print_facts([("name", "some words in a row")])
    assert "".join(terminal.getvalue().split()).endswith("namesomewordsinarow")


def test_a_narrow_terminal_omits_the_spare_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 12)
    print_rows(("NAME", "SIZE", "FROM"), [("abcd", "1 GB", "here")], spare=("FROM", "SIZE"))
    assert lines(terminal) == ["NAME  SIZE", "abcd  1 GB"]


def test_a_very_narrow_terminal_shows_spare_columns_below(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 3)
    print_rows(("NAME", "FROM"), [("abcd", "here")], spare=("FROM",))
    assert lines(terminal) == ["abcd", "  from  here"]
