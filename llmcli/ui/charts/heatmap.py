"""A heatmap of an answer: the text of each token on a color, or above bars on a terminal without colors."""

import math
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from llmcli.engine.events import Measure, TokenTrace
from llmcli.text import plural, sanitize
from llmcli.ui.terminal.cells import cells, folds, painted, wrap
from llmcli.ui.terminal.console import encodable, is_terminal, wants_color
from llmcli.ui.terminal.output import print_drawn, print_text, stream

_NAMES = {"temperature": "temperature", "p": "probability", "entropy": "entropy in nats", "drafted": "drafted"}
# From low to high, of the 256 colors: blue, pale, red under black text, which color-blind people can distinguish too.
_LOOKS = [f"38;5;16;48;5;{ground}" for ground in (67, 110, 152, 230, 222, 216, 209, 167)]
_FAINT, _UNDERLINED = "2", ";4"
_TAB = "    "
_BARS, _DIGITS = "▁▂▃▄▅▆▇█", "12345678"
_STEPS = len(_BARS)

_Line = list[tuple[int, str]]  # texts with the index of their token


def print_heat(tokens: Sequence[TokenTrace], by: Measure) -> None:
    """Print the answer as `heat_rows` draws it, for a terminal or a file."""
    out = stream()
    width, terminal = max(shutil.get_terminal_size().columns - 1, 1), is_terminal(out)
    unicode = not terminal or encodable("▁█·↵", out) == "▁█·↵"
    rows = heat_rows(tokens, by, width, terminal and wants_color(out), unicode)
    (print_drawn if terminal else print_text)("".join(f"{row}\n" for row in rows))


def heat_rows(tokens: Sequence[TokenTrace], by: Measure, width: int, color: bool, unicode: bool) -> list[str]:
    """Rows of at most `width` columns (7 or more), safe to draw: the reasoning, the answer, and a legend.

    Where two tokens of one color meet within a word, one of them is underlined. Without color, a bar (without
    `unicode` a digit) is below the first character of each token, and dots are below the others.
    """
    signs, dot, newline = (_BARS, "·", "↵") if unicode else (_DIGITS, ".", "\\n")
    shown = [token for token in tokens if token.text]
    values: list[float | None] = [getattr(token, by) for token in shown]
    known = [value for value in values if value is not None]
    top = 1.0 if by == "p" else max([1.0, *known])
    # Most entropies are close to 0 and a few are far off, so their steps grow with the square.
    scale = [top * (at / _STEPS) ** (2 if by == "entropy" else 1) for at in range(_STEPS)]  # the start of each step
    steps = [None if value is None else max(bisect_right(scale, value) - 1, 0) for value in values]
    looks = _looks(shown, steps, by) if color else [""] * len(shown)
    faint, rows = _FAINT if color else "", list[str]()
    if reasoning := sanitize("".join(token.reasoning for token in tokens)).replace("\t", _TAB).strip("\n"):
        inside = wrap(reasoning, max(width - 2, 1))
        rows = [painted("thinking", faint), *(painted(f"  {row}", faint) for row in inside), ""]
    for line in _lines(shown, steps, newline):
        for row in _folded(line, width):
            words, bars = _drawn(row, shown, steps, looks, signs + dot)
            rows += [words] if color or not bars else [words, bars]
    return [*rows, "", *_legend(by, known, scale, width, color, signs)] if shown else rows


def _lines(shown: Sequence[TokenTrace], steps: Sequence[int | None], newline: str) -> Iterator[_Line]:
    """The lines of the answer; each text has the index of its token, and newlines of tokens are visible."""
    line: _Line = []
    for index, token in enumerate(shown):
        *full, last = sanitize(token.text).replace("\t", _TAB).split("\n")
        for part in full:
            yield [*line, (index, part + ("" if steps[index] is None else newline))]
            line = []
        line += [(index, last)] if last else []
    if line:
        yield line


def _looks(shown: Sequence[TokenTrace], steps: Sequence[int | None], by: Measure) -> list[str]:
    """The colors of each token: a low probability has the color of a high temperature."""
    looks: list[str] = []
    for index, step in enumerate(steps):
        ground = "" if step is None else _LOOKS[_STEPS - 1 - step if by == "p" else step]
        before = looks[-1] if looks else ""
        joined = index and not shown[index - 1].text[-1:].isspace() and not shown[index].text[:1].isspace()
        looks.append(ground + _UNDERLINED if ground and joined and before == ground else ground)
    return looks


def _folded(line: _Line, width: int) -> Iterator[_Line]:
    """The rows of a line, each of them in parts of its tokens."""
    starts = list(accumulate((len(text) for _, text in line), initial=0))
    for start, end in folds("".join(text for _, text in line), width):
        within = slice(bisect_right(starts, start) - 1, bisect_left(starts, end))
        parts = zip(starts[within], line[within], strict=False)
        yield [(index, text[max(start - at, 0) : end - at]) for at, (index, text) in parts]


def _drawn(
    row: _Line, shown: Sequence[TokenTrace], steps: Sequence[int | None], looks: Sequence[str], signs: str
) -> tuple[str, str]:
    """The words and the bars of a row; the blanks before a word have neither color nor bar: words are separate."""
    words = bars = ""
    for index, text in row:
        step = steps[index]
        word = text if shown[index].text.isspace() else text.lstrip(" ")
        blanks, size = text[: len(text) - len(word)], cells(word)
        words += blanks + painted(word, looks[index])
        bars += blanks + (" " * size if step is None or not size else signs[step] + signs[-1] * (size - 1))
    return words, bars.rstrip()


def _legend(
    by: Measure, known: Sequence[float], scale: Sequence[float], width: int, color: bool, signs: str
) -> list[str]:
    """The measure, its minimum, mean and maximum, and the value at which each step starts."""
    if not known:
        return wrap(f"{_NAMES[by]}: this trace has no values", width)
    if by == "drafted":
        kinds = zip(
            (_LOOKS[0], _LOOKS[-1]), signs[:: _STEPS - 1], ("drawn alone", "accepted from a draft"), strict=True
        )
        marks = [painted(f" {name} ", look) if color else f"{sign} {name}" for look, sign, name in kinds]
        return [*wrap(f"{sum(known):.0f} of {plural(len(known), 'token')} accepted from a draft", width), *marks]
    low, mean, high = (_number(value) for value in (min(known), sum(known) / len(known), max(known)))
    facts = f"{_NAMES[by]}: min {low}, mean {mean}, max {high} over {plural(len(known), 'token')}"
    numbers = [_number(value) for value in scale]
    looks = _LOOKS[::-1] if by == "p" else _LOOKS
    texts = [f" {n} " if color else f"{sign} {n}  " for sign, n in zip(signs, numbers, strict=True)]
    size = max(map(len, texts))
    beside = next((many for many in (_STEPS, _STEPS // 2, _STEPS // 4) if many * size <= width), 1)
    drawn = [painted(text.ljust(size), look if color else "") for look, text in zip(looks, texts, strict=True)]
    note = f"each bar is the {_NAMES[by]} of the token above it"
    if color:
        order = "red (low) to blue (high)" if by == "p" else "blue (low) to red (high)"
        note = f"color: {_NAMES[by]} from {order}; an underline separates tokens of the same color"
    steps = ["".join(drawn[at : at + beside]).rstrip() for at in range(0, _STEPS, beside)]
    return [*wrap(facts, width), *steps, *(painted(row, _FAINT if color else "") for row in wrap(note, width))]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.3g}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """At most `width` characters, scaled from the minimum to the maximum; a longer series is drawn by its means.

    None, and a number that is not finite, is a gap. A series that does not change is drawn at mid height.
    """
    width = min(width, len(values))
    means: list[float | None] = []  # of parts of nearly equal size
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        numbers = [value for value in part if value is not None and math.isfinite(value)]
        means.append(sum(numbers) / len(numbers) if numbers else None)
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    # A range within the rounding of the means of equal numbers does not count.
    span = high - low if high - low > 1e-9 * max(abs(low), abs(high)) else 0.0
    line = ""
    for mean in means:
        level = int((mean - low) / span * _STEPS) if mean is not None and span else _STEPS // 2 - 1
        line += " " if mean is None else _BARS[min(level, _STEPS - 1)]
    return line
