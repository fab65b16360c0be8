"""The screen while an answer streams: the row below it, and what stays of it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.engine.events import TemperatureShift
from llmcli.params.settings import Settings
from llmcli.ui.chat import busy_screen
from llmcli.ui.chat.busy_screen import BusyScreen, TemperatureKeys
from tests.inference.fake_engine import FakeEngine
from tests.ui.markdown.emulator import Terminal

LOOP = "I am not sure what you mean by that.\n"


class StreamedAnswer:
    """A busy screen on its own terminal; a call gives the bottom row after each piece of an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80, **settings: Any) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "24")
        self.terminal = Terminal(columns, 24)
        monkeypatch.setattr(busy_screen, "print_drawn", self.terminal.write)
        monkeypatch.setattr("llmcli.ui.terminal.progress._REDRAW", 0.0)
        monkeypatch.setattr("llmcli.ui.terminal.progress._SHARE", 0.0)
        resolved = SimpleNamespace(settings=Settings(seed=1, **settings))
        request = SimpleNamespace(live_shift=TemperatureShift())
        self.answer = SimpleNamespace(traces=[], n_drawn=0, engine=FakeEngine(), request=request)
        turn: Any = SimpleNamespace(answer=self.answer, resolved=resolved)
        self.keys = TemperatureKeys(turn)
        self.screen = BusyScreen(Settings(seed=1), live=True, doing="", temperature_keys=self.keys)
        self.rows: list[str] = []

    def __call__(self, *pieces: str) -> list[str]:
        """Show the pieces; the bottom row after each."""
        with self.screen.open():
            self.screen.show(self._parts(pieces))
        return self.rows

    def _parts(self, pieces: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for piece in pieces:
            self.answer.n_drawn += 1
            yield "answer", piece
            self.rows.append(self.terminal.lines()[-1])


def test_the_row_names_the_keys_until_the_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = StreamedAnswer(monkeypatch)
    assert streamed("one", " two") == [
        "Ctrl-C stops · ↑↓ warmer, colder · 1 token",
        "Ctrl-C stops · ↑↓ warmer, colder · 2 tokens",
    ]
    assert streamed.terminal.lines() == ["one two"]


def test_a_narrow_window_has_a_shorter_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert StreamedAnswer(monkeypatch, columns=40)("one") == ["Ctrl-C stops · ↑↓ warmer, colder"]
    assert StreamedAnswer(monkeypatch, columns=20)("one") == ["Ctrl-C stops"]


def test_a_moved_temperature_replaces_the_names_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, row in (
        (80, "Ctrl-C stops · ↑↓ temp 0.8 → 0.9 · 1 token"),
        (40, "Ctrl-C stops · ↑↓ temp 0.8 → 0.9"),
        (22, "↑↓ temp 0.8 → 0.9"),
    ):
        streamed = StreamedAnswer(monkeypatch, columns)
        streamed.keys.step(1)
        assert streamed("one") == [row]


def test_the_row_does_not_name_keys_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert StreamedAnswer(monkeypatch, samplers=("top_k",))("one") == ["Ctrl-C stops · 1 token"]
    streamed = StreamedAnswer(monkeypatch)
    streamed.screen = BusyScreen(Settings(seed=1), live=True, doing="")
    assert streamed("one") == ["Ctrl-C stops"]


def test_the_row_warns_of_an_answer_that_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = StreamedAnswer(monkeypatch)
    rows = streamed(*[LOOP] * 60)
    assert rows[10] == "Ctrl-C stops · ↑↓ warmer, colder · 11 tokens"
    assert rows[-1] == "the answer repeats itself: Ctrl-C stops · 60 tokens"
    assert streamed.screen.repetition.found
    assert StreamedAnswer(monkeypatch, columns=40)(*[LOOP] * 60)[-1] == "the answer repeats itself: Ctrl-C stops"


def test_without_markdown_there_is_no_row(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    streamed = StreamedAnswer(monkeypatch)
    streamed.screen = BusyScreen(Settings(seed=1, markdown=False), True, "", temperature_keys=streamed.keys)
    with streamed.screen.open():
        streamed.screen.show(iter([("answer", LOOP * 60)]))
    assert capfd.readouterr().out == LOOP * 60
    assert streamed.terminal.written == ""
    assert streamed.screen.repetition.found


def test_the_spinner_ends_when_an_answer_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = StreamedAnswer(monkeypatch)
    assert streamed() == []
    assert not streamed.screen.spinner.end()  # it has ended already
    assert streamed.terminal.lines() == []
