"""The table of a token: what stands in it, and that it fits and reads at any width, with color and without."""

import io
import math
import re
from typing import Any

import pytest

from llmcli.engine.events import TokenInspection, TokenTrace
from llmcli.engine.token_inspection import trace_chain
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from llmcli.ui.charts.trace_table import percent, print_why, why_rows
from llmcli.ui.terminal.cells import visible
from tests.engine.candidates import NEUTRAL, capture_steps, log_probabilities, make_steps

SGR = re.compile(r"\x1b\[([0-9;]*)m")
TEXTS = [" comet", " 星", "\n", "\x1b[2J", " incomprehensibilities", "s"]
P = [0.41, 0.26, 0.134, 0.096, 0.06, 0.04]
USUAL: dict[str, Any] = {"top_k": 5, "top_p": 0.85, "min_p": 0.3, "temperature": Fixed(0.5)}


def inspection(
    drawn: int = 1, count: int = 8, refused: str | None = None, **values: Any
) -> tuple[TokenInspection, Settings]:
    """Token 3 of an answer, drawn with these samplers from P."""
    film = capture_steps(make_steps(draw=True, **values), log_probabilities(P))
    frames = [frame for frame in film.snapshots if frame.name != "dist"]
    found = trace_chain(frames, TEXTS.__getitem__, count, drawn)
    trace = TokenTrace(3, drawn, "", None, None, 1.234, 0.5, 3, (), "0.3..1.3", 0, 0.0)
    return TokenInspection(3, drawn, found, trace, refused), Settings(**(NEUTRAL | values))


def rows_of(width: int, color: bool = False, **values: Any) -> list[str]:
    return why_rows(*inspection(**values), width, color)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "100"), (0.9996, "100"), (0.9994, "99.9"), (0.213, "21.3"), (0.09996, "10.0"), (0.0999, "9.99"),
        (0.082, "8.20"), (0.00999, "0.999"), (0.0099999, "1.00"), (0.00031, "0.031"), (0.0001, "0.010"),
        (0.00009, "<0.01"), (1e-30, "<0.01"), (0.0, "0"),
    ],
)  # fmt: skip
def test_a_probability_reads_in_percent(p: float, text: str) -> None:
    assert percent(p) == text


def test_the_table_has_rows_for_candidates_and_columns_for_steps() -> None:
    rows = rows_of(79, **USUAL)
    head, values, *table = rows[: rows.index("")]
    assert head.split() == ["model", "top_k", "top_p", "min_p", "temp"]
    assert values.split() == ["%", "5", "0.85", "0.3", "0.5"]
    cells = [re.sub("█.*", "", row).split() for row in table]
    assert cells == [
        ["1", "␣comet", "41.0", "42.7", "45.6", "51.0", "66.3"],
        [">", "2", "␣星", "26.0", "27.1", "28.9", "32.3", "26.7"],
        ["3", "↵", "13.4", "14.0", "14.9", "16.7", "7.08"],
        ["4", "␛[2J", "9.60", "10.0", "10.7", "-", "min_p"],
        ["5", "␣incomprehensib…", "6.00", "6.25", "-", "top_p"],
        ["6", "s", "4.00", "-", "top_k"],
    ]


def test_tail_free_sampling_has_its_column() -> None:
    head, values, *table = rows_of(79, tfs_z=0.9)
    assert (head.split(), values.split()) == (["model", "tfs"], ["%", "0.9"])
    # Curvatures 0.024, 0.088, 0.002 and 0.016: the sums are 0.185, 0.862, 0.877 and 1.
    assert [re.search(r"- (\w+)$", row) is not None for row in table[:6]] == [False] * 3 + [True] * 3


def test_the_step_that_removed_a_candidate_is_named() -> None:
    head, _, *table = rows_of(79, **USUAL)
    for row in table:
        if gone := re.search(r"- (\w+)$", row):
            assert visible(row) == head.index(gone[1]) + len(gone[1])


def test_bars_are_as_long_as_the_probabilities_that_are_left() -> None:
    bars = [row.count("█") for row in rows_of(79, **USUAL)]
    assert bars[2:8] == [17, 7, 2, 0, 0, 0]
    assert not any("█" in row for row in rows_of(62, **USUAL))


def test_the_effect_of_each_step_is_below_the_table() -> None:
    rows = rows_of(79, **USUAL)
    assert rows[rows.index("") + 1 :] == [
        "top_k 5     6 → 5  removed 4.00% of the probability",
        "top_p 0.85  5 → 4  removed 6.00%",
        "min_p 0.3   4 → 3  removed 9.60%",
        "temp 0.5    3      moved 15.3% of the probability",
        "  policy 0.3..1.3, entropy 1.23 nats",
        "sampled     ␣星, 26.7% of 3 candidates",
    ]


def test_a_step_that_changed_nothing_has_a_line_and_no_column() -> None:
    rows = rows_of(79, top_p=0.999999, top_k=3)
    assert rows[0].split() == ["model", "top_k"]
    assert "top_p 0.999999  3      no change" in rows


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"repeat_penalty": 1.4}, "  repeat_last_n=64 repeat_penalty=1.4"),
        ({"xtc_probability": 1.0}, "  xtc_probability=1 xtc_threshold=0.1"),
        ({"mirostat": 2, "mirostat_tau": 1.0}, "  mirostat=2 mirostat_tau=1 mirostat_eta=0.1"),
        ({"smoothing_factor": 0.4}, "  smoothing_factor=0.4 smoothing_curve=1"),
    ],
)  # fmt: skip
def test_a_step_with_several_values_shows_them_below(values: dict[str, Any], line: str) -> None:
    assert line in rows_of(79, **values)


def test_a_token_rejected_by_a_constraint_is_shown() -> None:
    film = capture_steps(make_steps(draw=True, top_k=3), log_probabilities(P), [(0, -math.inf)])
    film.snapshots[1] = film.snapshots[1].__class__("constraint", film.snapshots[1].rows)
    found, settings = inspection(refused=" map")
    found = TokenInspection(3, 1, trace_chain(film.snapshots[:-1], TEXTS.__getitem__, 8, 1), found.trace, " map")
    rows = why_rows(found, settings, 79, False)
    assert "  ␣map was sampled first, and rejected" in rows
    assert rows[2].split() == ["1", "␣comet", "41.0", "-", "constraint"]


def test_in_a_narrow_window_candidates_stand_below_each_other() -> None:
    assert rows_of(39, **USUAL) == [
        "model % → top_k 5 → top_p 0.85 →",
        "min_p 0.3 → temp 0.5",
        "  1 ␣comet",
        "    41.0 → 42.7 → 45.6 → 51.0 → 66.3",
        "> 2 ␣星",
        "    26.0 → 27.1 → 28.9 → 32.3 → 26.7",
        "  3 ↵",
        "    13.4 → 14.0 → 14.9 → 16.7 → 7.08",
        "  4 ␛[2J",
        "    9.60 → 10.0 → 10.7 - min_p",
        "  5 ␣incomprehensibilities",
        "    6.00 → 6.25 - top_p",
        "  6 s",
        "    4.00 - top_k",
        "",
        "top_k 5     6 → 5  removed 4.00%",
        "top_p 0.85  5 → 4  removed 6.00%",
        "min_p 0.3   4 → 3  removed 9.60%",
        "temp 0.5    3      moved 15.3%",
        "  policy 0.3..1.3, entropy 1.23 nats",
        "sampled     ␣星, 26.7% of 3 candidates",
    ]


ALL: dict[str, Any] = {
    **USUAL,
    "repeat_penalty": 1.3,
    "top_n_sigma": 3.0,
    "typical_p": 0.99,
    "top_a": 0.01,
    "tfs_z": 0.999,
    "smoothing_factor": 0.3,
    "xtc_probability": 1.0,
    "xtc_threshold": 0.3,
}


@pytest.mark.parametrize("width", [20, 24, 39, 59, 79, 99, 199])
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("values", [{}, USUAL, ALL], ids=["none", "usual", "all"])
def test_no_row_is_wider_than_the_window(width: int, color: bool, values: dict[str, Any]) -> None:
    rows = rows_of(width, color, **values)
    assert max(map(visible, rows)) <= width
    assert all(row == row.rstrip() for row in rows)
    assert bool(SGR.search("".join(rows))) == color
    assert [SGR.sub("", row) for row in rows] == rows_of(width, **values)


def test_color_makes_the_sampled_token_bold_and_removed_ones_dim() -> None:
    rows = rows_of(79, True, **USUAL)
    looks = {SGR.sub("", row)[2]: SGR.search(row) for row in rows[2:8]}
    assert {rank: look[1] if look else "" for rank, look in looks.items()} == {
        "1": "36", "2": "1", "3": "36", "4": "2", "5": "2", "6": "2",
    }  # fmt: skip


def test_escape_sequences_in_tokens_are_shown_as_text() -> None:
    assert not any("\x1b" in SGR.sub("", row) for row in rows_of(79, True, **USUAL))


def test_a_file_gets_the_table_without_color(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: (20, 24))
    print_why(*inspection(**USUAL))
    assert capfd.readouterr().out.splitlines() == rows_of(100, **USUAL)


def test_a_terminal_gets_the_table_in_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: __import__("os").terminal_size((40, 24)))
    monkeypatch.setenv("TERM", "xterm")
    print_why(*inspection(**USUAL))
    assert out.getvalue().splitlines() == rows_of(39, True, **USUAL)
