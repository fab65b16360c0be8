"""Where blocks end: as soon as nothing that follows could change them."""

import pytest

from llmcli.ui.markdown.splitter import Block, Splitter, close_open_marks


def kinds(blocks: list[Block]) -> list[str]:
    return [block.kind for block in blocks]


def whole(text: str) -> list[Block]:
    splitter = Splitter()
    return splitter.feed(text) + splitter.finish()


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("# Title", []),
        ("# Title\n", ["heading"]),
        ("---\n", ["rule"]),
        ("words\n", []),
        ("words\n\n", ["paragraph"]),
        ("words\n- ", []),
        ("words\n- item\n", ["paragraph"]),
        ("words\n2. no list\n", []),
        ("words\n===\n", ["heading"]),
        ("words\n---\n", ["heading"]),
        ("one\ntwo\n---\n", ["paragraph", "rule"]),
        ("- one\n", []),
        ("- one\n- two\n", ["item"]),
        ("- one\n  - two\n", []),
        ("- one\n\n  more\n", []),
        ("- one\n\nwords\n", ["item"]),
        ("- one\nlazy\n", []),
        ("```py\nx\ny", ["fence", "code"]),
        ("```py\nx\n```\n", ["fence", "code", "fence_end"]),
        ("````\n```\n````\nwords\n\n", ["fence", "code", "fence_end", "paragraph"]),
        ("~~~\n```\n", ["fence", "code"]),
        ("    x\n\n    y\n", ["indented", "indented", "indented"]),
        ("> one\n", []),
        ("> one\n\n", ["quote"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n", []),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\n", ["table"]),
        ("words\n| a | b |\n|---|---|\n", ["paragraph"]),
        ("| a | b |\n|---|\n\n", ["paragraph"]),
    ],
)
def test_a_block_is_returned_when_it_is_finished(text: str, finished: list[str]) -> None:
    assert kinds(Splitter().feed(text)) == finished


def test_the_unfinished_rest_is_shown_as_if_the_text_ended_here() -> None:
    splitter = Splitter()
    splitter.feed("para\n- ite")
    assert kinds(splitter.tail()) == ["paragraph", "item"]
    assert splitter.tail() == splitter.tail()
    assert kinds(splitter.feed("m\n\nx\n\n")) == ["paragraph", "item", "paragraph"]


@pytest.mark.parametrize("line", ["-", "--", "=", "#", "``", "|--", "1", "1."])
def test_an_ambiguous_line_is_not_shown_yet(line: str) -> None:
    splitter = Splitter()
    splitter.feed("words\n" + line)
    assert [(block.kind, block.text.strip()) for block in splitter.tail()] == [("paragraph", "words")]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1. a\n2. b\n3. c", [1, 2, 3]),
        ("1. a\n1. b\n1. c", [1, 2, 3]),
        ("3. a\n7. b", [3, 7]),
        ("1. a\n```\nx\n```\n2. b", [1, 2]),
        ("- a\n- b", [None, None]),
    ],
)
def test_numbers_are_kept_unless_they_are_all_the_same(text: str, numbers: list[int | None]) -> None:
    assert [block.number for block in whole(text) if block.kind == "item"] == numbers


def test_items_are_separate_where_the_text_separates_them() -> None:
    assert [block.gap for block in whole("- a\n- b\n\n- c\n  - d\n- e")] == [True, False, True, False]


def test_a_block_inside_a_block_does_not_end_it() -> None:
    assert kinds(whole("- a\n  ```\n  - x\n\n  # y\n  ```\n  end\n")) == ["item"]
    assert kinds(whole("> ```\n> # x\n> ```\n")) == ["quote"]


def test_the_parts_of_a_long_line_are_one_paragraph() -> None:
    blocks = whole("word " * 3000)
    assert len(blocks) > 2
    assert [block.gap for block in blocks] == [True] + [False] * (len(blocks) - 1)
    assert "".join(block.text for block in blocks).split() == ["word"] * 3000


def test_code_within_a_long_item_stays_code() -> None:
    blocks = whole("- ```py\n" + "  x = 1\n" * 4000)
    assert kinds(blocks)[:2] == ["item", "more"]
    assert all(block.text.startswith("```py\nx = 1\n") for block in blocks[1:])


def test_a_long_table_continues_under_its_head() -> None:
    blocks = whole("| a |\n|---|\n" + "| 1 |\n" * 3000)
    assert len(blocks) > 1
    assert all(block.text.startswith("| a |\n|---|\n| 1 |\n") for block in blocks)


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("a **b", "a **b**"),
        ("a **", "a **"),
        ("a `b\n", "a `b`"),
        ("a *b", "a *b"),
        ("**a\n\nb", "**a\n\nb"),
        ("```\n`", "```\n`"),
    ],
)
def test_open_marks_are_closed_while_the_text_is_unfinished(text: str, closed: str) -> None:
    assert close_open_marks(text) == closed
