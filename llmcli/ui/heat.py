"""How hot was each token of an answer: its text on coloured ground, or above bars where there is no colour."""

import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal

from llmcli.engine.trace import TokenTrace
from llmcli.ui.console import is_terminal, wants_colour
from llmcli.ui.markdown.cells import Runs, cells, fold, paint, wrap
from llmcli.ui.output import put, put_drawn
from llmcli.ui.safe import safe
from llmcli.ui.sparkline import STEPS, levels
from llmcli.ui.units import plural

Measure = Literal["temperature", "p", "entropy"]
_NAMES = {"temperature": "temperature", "p": "probability", "entropy": "entropy in nats"}
# From cold to hot, out of the 256 colours: blue over pale to red, which colour-blind eyes part too, under black ink.
_LOOKS = [f"38;5;16;48;5;{ground}" for ground in (67, 110, 152, 230, 222, 216, 209, 167)]
_FAINT, _UNDERLINED = "2", ";4"
_TAB = "    "


def put_heat(tokens: Sequence[TokenTrace], by: Measure) -> None:
    """Print the answer as `heat_rows` draws it for the terminal there is, or for a file.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    width, terminal = max(shutil.get_terminal_size().columns - 1, 1), is_terminal(sys.stdout)
    unicode = not terminal or _has_bars(sys.stdout.encoding)
    rows = heat_rows(tokens, by, width, terminal and wants_colour(sys.stdout), unicode)
    (put_drawn if terminal else put)("".join(f"{row}\n" for row in rows))


def heat_rows(tokens: Sequence[TokenTrace], by: Measure, width: int, colour: bool, unicode: bool) -> list[str]:
    """Painted rows of at most `width` columns (7 or more), safe to draw: the reasoning, the answer, and a legend.

    Where two tokens of one colour meet within a word, one of them is underlined. Without colour a bar (a digit where
    `unicode` is not wanted) stands below the first sign of each token, and dots below the others.
    """
    said = [token for token in tokens if token.text]
    values: list[float | None] = [getattr(token, by) for token in said]
    known = [value for value in values if value is not None]
    scale = _scale(by, known)
    steps = [None if value is None else max(bisect_right(scale, value) - 1, 0) for value in values]
    rows = _reasoning_rows(tokens, width, colour)
    looks = _looks(said, steps, by) if colour else [""] * len(said)
    for line in _lines(said, steps, unicode):
        for row in fold(line, width):
            rows.append(_painted(row, said, looks))
            bars = "" if colour else _bars(row, said, steps, unicode)
            rows += [bars] if bars else []
    return [*rows, "", *_legend(by, known, scale, width, colour, unicode)] if said else rows


def _scale(by: Measure, known: Sequence[float]) -> list[float]:
    """Where each step begins: a probability has all of 0 to 1, the others go up to the highest, or to 1.

    Entropies lie close to 0 with a few far off, so their steps grow with the square.
    """
    top = 1.0 if by == "p" else max([1.0, *known])
    return [top * (at / STEPS) ** (2 if by == "entropy" else 1) for at in range(STEPS)]


def _reasoning_rows(tokens: Sequence[TokenTrace], width: int, colour: bool) -> list[str]:
    """The reasoning under a title, and a free row; nothing where there is none."""
    text = safe("".join(token.reasoning for token in tokens)).replace("\t", _TAB).strip("\n")
    if not text:
        return []
    faint = _FAINT if colour else ""
    inside = wrap([(faint, text)], max(width - 2, 1))
    return [paint([(faint, "thinking")]), *(paint([(faint, "  "), *row]) for row in inside), ""]


def _lines(said: Sequence[TokenTrace], steps: Sequence[int | None], unicode: bool) -> Iterator[Runs]:
    """The lines of the answer, the look of each run the place of its token; a line feed that was drawn has a sign."""
    line: Runs = []
    for index, token in enumerate(said):
        ended = "" if steps[index] is None else "↵" if unicode else "\\n"
        *full, last = safe(token.text).replace("\t", _TAB).split("\n")
        for part in full:
            yield [*line, (str(index), part + ended)]
            line = []
        line += [(str(index), last)] if last else []
    if line:
        yield line


def _looks(said: Sequence[TokenTrace], steps: Sequence[int | None], by: Measure) -> list[str]:
    """The colours of each token: an unlikely one is as hot as one of a high temperature."""
    looks: list[str] = []
    for index, now in enumerate(steps):
        ground = "" if now is None else _LOOKS[STEPS - 1 - now if by == "p" else now]
        before = looks[-1] if looks else ""
        joined = index and not said[index - 1].text[-1:].isspace() and not said[index].text[:1].isspace()
        looks.append(ground + _UNDERLINED if ground and joined and before == ground else ground)
    return looks


def _painted(row: Runs, said: Sequence[TokenTrace], looks: Sequence[str]) -> str:
    """The row in colour; the blanks before a word keep the terminal's ground, so that words stand apart."""
    runs: Runs = []
    for index, text in row:
        blanks = _blanks(text, said[int(index)])
        runs += [("", text[:blanks]), (looks[int(index)] if text[blanks:] else "", text[blanks:])]
    return paint(runs)


def _bars(row: Runs, said: Sequence[TokenTrace], steps: Sequence[int | None], unicode: bool) -> str:
    """The row of bars below a row of text."""
    signs, goes_on = levels(unicode), "·" if unicode else "."
    bars = ""
    for index, text in row:
        now, blanks = steps[int(index)], _blanks(text, said[int(index)])
        size = cells(text) - blanks
        bars += " " * blanks + (signs[now] + goes_on * (size - 1) if now is not None and size else " " * size)
    return bars.rstrip()


def _blanks(text: str, token: TokenTrace) -> int:
    """How many blanks stand before the word in this part of a token; those of a token without a word count as one."""
    return 0 if token.text.isspace() else len(text) - len(text.lstrip(" "))


def _legend(
    by: Measure, known: Sequence[float], scale: Sequence[float], width: int, colour: bool, unicode: bool
) -> list[str]:
    """What is measured, its lowest, mean and highest value, and from which value on each step is."""
    if not known:
        return [paint(row) for row in wrap([("", f"{_NAMES[by]}: this trace has none")], width)]
    low, mean, high = (_number(value) for value in (min(known), sum(known) / len(known), max(known)))
    facts = f"{_NAMES[by]}: min {low}, mean {mean}, max {high} over {plural(len(known), 'token')}"
    numbers = [_number(value) for value in scale]
    looks = (_LOOKS[::-1] if by == "p" else _LOOKS) if colour else [""] * STEPS
    signs = zip(levels(unicode), numbers, strict=True)
    texts = [f" {number} " if colour else f"{sign} {number}  " for sign, number in signs]
    size = max(map(len, texts))
    beside = next((many for many in (STEPS, STEPS // 2, STEPS // 4) if many * size <= width), 1)
    drawn = [(look, text.ljust(size)) for look, text in zip(looks, texts, strict=True)]
    ends = ("red (0)", "blue (1)") if by == "p" else ("blue (low)", "red (high)")
    notes = f"color = {_NAMES[by]}, from {ends[0]} to {ends[1]}" if colour else "a bar stands below each token"
    return [
        *(paint(row) for row in wrap([("", facts)], width)),
        *(paint(drawn[at : at + beside]).rstrip() for at in range(0, STEPS, beside)),
        *(paint(row) for row in wrap([(_FAINT if colour else "", notes)], width)),
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.3g}"


def _has_bars(encoding: str | None) -> bool:
    """Whether a terminal of this encoding can be written bars."""
    try:
        "▁█·↵".encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
