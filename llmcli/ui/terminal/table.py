"""Tables, facts and definitions on stdout: aligned columns, or one below the other where a terminal is too narrow.

They do not use rich: its import takes longer than most commands that print a table, and it cannot omit a column, stack
the cells of a row, or print a line below one.
"""

import re
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from llmcli.text import sanitize
from llmcli.ui.terminal.cells import cells, line_breaks
from llmcli.ui.terminal.console import is_terminal
from llmcli.ui.terminal.output import columns, print_line, stream

_GAP = "  "
_BOLD, _DIM = "1", "2"
_LINE_BREAKS = re.compile(r"[\r\n\t]+")
_BESIDE, _INDENTED = 24, 4  # columns before a definition: beside its name, and in a narrow window
_FEWEST = 10  # columns for text beside an indent


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    below: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print the rows; the columns named in `right` hold numbers, and `below` has a further line for each row.

    A terminal that is a little too narrow omits the columns in `spare`, the first of them first. One that is much too
    narrow gets a block for each row. A cell with several lines is joined into one.
    """
    safe = sanitize if is_terminal(stream()) else str
    table = [[safe(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(heads, *table, strict=True)]
    kept: list[int] = []  # the columns that fit; none where they do not fit even without the spare ones
    for number in range(len(spare) + 1):
        fewer = [index for index, head in enumerate(heads) if head not in spare[:number]]
        if not kept and sum(widths[index] + len(_GAP) for index in fewer) - len(_GAP) <= columns():
            kept = fewer

    def line(row: Sequence[str]) -> str:
        return _GAP.join(_padded(row[at], widths[at], heads[at] in right) for at in kept).rstrip()

    if kept:
        print_line(line(heads), _BOLD)
    for row, further in zip_longest(table, below, fillvalue=""):
        if kept:
            print_line(line(row))
        else:
            _print_block(heads, row)
        if further:
            print_line(f"{_GAP}{further}", _DIM)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print pairs, one a line, the values aligned; on a narrow terminal a long value goes below its name."""
    column = max((cells(name) for name, _ in facts), default=0) + len(_GAP)
    for name, value in facts:
        value = _LINE_BREAKS.sub(" ", value)
        fits = column + cells(value) <= columns()
        _print_hanging(name, [value] if fits else _wrapped(value, len(_GAP)), column if fits else len(_GAP))


def print_definitions(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with their meanings, wrapped, beside them; below, where a name is long or the window is narrow."""
    column = _BESIDE if columns() >= 2 * _BESIDE else _INDENTED
    for name, meaning in pairs:
        _print_hanging(name, _wrapped(meaning, column, 100), column)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if right else text + space


def _print_block(heads: Sequence[str], row: Sequence[str]) -> None:
    """The first cell alone, and under it the others with their heads."""
    print_line(row[0], _BOLD)
    indent = max((len(head) for head in heads[1:]), default=0) + 2 * len(_GAP)
    for head, cell in zip(heads[1:], row[1:], strict=True):
        if cell:
            spans = line_breaks(cell, max(columns() - indent, _FEWEST))
            _print_hanging(_GAP + head.lower(), [cell[start:end] for start, end in spans], indent)


def _print_hanging(name: str, lines: Sequence[str], indent: int) -> None:
    """Lines at `indent`, with a name before the first of them, or above it where the name is long."""
    if name and cells(name) + len(_GAP) > indent:
        print_line(name)
        name = ""
    for line in lines or [""]:
        print_line(_padded(name, indent, right=False) + line)
        name = ""


def _wrapped(text: str, indent: int, elsewhere: int = 10**6) -> list[str]:
    """Lines of whole words: an address or a path that is broken cannot be copied."""
    width = max(columns(elsewhere) - indent, _FEWEST)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
