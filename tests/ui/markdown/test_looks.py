"""The looks of a finished answer."""

from itertools import groupby

import pytest
from rich.console import Console
from rich.text import Text

from llmcli.ui.markdown.code import Highlighter
from llmcli.ui.markdown.theme import syntax_of, theme_of
from llmcli.ui.terminal.cells import cells, folds, wrap
from tests.ui.markdown.emulator import shown

DARK = theme_of("dark")
CODE = syntax_of(DARK)


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("# A\nb\n\nc", 40, ["A", "", "b", "", "c"]),
        ("one\ntwo  \nthree\\\nfour", 40, ["one", "two", "three", "four"]),
        ("a **b** *c* ~~d~~ `e`", 40, ["a b c d e"]),
        ("[text](http://u) <http://v>", 40, ["text (http://u) http://v"]),
        ("![alt](u.png) ![](v.png)", 40, ["alt (u.png) v.png"]),
        ("[a]\n\n[a]: http://b", 40, ["[a]", "", "[a]: http://b"]),
        (r"\(x_1^2\) is \[y\] \* \(", 40, [r"\(x_1^2\) is \[y\] * \("]),
        (r"$f^*(x) = g^*(\{y\})$, $$a \\ b$$", 40, [r"$f^*(x) = g^*(\{y\})$, $$a \\ b$$"]),
        (r"$5 *and* $6, $x$ *and* $y$, **$7**", 40, ["$5 and $6, $x$ and $y$, $7"]),
        ("\\[\n  a_1 * b_1 * c_1\n\\]", 40, ["\\[", "  a_1 * b_1 * c_1", "\\]"]),
        ("<script>x</script> <!-- y -->", 40, ["<script>x</script> <!-- y -->"]),
        (":smile: [red]x[/red]", 40, [":smile: [red]x[/red]"]),
        ("&lt;b&gt; &#27;[2J &#10;x &#x202e;", 40, ["<b> �[2J  x \\u202e"]),
        ("- a\n  - b\n    - c\n- d", 40, ["• a", "  ◦ b", "    ▪ c", "• d"]),
        ("1. a\n\n   b\n2. c\n   - d", 40, ["1. a", "", "   b", "2. c", "   ◦ d"]),
        ("1. a\n  - b\n2. c", 40, ["1. a", "  • b", "2. c"]),
        ("- a\n  ```sh\n  ls\n  ```\n- b", 40, ["• a", "  ── sh ──", "  ls", "  ────────", "• b"]),
        ("> a\n> > b", 40, ["│ a", "│", "│ │ b"]),
        ("***", 12, ["─" * 11]),
        ("```\n  a\n\n\tb\n```\nc", 40, ["── code ──", "  a", "", "    b", "──────────", "", "c"]),
        ("a\n```{.py title=x}\nb\n```\nc", 40, ["a", "", "── py ──", "b", "────────", "", "c"]),
        ("```py\na", 40, ["── py ──", "a", "────────"]),
        ("```py\n```", 40, ["── py ──", "────────"]),
        ("> ```\n> a\n> ```", 40, ["│ ── code ──", "│ a", "│ ──────────"]),
        ("- ```\n  ```", 40, ["• ── code ──", "  ──────────"]),
        ("```日本語\na", 12, ["── 日本 ──", "a", "──────────"]),
        ("```python\na", 6, ["─────", "a", "─────"]),
        ("```" + "p" * 90 + "\na", 80, [f"── {'p' * 24} ──", "a", "─" * 30]),
        ("a\n\n    b\n      c\n\nd", 40, ["a", "", "    b", "      c", "", "d"]),
        ("- a\n\n      b", 40, ["• a", "", "      b"]),
        ("one two three four", 10, ["one two", "three", "four"]),
        ("abcdefghijklm no", 8, ["abcdefg", "hijklm", "no"]),
        ("漢字、漢字。漢字", 8, ["漢字、", "漢字。", "漢字"]),
        ("ab漢字漢", 7, ["ab漢字", "漢"]),
        ("|a|b|\n|-|-:|\n|x|1|\n|yy|22|", 40, ["a  │  b", "───┼───", "x  │  1", "yy │ 22"]),
        ("|a|b|\n|-|-|\n|x|one two|\n|y|z|", 13, ["a │ b", "──┼────────", "x │ one two", "y │ z"]),
        ("|a|b|\n|-|-|\n|x|one two|\n|y|z|", 11, ["a │ b", "──┼───────", "x │ one", "  │ two", "──┼───────", "y │ z"]),
        ("|name|b|\n|-|-|\n|x|unbreakable|", 14, ["name: x", "b:", "unbreakable"]),
        ("|a|b|\n|-|-|\n", 40, ["a │ b", "──┼──"]),
    ],
)
def test_an_answer_looks_as_expected(text: str, columns: int, lines: list[str]) -> None:
    assert shown([text], columns).lines() == lines


def test_deep_nesting_loses_nothing() -> None:
    for mark in ("> ", "- ", "1. ", ">"):
        for depth in (5, 30, 150):
            assert "end" in "".join(shown([mark * depth + "end"], 20).lines())


def test_deep_quotes_fit_a_stack_that_is_in_use() -> None:
    def below(frames: int) -> str:
        return below(frames - 1) if frames else "".join(shown([">" * 99 + "end\n\n" + ">" * 60 + "more"], 40).lines())

    assert "end" in below(500)


def test_the_number_of_an_item_is_whole_in_a_narrow_window() -> None:
    assert "".join(shown(["12. ab"], 2).lines()) == "12.ab"


def test_an_address_in_a_heading_looks_like_any_other() -> None:
    terminal = shown(["# Title [a](b)\n\n**[a](c)**"])
    assert "\x1b[2;39m (b)\x1b[0m" in terminal.written
    assert "\x1b[2;39m (c)\x1b[0m" in terminal.written


@pytest.mark.parametrize("text", ["漢字とかな", "e\u0301" * 9, "👩‍👩‍👧‍👦 👍🏽 🇩🇪", "❤️ ok", "plain words"])
def test_rows_fit_and_lose_nothing(text: str) -> None:
    for width in (2, 3, 5, 7):
        rows = [text[start:end] for start, end in folds(text, width)]
        assert "".join(rows) == text
        assert all(cells(row) <= width or len(row.replace("\u200d", "")) <= 3 for row in rows)
        words = "".join(wrap(text, width))
        assert words.replace(" ", "") == text.replace(" ", "")


def test_each_row_has_its_own_color_sequences() -> None:
    written = shown(["**aa bb** cc"], 5).written
    assert "\x1b[1maa\x1b[0m" in written
    assert "\x1b[1mbb\x1b[0m" in written


def looks_of(lines: list[str], language: str) -> list[list[str]]:
    code = Highlighter(language, CODE)
    rows = [code.line(line) for line in lines]
    assert [row.plain for row in rows] == lines
    return [looks_in(row) for row in rows]


def looks_in(row: Text) -> list[str]:
    """The styles of its words; words beside each other with one style count once."""
    styles = [str(segment.style or "none") for segment in row.render(Console()) if segment.text.strip()]
    return [style for style, _ in groupby(styles)]


@pytest.mark.parametrize(
    ("language", "opened", "closed"),
    [("python", '    """text', '    text"""'), ("c", "/* a", "a */"), ("js", "/* a", "a */")],
)
def test_a_string_or_comment_over_many_lines_keeps_its_color(language: str, opened: str, closed: str) -> None:
    inside = ["   words, and if and more words on a line"] * 60
    looks = looks_of([opened, *inside, closed, "return 1"], language)
    assert {tuple(row) for row in looks[1:-2]} == {(looks[0][-1],)}
    assert looks[-1][0] == str(DARK.styles["code.keyword"])


def test_code_of_an_unknown_language_is_plain() -> None:
    assert looks_of(["if x: return '1'"], "no such language") == [["none"]]
    assert looks_of(["if x: return '1'"], "") == [["none"]]


def test_a_line_is_colored_the_same_alone_and_as_it_grows() -> None:
    code = Highlighter("python", CODE)
    for line in ("def f(x):", "    return 'a'  # b"):
        peeked = code.peek(line)
        assert code.peek(line) == peeked == code.line(line)


def test_finished_code_has_the_colors_of_code_that_streams() -> None:
    text = "class A:\n    def f(self):\n        return 'x' + str(1)\n"
    finished = Highlighter("python", CODE).colored(text)
    lines = finished.split("\n", allow_blank=True)
    assert [looks_in(line) for line in lines] == looks_of(text.split("\n"), "python")


def test_a_lexer_that_fails_leaves_finished_code_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygments.lexers.PythonLexer.get_tokens", lambda *_: 1 / 0)
    assert shown(["- a\n  ```python\n  return 1\n  ```\n"]).lines()[2] == "  return 1"


def test_very_long_finished_code_stays_plain() -> None:
    code = Highlighter("python", CODE)
    assert code.colored("return 1\n" * 4000).spans
    assert not code.colored("return 1\n" * 5000).spans


@pytest.mark.parametrize("text", ["\ufeffx = 1", "x" * 5000, "'" * 500, "\x00"])
def test_odd_code_loses_nothing(text: str) -> None:
    assert Highlighter("python", CODE).line(text).plain == text
