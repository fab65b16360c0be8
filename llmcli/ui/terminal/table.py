"""Tables on stdout: aligned columns; on a terminal that is too narrow, a block for each row."""

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from llmcli.text import sanitize
from llmcli.ui.terminal.console import is_terminal, wants_color
from llmcli.ui.terminal.output import print_line, stream

_GAP = "  "
_BOLD, _DIM = "1", "2"


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    below: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print the rows; the columns named in `right` hold numbers, and `below` has a further line for each row.

    A terminal that is a little too narrow omits the columns in `spare`, the first of them first.

    A cell with several lines is joined into one.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    terminal = is_terminal(stream())
    shown = sanitize if terminal else str
    cells = [[shown(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(width(cell) for cell in column) for column in zip(heads, *cells, strict=True)]
    room = shutil.get_terminal_size().columns if terminal else 10**6
    kept = _affordable(heads, widths, room, spare)
    if not kept:
        _put_stacked(heads, cells, below)
        return
    heads, widths = [heads[index] for index in kept], [widths[index] for index in kept]
    aligned = [head in right for head in heads]
    print_line(_line(heads, widths, aligned), _BOLD if wants_color(stream()) else "")
    for row, line in zip_longest([[row[index] for index in kept] for row in cells], below, fillvalue=""):
        print_line(_line(row, widths, aligned))
        _put_below(line)


def _affordable(heads: Sequence[str], widths: Sequence[int], room: int, spare: Sequence[str]) -> list[int]:
    """The indices of the columns that fit; none where they do not fit even without the spare ones."""
    for number in range(len(spare) + 1):
        kept = [index for index, head in enumerate(heads) if head not in spare[:number]]
        if sum(widths[index] + len(_GAP) for index in kept) - len(_GAP) <= room:
            return kept
    return []


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print pairs, one a line, the values aligned; on a narrow terminal a long value goes below its name."""
    column = max((len(name) for name, _ in facts), default=0)
    room = shutil.get_terminal_size().columns if is_terminal(stream()) else 10**6
    for name, value in facts:
        value = " ".join(value.split())
        if column + len(_GAP) + width(value) <= room:
            print_line(f"{name:<{column}}{_GAP}{value}")
            continue
        print_line(name)
        for line in textwrap.wrap(value, room - len(_GAP), break_long_words=False, break_on_hyphens=False):
            print_line(_GAP + line)


def print_definitions(pairs: Sequence[tuple[str, str]], column: int = 24) -> None:
    """Print names with their meanings, wrapped, beside them; below, where a name is long or the window is narrow."""
    room = shutil.get_terminal_size().columns if is_terminal(stream()) else 100
    if room < 2 * column:
        column = 4
    for name, meaning in pairs:
        beside = width(name) + len(_GAP) <= column
        if not beside:
            print_line(name)
        first = f"{name}{' ' * (column - width(name))}" if beside else " " * column
        lines = textwrap.wrap(meaning, max(room - column, 20), break_long_words=False, break_on_hyphens=False)
        for index, line in enumerate(lines or [""]):
            print_line((first if index == 0 else " " * column) + line)


def width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, column, to_the_right in zip(cells, widths, right, strict=True):
        space = " " * (column - width(cell))
        padded.append(space + cell if to_the_right else cell + space)
    return _GAP.join(padded).rstrip()


def _put_below(line: str) -> None:
    if line:
        print_line(f"{_GAP}{line}", _DIM if wants_color(stream()) else "")


def _put_stacked(heads: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str]) -> None:
    """The first cell alone, and under it the others with their heads."""
    column = max((len(head) for head in heads[1:]), default=0)
    for row, line in zip_longest(rows, below, fillvalue=""):
        print_line(row[0], _BOLD if wants_color(stream()) else "")
        for head, cell in zip(heads[1:], row[1:], strict=True):
            if cell:
                _put_hanging(f"{_GAP}{head.lower():<{column}}{_GAP}", cell)
        _put_below(line)


def _put_hanging(begin: str, text: str) -> None:
    """A line that is wrapped below the start of its text where it is too long."""
    room = max(shutil.get_terminal_size().columns - len(begin), 10)
    lines = textwrap.wrap(text, room, break_on_hyphens=False) if width(text) > room else [text]
    for index, line in enumerate(lines):
        print_line((begin if index == 0 else " " * len(begin)) + line)
