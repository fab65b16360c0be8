"""The width of text in columns, and its rows."""

import re
import shutil
from collections.abc import Sequence
from functools import lru_cache

_GAP = " · "
# Scripts that break between any two characters, but not before closing marks.
_WIDE = (
    "\u2e80-\u3000\u3003-\u3007\u3012\u3013\u3020-\ua4cf\uf900-\ufaff"
    "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\U00020000-\U0003fffd"
)
_CLOSING = "、。〉》」』】〕〗！），．：；？］｝"
_OPENING = "〈《「『【〔〖（［｛"
_PIECE = re.compile(rf"\n| +|[{_OPENING}]*[{_WIDE}][{_CLOSING}]*|[^\n {_WIDE}{_OPENING}]+|[{_OPENING}]+")
_SGR = re.compile(r"\x1b\[[0-9;]*m")
# One column each: Latin letters, dashes, quotes, the ellipsis and arrows. Most tables need no other ones, and so no
# import of prompt_toolkit.
_NARROW = re.compile("[ -~\u00ae-\u02ff\u2010-\u2027\u2190-\u2193]*")


def cells(text: str) -> int:
    """The columns of `text`, at most: characters that a terminal joins may take fewer."""
    return len(text) if text.isascii() or _NARROW.fullmatch(text) else _cells(text)


@lru_cache(maxsize=4096)
def _cells(text: str) -> int:
    from prompt_toolkit.utils import get_cwidth

    return sum(get_cwidth(char) for char in text) + text.count("\ufe0f")  # which asks for the wide form


def visible(row: str) -> int:
    """The columns of a row with color sequences."""
    return cells(_SGR.sub("", row))


def painted(text: str, look: str) -> str:
    """The text in a color sequence with the parameters `look`, such as "1;36"; as it is where there are none."""
    return f"\x1b[{look}m{text}\x1b[0m" if look and text else text


def wrap(text: str, width: int) -> list[str]:
    """Rows of at most `width` columns, broken between words where possible."""
    return [text[start:end] for start, end in line_breaks(text, width)]


def line_breaks(text: str, width: int) -> list[tuple[int, int]]:
    """Start and end of each row of at most `width` columns, broken between words where possible."""
    rows: list[tuple[int, int]] = []
    start = end = column = 0  # of the current row: where it starts, where its last word ends, how wide it is
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece == "\n":
            rows.append((start, end))
            start, end, column = match.end(), match.end(), 0
            continue
        size = cells(piece)
        if piece[0] == " ":
            column += size
            continue
        if column + size > width and end > start:
            rows.append((start, end))
            start, column = match.start(), 0
        if column + size > width:
            start = match.start()
            *full, last = folds(piece, width)
            rows += [(start + left, start + right) for left, right in full]
            start, column = start + last[0], cells(piece[last[0] :])
        else:
            column += size
        end = match.end()
    return [*rows, (start, end)]


def folds(text: str, width: int) -> list[tuple[int, int]]:
    """Start and end of each row of at most `width` columns with every blank kept, for code.

    A row ends after a blank if one is near.
    """
    rows: list[tuple[int, int]] = []
    start = 0
    while (end := fit(text, start, width)) < len(text):
        blank = text.rfind(" ", start + (end - start) * 2 // 3, end)
        if blank >= 0 and text[start:blank].strip():
            end = blank + 1
        rows.append((start, end))
        start = end
    return [*rows, (start, end)]


def fit(text: str, start: int, width: int) -> int:
    """The end of a row of at most `width` columns that begins at `start`; it has at least one character."""
    if text[start : start + width + 1].isascii():
        return min(start + width, len(text))
    taken = 0
    last = start  # where the current sign begins: what joins the sign before it stays with it
    for at in range(start, len(text)):
        size = cells(text[at])
        if size and text[at - 1 : at] != "\u200d":
            last = at
        taken += size
        if taken > width:
            return last if last > start else max(at, start + 1)
    return len(text)


def first_that_fits(*rows: Sequence[str], less: int = 0) -> str:
    """The first of these rows, each in parts, that fits the window less some columns; the last one if none does."""
    width = shutil.get_terminal_size().columns - 1 - less
    texts = [_GAP.join(filter(None, parts)) for parts in rows]
    return next((text for text in texts if len(text) <= width), texts[-1])
