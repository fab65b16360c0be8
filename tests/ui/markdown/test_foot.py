"""The row below an answer while it streams: never a part of what stays on the screen."""

import random
from itertools import pairwise

import pytest

from llmcli.ui.markdown.view import AnswerView
from tests.ui.markdown.emulator import Clock, Terminal, view_on

FOOT = "↑↓ temp 0.8 → 0.9"
TEXT = (
    "# Title\n\nSome **words** of prose.\n\n- a\n- b\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nthe end"
)


def test_the_foot_stands_below_the_text_until_the_end() -> None:
    terminal = Terminal(30, 8)
    view = view_on(terminal)
    view.push("one two")
    view.foot(lambda: FOOT)
    assert terminal.lines() == ["one two", FOOT]
    view.finish()
    assert terminal.lines() == ["one two"]
    assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (1, 0)


def test_the_foot_is_made_again_at_each_drawing() -> None:
    terminal, clock = Terminal(30, 8), Clock()
    view, rows = view_on(terminal, clock), iter("abc")
    view.push("one")
    view.foot(lambda: next(rows))
    assert terminal.lines() == ["one", "a"]
    clock.now += 1
    view.push(" two")
    assert terminal.lines() == ["one two", "b"]


def test_the_foot_stands_below_spinner_and_reasoning() -> None:
    terminal, clock = Terminal(30, 8), Clock()
    view = view_on(terminal, clock)
    view.foot(lambda: FOOT)
    assert terminal.lines() == [FOOT]
    clock.now += 1
    view.status("reading the prompt")
    assert terminal.lines()[0].endswith("reading the prompt")
    assert terminal.lines()[1:] == [FOOT]
    view.think("let me see")
    assert terminal.lines() == ["thinking", "let me see", FOOT]
    clock.now += 1
    view.push("so")
    assert terminal.lines() == ["thought for 1.0 s · 3 words", "", "so", FOOT]
    view.finish()
    assert terminal.lines() == ["thought for 1.0 s · 3 words", "", "so"]


def test_a_foot_that_is_too_long_is_cut() -> None:
    terminal = Terminal(12, 8)
    view = view_on(terminal)
    view.push("one")
    view.foot(lambda: FOOT)
    assert terminal.lines() == ["one", "↑↓ temp 0.8"]


def test_a_foot_cannot_drive_the_terminal() -> None:
    terminal = Terminal(30, 8)
    view_on(terminal).foot(lambda: "a\x1b[2Jb")
    assert terminal.lines() == ["a␛[2Jb"]


def test_a_high_window_has_a_blank_row_above_the_foot() -> None:
    for rows, gap in ((9, []), (10, [""])):
        terminal = Terminal(30, rows)
        view = view_on(terminal)
        view.push("one")
        view.foot(lambda: FOOT)
        assert terminal.lines() == ["one", *gap, FOOT]
        view.finish()
        assert terminal.lines() == ["one"]


def test_a_foot_can_wait_for_the_next_drawing() -> None:
    terminal = Terminal(30, 8)
    view = view_on(terminal)
    view.foot(lambda: FOOT, now=False)
    assert terminal.lines() == []
    view.push("one")
    assert terminal.lines() == ["one", FOOT]


@pytest.mark.slow
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("size", [(80, 24), (40, 10), (20, 5), (20, 3), (9, 1)])
def test_a_foot_does_not_change_the_answer(size: tuple[int, int], color: bool) -> None:
    text = TEXT * 3

    def left(seed: int, foot: bool) -> list[str]:
        dice = random.Random(seed)
        cuts = sorted({0, len(text), *dice.choices(range(len(text)), k=40)})
        terminal, clock = Terminal(*size), Clock()
        view = AnswerView(terminal.write, terminal.size, "dark", color, clock)
        for start, end in pairwise(cuts):
            clock.now += dice.random() / 10
            view.push(text[start:end])
            if foot and dice.random() < 0.3:
                view.foot(lambda: FOOT)
        view.finish()
        return terminal.lines()

    for seed in range(20):
        assert left(seed, True) == left(seed, False)


def test_a_foot_costs_one_row_at_each_drawing() -> None:
    def written(foot: bool) -> float:
        terminal, clock = Terminal(), Clock()
        view = view_on(terminal, clock)
        if foot:
            view.foot(lambda: FOOT)
        for at in range(300):
            clock.now += 0.01
            view.push(f"word{at} ")
        view.finish()
        return len(terminal.written) / terminal.writes

    assert written(True) - written(False) < 60
