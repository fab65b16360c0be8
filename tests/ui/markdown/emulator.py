"""A terminal that remembers everything: what an answer leaves on the screen and in the scrollback."""

import re
from collections.abc import Callable, Iterable

import pyte

from llmcli.ui.markdown.view import AnswerView
from tests.screen import Screen

SEQUENCES = re.compile(r"\x1b\[(?:\?2026[hl]|[0-9;]*m|\d+A|2?[JK])|\r\n?|[^\x00-\x1f\x7f-\x9f]+")


class Terminal:
    """A window with a scrollback; counts the bytes it gets, and accepts only the sequences that an answer needs."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = Screen(columns, rows, history=100_000, ratio=1)
        self.stream = pyte.Stream(self.screen)
        self.written = ""
        self.writes = 0

    def write(self, text: str) -> None:
        assert not SEQUENCES.sub("", text), f"not for a terminal: {text!r}"
        self.written += text
        self.writes += 1
        self.stream.feed(text)

    def size(self) -> tuple[int, int]:
        return self.screen.columns, self.screen.lines

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """Scrollback and screen, without trailing blanks."""
        screen = self.screen
        rows = [*screen.history.top, *(screen.buffer[at] for at in range(screen.lines))]
        lines = [screen.row(row).rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def view_on(terminal: Terminal, clock: Callable[[], float] | None = None, color: bool = True) -> AnswerView:
    return AnswerView(terminal.write, terminal.size, "dark", color, clock or Clock())


def shown(pieces: Iterable[str], columns: int = 80, rows: int = 24, pause: float = 1.0) -> Terminal:
    """The terminal after an answer came in `pieces`, `pause` seconds apart."""
    terminal, clock = Terminal(columns, rows), Clock()
    view = view_on(terminal, clock)
    for piece in pieces:
        clock.now += pause
        view.push(piece)
    view.finish()
    assert terminal.screen.cursor.x == 0
    return terminal
