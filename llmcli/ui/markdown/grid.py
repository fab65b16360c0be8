"""Tables that fit the window."""

from dataclasses import dataclass

from llmcli.ui.markdown.style import Style
from llmcli.ui.terminal.cells import Runs, cells, paint, plain, wrap

_UNBROKEN = 14  # a column is at least as wide as its longest word, up to this
_BETWEEN = " │ "


@dataclass(frozen=True)
class Grid:
    """A table's cells; every row has as many as the head."""

    head: list[Runs]
    body: list[list[Runs]]
    sides: list[str]  # left, right or center, by column


def grid_rows(grid: Grid, width: int, style: Style) -> list[str]:
    """The rows on the terminal: columns side by side, or one cell a row with its head where there is no room."""
    widths = _widths(grid, width - len(_BETWEEN) * (len(grid.head) - 1))
    if not widths:
        return _listed(grid, width, style)
    bar = paint([(style.faint, _BETWEEN)])
    line = paint([(style.faint, "─┼─".join("─" * size for size in widths))])
    drawn = [_beside(row, widths, grid.sides, bar) for row in grid.body]
    rows = [*_beside(grid.head, widths, grid.sides, bar), line]
    ragged = any(len(lines) > 1 for lines in drawn)
    for at, lines in enumerate(drawn):
        rows += [line, *lines] if ragged and at else lines
    return rows


def _widths(grid: Grid, room: int) -> list[int]:
    """The widths of the columns; empty where the room is too small for a readable table."""
    columns = [[plain(row[at]) for row in [grid.head, *grid.body]] for at in range(len(grid.head))]
    whole = [max(1, *(cells(text) for text in column)) for column in columns]
    least = [
        min(_UNBROKEN, max([1, *(cells(word) for text in column for word in text.split(" "))])) for column in columns
    ]
    if sum(least) > room:
        return []
    if sum(whole) <= room:
        return whole
    sizes = list(least)
    for limit in range(room, 0, -1):
        sizes = [max(low, min(full, limit)) for low, full in zip(least, whole, strict=True)]
        if sum(sizes) <= room:
            break
    return sizes


def _beside(row: list[Runs], widths: list[int], sides: list[str], bar: str) -> list[str]:
    """One row of the table: its cells wrapped, side by side."""
    columns = [wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    lines = []
    for at in range(max(len(column) for column in columns)):
        parts = []
        for column, size, side in zip(columns, widths, sides, strict=True):
            runs = column[at] if at < len(column) else []
            blank = max(0, size - cells(plain(runs)))
            left = blank if side == "right" else blank // 2 if side == "center" else 0
            parts.append(" " * left + paint(runs) + " " * (blank - left))
        lines.append(bar.join(parts).rstrip(" "))
    return lines


def _listed(grid: Grid, width: int, style: Style) -> list[str]:
    """`head: value` for each cell, a blank row between the table's rows."""
    rows: list[str] = []
    body: list[list[Runs]] = grid.body or [[[] for _ in grid.head]]
    for at, row in enumerate(body):
        rows += [""] if at else []
        for head, cell in zip(grid.head, row, strict=True):
            rows += [paint(line) for line in wrap([*head, (style.faint, ": "), *cell], width)]
    return rows
