"""The screen of pyte with its scrollback, several times as fast: tests read it at each piece of output."""

from functools import cache

import pyte
from pyte import charsets, modes
from pyte.screens import Char


class Screen(pyte.HistoryScreen):
    """A window that nobody scrolls back."""

    # The base class wraps each step, for windows that are scrolled back.
    __getattribute__ = object.__getattribute__

    def draw(self, data: str) -> None:
        """Print a text without control characters at the cursor."""
        cursor = self.cursor
        is_usual = not self.charset and self.g0_charset is charsets.LAT1_MAP and modes.IRM not in self.mode
        if not is_usual or not _is_plain(data) or cursor.x + len(data) > self.columns:
            super().draw(data.replace("\u200d", "").replace("\ufe0f", ""))  # it stops at these signs of no width
            return
        row, look = self.buffer[cursor.y], cursor.attrs
        for x, char in enumerate(data, cursor.x):
            row[x] = _cell(char, look)
        cursor.x += len(data)
        self.dirty.add(cursor.y)

    @property
    def display(self) -> list[str]:
        """The rows of the window."""
        return [self.row(self.buffer[y]) for y in range(self.lines)]

    def row(self, cells: dict[int, Char]) -> str:
        """The text of a row of the window or of the scrollback; the right half of a wide character is empty."""
        return "".join([cells[x].data for x in range(self.columns)]) if cells else " " * self.columns


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


@cache
def _cell(char: str, look: Char) -> Char:
    return look._replace(data=char)
