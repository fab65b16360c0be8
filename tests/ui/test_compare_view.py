"""Answers side by side: each whole in its own column, whatever comes first and however wide the window is."""

import random
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmcli.params.settings import Settings
from llmcli.ui.comparison import Column, CompareView, view_of
from llmcli.ui.markdown.render import Renderer
from llmcli.ui.markdown.theme import theme_of
from llmcli.ui.terminal.cells import cells
from llmcli.ui.terminal.progress import LiveRegion
from tests.ui.markdown.emulator import Clock, Terminal

TEXTS = (
    "The sea is wide.\n\nIt has many fish, and some of them are larger than the boats of those who look for them.",
    "One word",
    "- a list\n- of things\n- that are short\n\n    x = 1\n\nand a sentence that is longer than a row has room for.",
    "海は広いです。とても広いですから、だれもその終わりを見たことがありません。",
)
BLANK = re.compile(r"\s+")


def column(label: str = "", color: bool = True, is_raw: bool = False) -> Column:
    return Column(label, Renderer(theme_of("dark"), color), is_raw)


def view_on(terminal: Terminal, count: int, clock: Clock | None = None, color: bool = True) -> CompareView:
    columns = [column(f"temp=0.{number}", color) for number in range(1, count + 1)]
    return CompareView(terminal.write, terminal.size, columns, color, clock or Clock())


def pieces_of(texts: Sequence[str], seed: int) -> list[tuple[int, str]]:
    """The texts in pieces of a few characters, each in its order, mixed at random."""
    rng = random.Random(seed)
    left, mixed = list(texts), list[tuple[int, str]]()
    while any(left):
        index = rng.choice([index for index, text in enumerate(left) if text])
        size = rng.randint(1, 9)
        mixed.append((index, left[index][:size]))
        left[index] = left[index][size:]
    return mixed


def shown(
    texts: Sequence[str], columns: int = 80, rows: int = 24, seed: int = 0, pause: float = 0.02, color: bool = True
) -> Terminal:
    """The terminal after the texts came, and ended at once with their last pieces."""
    terminal, clock = Terminal(columns, rows), Clock()
    view, left = view_on(terminal, len(texts), clock, color), [len(text) for text in texts]
    for index, piece in pieces_of(texts, seed):
        clock.now += pause
        view.push(index, "answer", piece)
        left[index] -= len(piece)
        if not left[index]:
            view.end(index)
    view.finish()
    assert terminal.screen.cursor.x == 0
    return terminal


def bands(lines: Sequence[str]) -> list[list[list[str]]]:
    """The rows of each column of each band, without head and rule."""
    found: list[list[list[str]]] = []
    for at, line in enumerate(lines):
        if "─" in line:
            found.append([[] for _ in re.split("┼", line)])
        elif found and not (at + 1 < len(lines) and "─" in lines[at + 1]):
            parts = [part.removeprefix(" ").rstrip() for part in line.split("│")]
            for column, part in zip(found[-1], [*parts, *[""] * len(found[-1])], strict=False):
                column.append(part)
    return found


def words(text: str) -> str:
    return BLANK.sub("", text)


@pytest.mark.parametrize(
    ("columns", "count", "layout"),
    [
        (80, 2, [2]),
        (80, 3, [2, 1]),
        (80, 6, [2, 2, 2]),
        (160, 4, [4]),
        (160, 5, [5]),
        (160, 6, [3, 3]),
        (160, 7, [4, 3]),
        (59, 2, [1, 1]),
        (60, 2, [2]),
        (40, 3, [1, 1, 1]),
        (5, 2, [1, 1]),
        (1, 2, [1, 1]),
    ],
)
def test_a_window_has_as_many_columns_as_fit(columns: int, count: int, layout: list[int]) -> None:
    terminal = shown(["word"] * count, columns, rows=60)
    rules = [line for line in terminal.lines() if set(line) <= set("─┼") and line]
    if columns > 4:
        assert [len(rule.split("┼")) for rule in rules] == layout
    assert all(cells(line) <= columns for line in terminal.lines())


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("seed", range(4))
def test_every_answer_is_complete_in_its_column(columns: int, seed: int) -> None:
    terminal = shown(TEXTS, columns, seed=seed)
    answers = [words("".join(column)) for band in bands(terminal.lines()) for column in band]
    assert answers == [words(text).replace("-", "•") for text in TEXTS]
    text = "\n".join(terminal.lines())
    places = [text.index(f"{number}. temp=0.{number}") for number in range(1, 5)]
    assert places == sorted(places)


@pytest.mark.parametrize("columns", [40, 80])
def test_the_final_screen_depends_only_on_the_texts(columns: int) -> None:
    looks = {tuple(shown(TEXTS, columns, seed=seed, pause=pause).lines()) for seed in range(5) for pause in (0.0, 1.0)}
    assert len(looks) == 1


def test_indentation_and_blank_lines_stay() -> None:
    lines = shown(["A program:\n\n    x = 1\n\nand more."], 40).lines()
    assert "    x = 1" in lines
    assert lines[lines.index("    x = 1") - 1] == ""


def test_answers_of_many_rows_scroll_away_and_stay_whole() -> None:
    texts = [" ".join(f"{name}{number}" for number in range(150)) for name in "ab"]
    terminal = shown(texts, 80, rows=10)
    assert [words("".join(column)) for column in bands(terminal.lines())[0]] == [words(text) for text in texts]


def test_the_output_grows_linearly_with_the_texts() -> None:
    def written(count: int) -> int:
        terminal, clock, n_written = Terminal(80, 24), Clock(), list[int]()
        terminal.write = lambda text: n_written.append(len(text))  # type: ignore[method-assign]
        view = view_on(terminal, 2, clock)
        for number in range(count):
            clock.now += 1
            for index in range(2):
                view.push(index, "answer", f"word{number:04}" + ("\n\n" if number % 20 == 19 else " "))
        view.finish()
        return sum(n_written)

    assert written(600) < 2.1 * written(300)


def test_a_column_far_ahead_shows_its_end_and_loses_nothing() -> None:
    terminal, clock = Terminal(80, 10), Clock()
    view = view_on(terminal, 2, clock)
    view.push(0, "answer", "slow")
    for number in range(50):
        clock.now += 1
        view.push(1, "answer", f"row{number}\n")
    assert "slow" in "\n".join(terminal.lines())
    assert "row49" in "\n".join(terminal.lines())
    assert "row0 " not in "\n".join(terminal.lines()) + " "
    assert len(terminal.lines()) <= 10
    view.finish()
    slow, fast = bands(terminal.lines())[0]
    assert [row for row in fast if row] == [f"row{number}" for number in range(50)]
    assert "".join(slow).strip() == "slow"


def test_lower_bands_wait_and_are_announced() -> None:
    terminal, clock = Terminal(40, 24), Clock()
    view = view_on(terminal, 3, clock)
    for index in range(3):
        clock.now += 1
        view.push(index, "answer", f"text {index}")
    assert terminal.lines()[-1] == "… 2 more below"
    assert "text 1" not in "\n".join(terminal.lines())
    view.end(0)
    assert terminal.lines()[-1] == "… 1 more below"
    assert "text 1" in "\n".join(terminal.lines())
    view.finish()
    assert "more below" not in "\n".join(terminal.lines())
    assert [line for line in terminal.lines() if line.startswith("text")] == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("to", [1, 3, 20, 50, 130])
def test_a_window_that_changes_its_width_loses_no_word(to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock, written = Terminal(80, 50), Clock(), list[str]()  # an emulator cuts what a terminal would break
    monkeypatch.setattr(LiveRegion, "draw", lambda _self, done, _tail, _size: written.extend(done))
    view = view_on(terminal, 2, clock, color=False)
    for number in range(60):
        clock.now += 1
        if number == 30:
            terminal.resize(to, 50)
        for index, name in enumerate("ab"):
            view.push(index, "answer", f"{name}{number} ")
    view.finish()
    rows = [(*row.split("│"), "")[:2] for row in written[2:]]
    columns = [words("".join(side)) for side in zip(*rows, strict=True)]
    for name, column in zip("ab", columns, strict=True):
        assert column == "".join(f"{name}{number}" for number in range(60))


def test_the_first_text_erases_the_status() -> None:
    terminal, clock = Terminal(40, 10), Clock()
    view = view_on(terminal, 2, clock)
    view.status("reading the prompt 50%")
    assert terminal.lines()[0].endswith("reading the prompt 50%")
    clock.now += 1
    view.push(0, "answer", "word")
    view.status("reading the prompt 60%")
    view.finish()
    assert "reading" not in "\n".join(terminal.lines())


def test_a_view_without_text_leaves_an_empty_screen() -> None:
    terminal = Terminal(40, 10)
    view = view_on(terminal, 2)
    view.status("reading")
    view.finish()
    view.finish()
    assert terminal.lines() == []
    assert terminal.screen.cursor.x == terminal.screen.cursor.y == 0


def test_reasoning_is_dim_and_above_the_answer() -> None:
    terminal = Terminal(40, 20)
    view = view_on(terminal, 1)
    view.push(0, "think", "let me see")
    view.push(0, "answer", "Yes.")
    view.finish()
    assert terminal.lines()[2:] == ["let me see", "", "Yes."]
    assert "\x1b[2mlet me see" in terminal.written
    assert "\x1b[2mYes" not in terminal.written


def test_a_view_without_color_only_moves_the_cursor() -> None:
    terminal = shown(TEXTS, 80, color=False)
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.written)
    assert "\x1b[1m1. temp=0.1" in shown(TEXTS, 80).written


def test_escape_sequences_in_answers_are_shown_as_text() -> None:
    terminal = Terminal(80, 10)
    view = CompareView(terminal.write, terminal.size, [column("a\x1b[2J"), column("b")], True, Clock())
    view.push(0, "answer", "x\x1b]0;title\x07y\rz\u202e\tq")
    view.finish()
    text = "\n".join(terminal.lines())
    assert "a␛[2J" in text
    assert "x␛]0;title␇yz\\u202e q" in text


@pytest.mark.parametrize("is_raw", [True, False])
def test_final_rows_of_a_column_do_not_change(is_raw: bool) -> None:
    """The number of final rows, for every text, every way of cutting it, and widths down to one."""
    for seed in range(40):
        rng = random.Random(seed)
        text, width = rng.choice(TEXTS), rng.choice([1, 2, 7, 20, 38])
        one, whole = column(is_raw=is_raw), column(is_raw=is_raw)
        whole.add("answer", text)
        whole.end()
        expected = whole.take(whole.final(width))
        for _, piece in pieces_of([text], seed):
            one.add("answer", piece)
            final = one.final(width)
            assert one.rows(width)[:final] == expected[:final]
        one.end()
        assert one.take(one.final(width)) == expected


def test_an_answer_is_drawn_as_in_the_chat_and_raw_text_as_it_is() -> None:
    text = "# One\n\n- a **b**\n\n```python\nx = 1\n```\n"
    for is_raw, rows in (
        (False, ["One", "", "• a b", "", "── python ──", "x = 1", "────────────"]),
        (True, text.splitlines()),
    ):
        terminal = Terminal(40, 24)
        view = CompareView(terminal.write, terminal.size, [column(is_raw=is_raw)], True, Clock())
        view.push(0, "answer", text)
        view.finish()
        assert terminal.lines()[2:] == rows


@pytest.mark.parametrize(
    ("answer", "screen", "row"),
    [
        (Settings(), Settings(), "b"),
        (Settings(raw=True), Settings(), "**b**"),
        (Settings(), Settings(markdown=False), "**b**"),
    ],
)
def test_raw_answers_and_markdown_off_show_the_marks(
    answer: Settings, screen: Settings, row: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    one = SimpleNamespace(request=SimpleNamespace(label="temp=1"), settings=answer)
    view = view_of(cast("Any", SimpleNamespace(answers=[one])), screen)
    view.push(0, "answer", "**b**")
    view.finish()
    terminal = Terminal(40, 10)
    terminal.write(capfd.readouterr().out.replace("\n", "\r\n"))
    assert terminal.lines()[2:] == [row]
