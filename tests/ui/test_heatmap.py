"""The answer in colors of its tokens: text, alignment, scale and legend, with color and without."""

import io
import re
from itertools import pairwise

import pytest

from llmcli.engine.events import Measure, TokenTrace
from llmcli.ui.charts.heatmap import heat_rows, print_heat
from llmcli.ui.terminal.cells import visible

SGR = re.compile(r"\x1b\[([0-9;]*)m")
PIECES = ["The", " cap", "ital", " of", " 日", "本", " is", " T", "o", "kyo", ".\n\n", "  ", "- 1", "2", "3", "\n"]


def token(text: str, value: float | None = 0.5, **more: object) -> TokenTrace:
    """A token with one value for every measure."""
    return TokenTrace(0, 1, text, value, 1, value, value, 9, (), "0.7", 0, 0.0, **more)  # type: ignore[arg-type]


def bare(rows: list[str]) -> list[str]:
    return [SGR.sub("", row) for row in rows]


def looks(row: str) -> list[tuple[str, str]]:
    """The look of each colored piece of a row."""
    return re.findall(r"\x1b\[([0-9;]*)m([^\x1b]*)\x1b\[0m", row)


def luminance(color: int) -> float:
    """Of one of the 256 colors beyond the first 16, as WCAG 2 defines it."""
    if color >= 232:
        levels = [8 + 10 * (color - 232)] * 3
    else:
        steps = (0, 95, 135, 175, 215, 255)
        levels = [steps[(color - 16) // size % 6] for size in (36, 6, 1)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (one / 255 for one in levels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_rows_contain_the_answer_line_by_line() -> None:
    rows = bare(heat_rows([token(piece) for piece in PIECES], "p", 80, True, True))
    assert rows[:4] == ["The capital of 日本 is Tokyo.↵", "↵", "  - 123↵", ""]


@pytest.mark.parametrize("width", [1, 2, 7, 13, 40])
@pytest.mark.parametrize("color", [True, False])
def test_no_row_is_wider_than_the_window_and_nothing_is_lost(width: int, color: bool) -> None:
    tokens = [token(piece, at / 16) for at, piece in enumerate(PIECES)]
    rows = heat_rows(tokens, "temperature", width, color, True)
    answer = rows[: rows.index("")]
    assert max(map(visible, rows if width > 6 else answer)) <= max(width, 2)  # a wide sign needs two
    letters = "".join(bare(rows)).replace(" ", "")
    if color:
        assert letters.startswith("Thecapitalof日本isTokyo.↵↵-123↵")


def test_bars_are_below_the_first_character_of_each_token() -> None:
    tokens = [token("The", 0.0), token(" cap", 0.5), token("ital", 0.5), token(" 日", 1.0), token("本", 0.3)]
    assert heat_rows(tokens, "p", 80, False, True)[:2] == [
        "The capital 日本",
        "▁·· ▅··▅··· █·▃·",
    ]
    assert heat_rows(tokens, "p", 80, False, False)[:2] == [
        "The capital 日本",
        "1.. 5..5... 8.3.",
    ]


def test_a_wrapped_token_has_a_bar_in_the_next_row() -> None:
    assert heat_rows([token("a", 0.0), token(" b" * 4, 1.0)], "p", 5, False, True)[:4] == [
        "a b ",
        "▁ █·",
        "b b b",
        "█····",
    ]


def test_only_a_token_of_blanks_has_a_bar_below_blanks() -> None:
    assert heat_rows([token("    ", 1.0), token("x", 0.0)], "p", 9, False, True)[:2] == ["    x", "█···▁"]
    assert heat_rows([token("abc", 0.0), token(" d", 1.0)], "p", 4, False, True)[:4] == ["abc ", "▁··", "d", "█"]


def test_a_token_without_a_value_has_neither_color_nor_bar() -> None:
    tokens = [token("Sure,\n", None), token(" yes", 1.0)]
    assert heat_rows(tokens, "p", 80, False, True)[:3] == ["Sure,", " yes", " █··"]
    rows = heat_rows(tokens, "p", 80, True, True)
    assert rows[0] == "Sure,"
    assert [text for _, text in looks(rows[1])] == ["yes"]


def test_every_step_has_its_own_readable_color() -> None:
    tokens = [token(str(at), at / 8) for at in range(8)]
    found = [look for look, _ in looks(heat_rows(tokens, "p", 80, True, True)[0])]
    assert len(set(found)) == 8
    for look in found:
        ink, ground = map(int, re.fullmatch(r"38;5;(\d+);48;5;(\d+)", look).groups())  # type: ignore[union-attr]
        low, high = sorted((luminance(ink), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_low_probability_has_the_color_of_a_high_temperature() -> None:
    tokens = [token("a", 0.0), token("b", 1.0)]
    temperature = [look for look, _ in looks(heat_rows(tokens, "temperature", 80, True, True)[0])]
    assert [look for look, _ in looks(heat_rows(tokens, "p", 80, True, True)[0])] == temperature[::-1]


def test_neighbors_of_one_step_in_a_word_are_underlined() -> None:
    row = heat_rows([token(piece) for piece in ("un", "believ", "able", " so", "!")], "p", 80, True, True)[0]
    assert [(text, look.endswith(";4")) for look, text in looks(row)] == [
        ("un", False), ("believ", True), ("able", False), ("so", False), ("!", True),
    ]  # fmt: skip
    apart = heat_rows([token("un", 0.1), token("do", 0.9)], "p", 80, True, True)[0]
    assert ";4m" not in apart


def test_the_legend_names_the_measure_and_its_steps() -> None:
    tokens = [token("a", 0.3), token("b", 2.0), token("c", None)]
    assert heat_rows(tokens, "temperature", 80, False, True)[3:5] == [
        "temperature: min 0.30, mean 1.15, max 2.00 over 2 tokens",
        "▁ 0.00  ▂ 0.25  ▃ 0.50  ▄ 0.75  ▅ 1.00  ▆ 1.25  ▇ 1.50  █ 1.75",
    ]
    narrow = bare(heat_rows(tokens, "entropy", 40, True, True))
    assert narrow[2:6] == [
        "entropy in nats: min 0.30, mean 1.15,",
        "max 2.00 over 2 tokens",
        " 0.00  0.03  0.12  0.28 ",
        " 0.50  0.78  1.12  1.53 ",
    ]


def test_drafted_tokens_have_a_mark_and_a_count() -> None:
    tokens = [token("a", 0.3), token("b", 2.0)._replace(drafted=True), token("c", 0.1)._replace(drafted=True)]
    assert heat_rows(tokens, "drafted", 80, False, True) == [
        "abc",
        "▁██",
        "",
        "2 of 3 tokens accepted from a draft",
        "▁ drawn alone",
        "█ accepted from a draft",
    ]


@pytest.mark.parametrize("by", ["temperature", "entropy"])
def test_the_highest_value_has_the_highest_step(by: Measure) -> None:
    assert heat_rows([token("a", 0.2), token("b", 7.0)], by, 80, False, True)[1][1] == "█"
    assert "█ 0.8" in heat_rows([token("a", 0.2)], "temperature", 80, False, True)[4]


@pytest.mark.parametrize("by", ["temperature", "p", "entropy"])
def test_the_steps_of_a_legend_grow_and_are_those_of_the_bars(by: Measure) -> None:
    numbers = [float(one) for one in re.findall(r"[▁-█] (\S+)", heat_rows([token("a", 1.0)], by, 80, False, True)[4])]
    assert numbers[0] == 0
    assert len(numbers) == 8
    assert all(low < high for low, high in pairwise(numbers))
    exact = {"temperature": 0.5, "p": 0.5, "entropy": 0.25}[by]  # where the fifth step begins
    tokens = [token("a", exact), token("b", exact - 0.001), token("c", 1.0)]
    assert heat_rows(tokens, by, 80, False, True)[1] == "▅▄█"


def test_reasoning_is_dim_and_before_the_answer() -> None:
    tokens = [token("", 0.5, reasoning="hm, \x1b[2J", thinking=True), token("Yes")]
    assert heat_rows(tokens, "p", 80, False, True)[:4] == ["thinking", "  hm, ␛[2J", "", "Yes"]
    rows = heat_rows(tokens, "p", 80, True, True)
    assert all(look == "2" for row in rows[:2] for look, _ in looks(row))
    assert any("over 1 token" in row for row in bare(rows)[4:])
    assert bare(rows)[-2:] == [
        "color: probability from red (low) to blue (high); an underline separates tokens",
        "of the same color",
    ]


def test_a_trace_of_nothing_or_of_reasoning_alone_has_no_legend() -> None:
    assert heat_rows([], "p", 80, True, True) == []
    assert heat_rows([token("", 0.5, reasoning="hm")], "p", 80, False, True) == ["thinking", "  hm", ""]
    assert heat_rows([token("a", None)], "p", 80, False, True)[-1] == "probability: this trace has no values"


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b2J", "\u202e", "\r", "\x07", "\ud800", "\U000e0041", "\x1b"])
def test_escape_sequences_in_tokens_are_shown_as_text(text: str) -> None:
    for row in heat_rows([token(text), token("[2J")], "p", 80, True, True):
        assert not re.search("[\x00-\x1a\x1c-\x1f\x7f-\x9f\u202e\ud800\U000e0041]", row)
        assert "\x1b" not in SGR.sub("", row)
    assert "\x1b" not in "".join(heat_rows([token(text)], "p", 80, False, True))


class Terminal(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> str:
    terminal = Terminal(encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    print_heat([token("Yes, " * 20, 0.9)], "p")
    return terminal.getvalue()


def test_a_terminal_gets_the_colors_and_bars_that_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;5;" in printed(monkeypatch, "utf-8")
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(monkeypatch, "utf-8")
    assert "█···" in text
    assert "\x1b" not in text
    assert max(map(len, text.split("\n"))) <= 39
    assert "8..." in printed(monkeypatch, "ascii")


def test_a_file_gets_bars_and_no_escape_whatever_is_forced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_heat([token("Yes", 0.9)], "p")
    out = capfd.readouterr().out
    assert out.startswith("Yes\n█··\n\nprobability: ")
    assert "\x1b" not in out
