"""An answer looks the same in whatever pieces it comes, and nothing of it reaches the terminal raw."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ui.markdown.emulator import Clock, Terminal, shown, view_on

ALL = """\
# A heading

A paragraph with **bold**, *italic*, ~~struck~~, `code`, a [link](https://example.com) and ![an image](cat.png).
Its second line, with <b>HTML</b>, :smile: and &amp;.
- a list right below
  - nested
    1. deep
    1. deeper
- second

Setext
======

1. One

   a second paragraph
2. Two
   ```python
   def f(x): return x  # why
   ```
10. Ten

> A quote that goes on for longer than twenty columns
lazily
> > and deeper

| Name | Number |
|:-----|-------:|
| alpha with a long text in its cell | 1 |
| 漢字 | 22 |

***

```js
/* one
   two */
const wide = "日本語" + `a line that is longer than the narrow windows of these tests, and than some others`;
```

~~~
\ttab
~~~

    indented

日本語の文章は、単語の間に空白がありません。絵文字 👩‍👩‍👧‍👦 と ❤️ と e\u0301。

\x1b[31mred\x1b]52;c;aGk=\x07 \x9b2J \u202eback \ud800 \ufffd \r\x00

Two paragraphs
---

```sh
unclosed
"""
ENDLESS = (
    "word " * 1200,
    "x" * 5000,
    "- " + "again and again " * 400,
    "ab\n" * 900,
    "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 850,
)
LINES = [
    "# h",
    "## two ##",
    "- item",
    "* x",
    "  - in",
    "        - deep",
    "1. one",
    "10) ten",
    "   more",
    "words",
    "",
    "",
]
LINES += ["```py", "```", "~~~", "def f():", "    '''", "'''", "/* c", "*/", "---", "===", "***", "> q", ">> qq", "  "]
LINES += ["| a | b |", "|--|--|", "&#27;[2J", "[a]: http://b"]
PARTS = ["para ", "**", "`", "[l](u) ", "漢字、", "👩\u200d👧 ", "e\u0301", "\x1b[1m", "\x9b", "\ud800", "<b>", "&#10;"]
PARTS += ["\t", "-", "=", "\r", "\\", "_", "~~", "|", "x" * 90]
FRAGMENTS = [f"{line}\n" for line in LINES] + PARTS


def pieces(text: str, chance: random.Random, longest: int) -> Iterator[str]:
    at = 0
    while at < len(text):
        size = chance.randint(1, longest)
        yield text[at : at + size]
        at += size


@pytest.mark.parametrize("columns", [20, 80, 200])
@pytest.mark.parametrize("rows", [5, 24])
def test_the_pieces_do_not_change_screen_and_scrollback(columns: int, rows: int) -> None:
    whole = shown([ALL], columns, rows).lines()
    assert len(whole) > 40
    chance = random.Random(columns + rows)
    assert shown(pieces(ALL, chance, 12), columns, rows).lines() == whole


@pytest.mark.slow
@pytest.mark.parametrize("text", ENDLESS, ids=["words", "letters", "item", "lines", "table"])
def test_pieces_do_not_change_the_rows_of_an_endless_block(text: str) -> None:
    whole = shown([text], 40, 10).lines()
    assert shown(pieces(text, random.Random(1), 400), 40, 10).lines() == whole
    assert shown(pieces(text, random.Random(1), 40), 40, 10, pause=0.001).lines() == whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join), st.randoms(), st.sampled_from([2, 20, 80]))
def test_any_mixture_looks_the_same_in_any_pieces(text: str, chance: random.Random, columns: int) -> None:
    assert shown(pieces(text, chance, 30), columns).lines() == shown([text], columns).lines()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4), st.booleans(), st.integers(1, 30))
def test_only_known_sequences_reach_the_terminal(texts: list[str], color: bool, columns: int) -> None:
    terminal, clock = Terminal(columns, 6), Clock()  # which refuses anything else
    view = view_on(terminal, clock, color)
    view.status("".join(texts))
    view.think("".join(texts))
    for text in texts:
        clock.now += 1
        view.push(text)
    view.finish()


@pytest.mark.parametrize(
    "place", ["", "# ", "- ", "> ", "```\n", "```py\n# ", "- ```js\n  ", "|a|\n|-|\n|", "    ", "[", "- " * 99]
)
def test_an_escape_sequence_is_visible_in_every_place(place: str) -> None:
    lines = shown([place + "\x1b]0;x\x07 \x9b2J \u202e\x7f", " `\x1b[2J` [\x1b](\x1b)"], 200).lines()
    assert "␛]0;x␇ \\x9b2J \\u202e␡" in "\n".join(lines)


@pytest.mark.slow
def test_no_row_is_wider_than_the_window() -> None:
    for columns in (9, 20, 33):
        terminal = Terminal(columns, 100)
        view = view_on(terminal)
        for piece in pieces(ALL * 2, random.Random(columns), 50):
            view.push(piece)
        view.finish()
        # A row that were too wide would be broken by the terminal: rows end where the answer ends them.
        wide = Terminal(500, 100)
        wide.write(terminal.written.replace("\x1b[?2026h", ""))
        assert all(len(line) <= columns for line in wide.lines())


@pytest.mark.slow
def test_no_line_is_written_twice() -> None:
    text = "".join(f"{'- ' if at % 3 else ''}line number {at}.\n" + "\n" * (at % 2) for at in range(200))
    lines = shown(pieces(text, random.Random(3), 9), 30, 8).lines()
    words = " ".join(lines).split()
    assert [int(word[:-1]) for word in words if word[0].isdigit()] == list(range(200))


def test_an_answer_without_colors_has_the_same_text() -> None:
    terminal = Terminal()
    view = view_on(terminal, color=False)
    view.status("loading")
    view.think("hm")
    view.push(ALL)
    view.finish()
    assert not [part for part in terminal.written.split("\x1b[")[1:] if part.lstrip("0123456789;")[:1] == "m"]
    assert any("漢字" in line for line in terminal.lines())
