"""The last rows of an answer, drawn again and again below what stands for good."""

from collections.abc import Callable

from llmcli.ui.markdown.cells import shown

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows what stands between at once


class Region:
    """Keeps the cursor behind the last row of the tail, or at the start of a new line when there is none."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rows: list[str] = []
        self._size = (0, 0)

    def draw(self, done: list[str], tail: list[str], size: tuple[int, int]) -> None:
        """Write `done` for good where the tail began, and `tail` below; rows that stand there already are kept."""
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
        """Put the cursor where row `row` of the tail begins.

        A window that became narrower has broken the rows anew: they are erased, for a terminal that joins them again
        when it grows must not join what is written in their place.
        """
        columns, height = size
        lines = sum(max(1, -(-shown(old) // columns)) for old in self._rows[row:])
        up = min(lines, height) - 1
        erase = "\x1b[2K \x1b[J\r" if columns != self._size[0] else ""
        return (f"\x1b[{up}A" if up else "") + "\r" + erase


def _over(rows: list[str]) -> str:
    """`rows` written over others, and nothing left of those.

    The screen is never erased from its first cell on: tmux takes that as clearing it, and keeps a copy in its history.
    """
    last = rows[-1] if rows else ""
    lines = "".join(f"{row}\x1b[K\r\n" for row in rows[:-1])
    return f"{lines}{last}\x1b[J" if last else f"{lines} \x1b[J\r"
