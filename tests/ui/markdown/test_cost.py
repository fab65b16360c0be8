"""Showing an answer costs in proportion to its length, counted in bytes and redraws."""

import pytest

from llmcli.ui.markdown.render import has_links
from llmcli.ui.markdown.splitter import Splitter
from llmcli.ui.markdown.view import AnswerView
from tests.ui.markdown.emulator import Clock, Terminal, view_on

KINDS = {
    "prose": "Some **words** of prose, and `code`. " * 4 + "\n\n",
    "list": "- an item of a list\n",
    "code": "    x = call(y)  # line\n",
    "table": "| a cell | another |\n",
    "one line": "words without an end ",
}
HEADS = {"code": "```python\n", "table": "| a | b |\n|---|---|\n"}


def written(kind: str, length: int) -> int:
    """The characters that the terminal gets for an answer of `length` characters at 100 tokens a second."""
    text = HEADS.get(kind, "") + KINDS[kind] * (length // len(KINDS[kind]))
    clock = Clock()
    parts: list[str] = []
    view = AnswerView(parts.append, lambda: (80, 24), "dark", True, clock)
    for at in range(0, len(text), 4):
        clock.now += 0.01
        view.push(text[at : at + 4])
    view.finish()
    return sum(map(len, parts))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_written_grow_with_the_text(kind: str) -> None:
    assert written(kind, 3000) <= min(3 * written(kind, 1500), 40 * 3000)


def test_the_first_token_is_drawn_at_once_and_others_sixty_times_a_second() -> None:
    terminal, clock = Terminal(), Clock()
    view = view_on(terminal, clock)
    for at in range(1000):
        clock.now += 0.001
        view.push(f"w{at} ")
        assert at or terminal.lines() == ["w0"]
    assert 50 <= terminal.writes <= 61


def test_a_slow_redraw_is_followed_by_a_long_pause() -> None:
    terminal, clock = Terminal(), Clock()
    view = view_on(terminal, clock)
    write = terminal.write

    def slow(text: str) -> None:
        clock.now += 0.1
        write(text)

    terminal.write = slow  # type: ignore[method-assign]
    view = view_on(terminal, clock)
    for _ in range(1000):
        clock.now += 0.01
        view.push("word ")
    assert terminal.writes <= 5
    view.finish()
    assert sum(line.count("word") for line in terminal.lines()) == 1000


@pytest.mark.parametrize("head", ["", "- ", "> ", "| a |\n|---|\n| ", "- ```\n  "])
def test_an_endless_block_is_never_kept_whole(head: str) -> None:
    splitter = Splitter()
    splitter.feed(head)
    given = 0
    for _ in range(200):
        given += sum(len(block.text) for block in splitter.feed("word " * 200))
        assert sum(len(block.text) for block in splitter.tail()) < 20_000
    assert given > 150_000


@pytest.mark.parametrize(
    ("text", "looked_for"), [("[" * 900, False), ("[a][" * 90, False), ("[a](b) [ ] [[c]] [", True)]
)
def test_many_open_brackets_turn_links_off(text: str, looked_for: bool) -> None:
    assert has_links(text) == looked_for
