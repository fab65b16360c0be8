"""The last rows of an answer, which are drawn again and again below the finished ones."""

from collections.abc import Callable

from llmcli.ui.terminal.cells import shown

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows the text between them at once


class Region:
    """Keeps the cursor behind the last row of the tail, or at the start of a new line where there is no tail."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rows: list[str] = []
        self._size = (0, 0)

    def draw(self, done: list[str], tail: list[str], size: tuple[int, int]) -> None:
        """Write the finished rows `done` where the tail began, and the new `tail` below; equal rows are kept."""
        old, new = self._rows, done + tail
        same = 0
        if size[0] == self._size[0]:
            while same < min(len(old), len(new)) and old[same] == new[same]:
                same += 1
        if new and same == len(new) < len(old):
            same -= 1  # the cursor belongs behind the last row
        if same < len(old):
            out = self._back_to(same, size) + _over(new[same:])
        else:
            out = ("\r\n" if old and new[same:] else "") + "\r\n".join(new[same:])
        out += "\r\n" if new and not tail else ""
        self._rows, self._size = tail, size
        if out:
            self._write(f"{_BEGIN}{out}{_END}")

    def _back_to(self, row: int, size: tuple[int, int]) -> str:
        """Move the cursor to the start of row `row` of the tail.

        A window that became narrower has wrapped the rows: they are erased, so that a terminal that joins wrapped rows
        when it grows does not join the new ones.
        """
        columns, height = size
        lines = sum(max(1, -(-shown(old) // columns)) for old in self._rows[row:])
        up = min(lines, height) - 1
        erase = "\x1b[2K \x1b[J\r" if columns != self._size[0] else ""
        return (f"\x1b[{up}A" if up else "") + "\r" + erase


def _over(rows: list[str]) -> str:
    """`rows` written over others, which are erased.

    The screen is never erased from its first cell on: tmux treats that as a clear, and keeps a copy in its history.
    """
    last = rows[-1] if rows else ""
    lines = "".join(f"{row}\x1b[K\r\n" for row in rows[:-1])
    return f"{lines}{last}\x1b[J" if last else f"{lines} \x1b[J\r"
