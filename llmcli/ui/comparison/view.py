"""Several answers on a terminal while they are generated: side by side as far as they fit, the others below."""

import time
from collections.abc import Callable, Sequence
from itertools import zip_longest

from llmcli.ui.compare.column import Column, filled
from llmcli.ui.markdown.region import Region
from llmcli.ui.terminal.cells import Runs, folds, paint, wrap
from llmcli.ui.terminal.sanitize import safe

_NARROWEST = 28  # minimum columns of an answer
_BAR, _CROSS, _RULE = " │ ", "─┼─", "─"
_INTERVAL = 1 / 30
_SHARE = 40  # after a redraw comes a pause this many times as long
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class CompareView:
    """Shows the answers under their labels; nothing else may write to the terminal until `finish`.

    They are in bands of columns. A row of a band is final once all its answers have passed the row; the bands below
    wait until the band ends.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        size: Callable[[], tuple[int, int]],
        labels: Sequence[str],
        color: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = size
        self._clock = clock
        self._strong, self._faint = ("1", "2") if color else ("", "")
        self._region = Region(write)
        self._labels = [f"{number}. {safe(label)}" for number, label in enumerate(labels, 1)]
        self._columns = [Column(self._faint) for _ in labels]
        self._first = 0  # of the current band
        self._count = 0  # its columns; 0 before it starts
        self._due = 0.0

    def status(self, text: str) -> None:
        """Show what the program waits for, in one line that the first text replaces."""
        if self._count or self._clock() < self._due:
            return
        size, width = self._measure()
        line = f"{_SPINNER[int(self._clock() * 10) % len(_SPINNER)]} {' '.join(safe(text).split())}"
        start, end = folds(line, width)[0]
        self._region.draw([], [paint([(self._faint, line[start:end])])], size)
        self._due = self._clock() + _INTERVAL

    def push(self, index: int, kind: str, text: str) -> None:
        """Add a piece to answer `index`, from 0."""
        self._columns[index].add(kind, text)
        if not self._count or self._clock() >= self._due:
            self._draw()

    def end(self, index: int) -> None:
        """End answer `index`."""
        self._columns[index].ended = True
        self._draw()

    def finish(self) -> None:
        """Draw the rest; the cursor is at the start of a new line afterwards."""
        if not self._count:
            self._region.draw([], [], self._measure()[0])
            return
        for column in self._columns:
            column.ended = True
        self._draw()

    def _draw(self) -> None:
        started = self._clock()
        size, width = self._measure()
        done: list[str] = []
        while self._first < len(self._columns):
            done += self._start_band(width)
            done += self._certain(width)
            if not all(column.ended for column in self._band):
                break
            self._first, self._count = self._first + self._count, 0
            done += [""] * (self._first < len(self._columns))
        self._count = self._count or 1  # something was drawn
        self._region.draw(done, self._tail(width, max(1, size[1] - 2)), size)
        now = self._clock()
        self._due = now + max(_INTERVAL, _SHARE * (now - started))

    @property
    def _band(self) -> Sequence[Column]:
        return self._columns[self._first : self._first + self._count]

    def _start_band(self, width: int) -> list[str]:
        """The headings of a new band: as many columns as fit, spread evenly over the bands."""
        if self._count:
            return []
        left = len(self._columns) - self._first
        fitting = max((width + len(_BAR)) // (_NARROWEST + len(_BAR)), 1)
        self._count = -(-left // -(-left // fitting))
        room = self._room(width)
        heads = self._labels[self._first : self._first + self._count]
        rows = _joined([wrap([(self._strong, head)], room) for head in heads], room)
        return [*rows, _CROSS.join([_RULE * room] * self._count)]

    def _certain(self, width: int) -> list[str]:
        """The rows of the band that are final."""
        room, band = self._room(width), self._band
        going = [column.certain(room) for column in band if not column.ended]
        count = min(going) if going else max(column.certain(room) for column in band)
        return _joined([column.take(count, room) for column in band], room)

    def _tail(self, width: int, tallest: int) -> list[str]:
        """The rows that can still change; a column that is far ahead of another shows its last rows."""
        if self._first >= len(self._columns):
            return []
        room = self._room(width)
        more = len(self._columns) - self._first - self._count
        hint = [paint([(self._faint, f"… {more} more below")])] if more and tallest > 1 else []
        rows = _joined([column.rows(room)[-(tallest - len(hint)) :] for column in self._band], room)
        return [*(rows or [""]), *hint]

    def _room(self, width: int) -> int:
        """Terminal columns for each answer of the band."""
        return max((width - len(_BAR) * (self._count - 1)) // self._count, 1)

    def _measure(self) -> tuple[tuple[int, int], int]:
        """The size of the window, and the width of the text: the last column stays free for the cursor."""
        columns, rows = self._size()
        columns = max(columns, 1)
        return (columns, max(rows, 1)), max(columns - 1, 1)


def _joined(columns: Sequence[Sequence[Runs]], room: int) -> list[str]:
    """The rows of columns of `room` each, side by side."""
    empty: Runs = []
    rows = [[filled(row, room) for row in side] for side in zip_longest(*columns, fillvalue=empty)]
    return [_BAR.join(row).rstrip() for row in rows]
