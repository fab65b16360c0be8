"""The view: the spinner, the reasoning, the answer, its end, and windows that change their size."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from llmcli.errors import OutputClosedError
from llmcli.ui.markdown.view import AnswerView, call_later
from tests.ui.markdown.emulator import Clock, Terminal, shown, view_on


def test_the_status_is_one_line_that_text_replaces() -> None:
    terminal, clock = Terminal(30, 5), Clock()
    view = view_on(terminal, clock)
    for percent in range(0, 101, 10):
        clock.now += 0.1
        view.status(f"reading the prompt {percent} %")
        assert len(terminal.lines()) == 1
        assert f"reading the prompt {percent} %" in terminal.lines()[0]
    view.push("answer")
    assert terminal.lines() == ["answer"]
    view.finish()
    assert terminal.lines() == ["answer"]
    assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (1, 0)


def test_a_status_longer_than_the_window_stays_one_line() -> None:
    terminal = Terminal(20, 5)
    view_on(terminal).status("loading a model with a long name\nand a second line")
    assert len(terminal.lines()) == 1


def test_the_status_writes_nothing_when_it_comes_too_often() -> None:
    terminal, clock = Terminal(), Clock()
    view = view_on(terminal, clock)
    for _ in range(100):
        view.status("loading")
    assert terminal.writes == 1


def test_finish_removes_the_status_and_can_run_twice() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.finish()
    view.status("loading")
    view.finish()
    view.finish()
    assert terminal.lines() == []
    assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (0, 0)


def test_reasoning_shows_its_last_rows_and_folds_into_one_line() -> None:
    terminal, clock = Terminal(20, 24), Clock()
    view = view_on(terminal, clock)
    for word in range(100):
        clock.now += 0.0499
        view.think(f"w{word} ")
    first, *rows = terminal.lines()
    assert first == "thinking"
    assert len(rows) == 3
    assert rows[-1].endswith("w99")
    view.push("answer")
    assert terminal.lines()[0].startswith("thought for 4.9 s")
    assert terminal.lines()[-2:] == ["", "answer"]
    view.finish()


def test_the_rest_of_several_tokens_at_once_is_drawn_when_it_is_time() -> None:
    terminal, clock, waiting = Terminal(80, 24), Clock(), list[tuple[float, Callable[[], None]]]()
    view = AnswerView(terminal.write, terminal.size, "dark", True, clock, later=lambda *call: waiting.append(call))
    for word in ("one ", "two ", "three "):
        view.push(word)
    assert terminal.lines() == ["one"]
    ((seconds, draw),) = waiting
    assert seconds == pytest.approx(1 / 60)
    clock.now += seconds
    draw()
    assert terminal.lines() == ["one two three"]
    view.push("four ")
    clock.now += 1
    view.push("five")
    writes = terminal.writes
    assert terminal.lines() == ["one two three four five"]
    waiting[1][1]()  # nothing is left to draw
    assert terminal.writes == writes
    view.push("!")
    view.finish()
    writes = terminal.writes
    clock.now += 1
    waiting[-1][1]()
    assert (terminal.writes, terminal.lines()) == (writes, ["one two three four five!"])


def test_a_call_later_is_made_and_a_lost_terminal_is_no_error_of_a_thread(capfd: pytest.CaptureFixture[str]) -> None:
    called = threading.Event()

    def draw() -> None:
        called.set()
        raise OutputClosedError("nobody reads")

    call_later(0.0, draw)
    assert called.wait(60)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(60)
    assert capfd.readouterr().err == ""


def test_reasoning_alone_is_folded_at_the_end() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.think("one")
    view.think(" two th")
    view.think("ree")
    view.finish()
    assert terminal.lines() == ["thought for 0.0 s · 3 words"]


def test_reasoning_after_an_answer_splits_the_answer() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.push("one")
    view.think("hm")
    view.push("two")
    view.finish()
    assert terminal.lines() == ["one", "", "thought for 0.0 s · 1 word", "", "two"]


def test_a_continued_answer_draws_its_last_block_only() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.resume("# Title\n\nfirst\n\nsecond, un")
    view.push("finished\n\n- x")
    view.finish()
    assert terminal.lines() == ["second, unfinished", "", "• x"]


def test_continued_code_stays_code() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.resume("```python\nx = 1\n")
    view.push("# y\n```\n# z\n")
    view.finish()
    assert terminal.lines() == ["# y", "─" * len("── python ──"), "", "z"]


def test_an_empty_push_keeps_the_spinner() -> None:
    terminal = Terminal()
    view = view_on(terminal)
    view.status("loading")
    view.push("")
    assert "loading" in terminal.lines()[0]


def test_the_tail_leaves_room_in_a_low_window() -> None:
    for rows in (1, 2, 3, 5):
        terminal, clock = Terminal(20, rows), Clock()
        view = view_on(terminal, clock)
        for at in range(30):
            clock.now += 1
            view.push(f"line {at}\n")
        view.finish()
        assert terminal.lines() == [f"line {at}" for at in range(30)]


def test_a_window_of_one_column_ends() -> None:
    assert "".join(shown(["# ab\n- c **d**\n\n|e|f|\n|-|-|\n|g|h|\n"], 1, 1).lines())


def test_a_growing_window_keeps_no_old_rows() -> None:
    terminal, clock = Terminal(20, 24), Clock()
    view = view_on(terminal, clock)
    words = [f"word{at} " for at in range(120)]
    for at, word in enumerate(words):
        if at % 30 == 29:
            terminal.resize(20 + at, 24 + at // 30)
        clock.now += 1
        view.push(word)
    view.finish()
    assert " ".join(terminal.lines()).split() == "".join(words).split()


def test_a_window_that_gets_lower_and_higher_keeps_every_line() -> None:
    terminal, clock, heights = Terminal(20, 24), Clock(), [24]
    view = AnswerView(terminal.write, lambda: (20, heights[-1]), "light", True, clock)
    for at, rows in enumerate([24, 12, 3, 1, 24]):
        clock.now += 1
        heights.append(rows)
        view.push(f"- item {at}\n  - more\n")
    view.finish()
    assert terminal.lines() == [line for at in range(5) for line in (f"• item {at}", "  ◦ more")]


IMPORTS = """
import sys
import llmcli.cli.chat, llmcli.ui.chat.app, llmcli.ui.input.reader
from llmcli.ui.commands.registry import commands
from llmcli.ui.markdown.theme import ground_of
commands()
ground_of("auto")
def drawing():
    return {name for name in sys.modules if name.split(".")[0] in ("rich", "pygments", "markdown_it")}
at_start = drawing()
from llmcli.ui.markdown.view import AnswerView, preload
preload()
preloaded = drawing()
view = AnswerView(lambda text: None, lambda: (80, 24), "auto", True)
view.push("# a\\n\\n- [b](c)\\n\\n|d|\\n|-|\\n|e|\\n\\n> f\\n\\n```python\\nx = 1\\n```\\n")
view.finish()
print(sorted(at_start), sorted(drawing() - preloaded))
"""


@pytest.mark.slow
def test_rich_is_imported_by_preload_and_not_at_the_start() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] []\n"
