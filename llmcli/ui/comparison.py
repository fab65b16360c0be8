"""A comparison: the answers side by side while they stream, then their statistics and errors."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

from llmcli.errors import DiskError
from llmcli.params.settings import ResolvedSettings, ineffective_settings
from llmcli.text import plural, sanitize
from llmcli.ui.terminal.cells import Runs, cells, line_breaks, slice_cells, styled, unstyled, wrap
from llmcli.ui.terminal.console import console, wants_color
from llmcli.ui.terminal.output import print_drawn, print_line, print_rows, to_stderr
from llmcli.ui.terminal.progress import LiveView

if TYPE_CHECKING:
    from llmcli.inference.comparison import CompareResult, Comparison

_NARROWEST = 28  # minimum columns of an answer
_BAR, _CROSS, _RULE = " │ ", "─┼─", "─"
_HEADS = ("N", "VARIANT", "TOKENS", "WORDS", "DISTINCT-1", "DISTINCT-2", "DISTINCT-3", "MEAN P", "REPEATED", "END")
_SPARE = ("WORDS", "DISTINCT-3", "DISTINCT-1", "VARIANT", "END")  # omitted in a narrow window, the first one first
_LEGEND = (
    "DISTINCT-n: share of n-token sequences that are different; MEAN P: mean probability of the tokens; "
    "REPEATED: share of 4-token sequences that occurred before"
)


class Column:
    """The part of an answer that is not final yet; reasoning has the look `faint`."""

    def __init__(self, faint: str) -> None:
        self._faint = faint
        self._runs: Runs = []
        self._is_reasoning = False
        self._started = False
        self.ended = False

    def add(self, kind: str, text: str) -> None:
        """Add a piece of the "answer" or of the reasoning ("think")."""
        text = sanitize(text).replace("\t", "    ")
        if not self._started:
            text = text.lstrip()
        if not text:
            return
        if self._started and self._is_reasoning and kind != "think":
            text = "\n\n" + text
        self._started, self._is_reasoning = True, kind == "think"
        self._runs.append((self._faint if self._is_reasoning else "", text))

    def rows(self, width: int) -> list[Runs]:
        """The remaining text in rows of at most `width` columns; until the answer ends, the last one may change."""
        return slice_cells(self._runs, self._spans(width))

    def certain(self, width: int) -> int:
        """How many of the rows cannot change any more."""
        n_rows = len(self._spans(width))
        return n_rows if self.ended else max(n_rows - 1, 0)

    def take(self, count: int, width: int) -> list[Runs]:
        """Remove and return the first `count` rows."""
        rows, spans, end = self.rows(width), self._spans(width), len(unstyled(self._runs))
        start = spans[count][0] if count < len(spans) else end
        (self._runs,) = slice_cells(self._runs, [(start, end)])
        return rows[:count]

    def _spans(self, width: int) -> list[tuple[int, int]]:
        text = unstyled(self._runs)
        return line_breaks(text.rstrip() if self.ended else text, width) if text else []


class CompareView(LiveView):
    """Shows the answers under their labels, from the first call to `finish`.

    They are in bands of columns. A row of a band is final when all its answers have passed it; the bands below wait
    until the band ends.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        size: Callable[[], tuple[int, int]],
        labels: Sequence[str],
        color: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(write, size, "2" if color else "", clock)
        self._strong = "1" if color else ""
        self._labels = [f"{number}. {sanitize(label)}" for number, label in enumerate(labels, 1)]
        self._columns = [Column(self._faint) for _ in labels]
        self._first = 0  # of the current band
        self._count = 0  # its columns; 0 before it starts

    def status(self, text: str) -> None:
        """Show in one line what is happening, until the first text."""
        if not self._count and self._is_due():
            self._draw_spinner(text)

    def push(self, index: int, kind: str, text: str) -> None:
        """Add a piece to answer `index`, from 0."""
        self._columns[index].add(kind, text)
        if not self._count or self._is_due():
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

    def _rows(self, height: int, width: int) -> tuple[list[str], list[str]]:
        done: list[str] = []
        while self._first < len(self._columns):
            if not self._count:
                done += self._start_band(width)
            size, band = self._answer_width(width), self._columns[self._first : self._first + self._count]
            unfinished = [column.certain(size) for column in band if not column.ended]
            count = min(unfinished) if unfinished else max(column.certain(size) for column in band)
            done += _side_by_side([column.take(count, size) for column in band], size)
            if unfinished:
                return done, self._tail(band, size, max(1, height - 2))
            self._first, self._count = self._first + self._count, 0
            done += [""] * (self._first < len(self._columns))
        self._count = 1  # something was drawn
        return done, []

    def _start_band(self, width: int) -> list[str]:
        """The headings of a new band: as many columns as fit, spread evenly over the bands."""
        left = len(self._columns) - self._first
        fitting = max((width + len(_BAR)) // (_NARROWEST + len(_BAR)), 1)
        self._count = -(-left // -(-left // fitting))
        size = self._answer_width(width)
        heads = self._labels[self._first : self._first + self._count]
        rows = _side_by_side([wrap([(self._strong, head)], size) for head in heads], size)
        return [*rows, _CROSS.join([_RULE * size] * self._count)]

    def _tail(self, band: Sequence[Column], size: int, tallest: int) -> list[str]:
        """The rows that can still change; of a column that is far ahead of another, the last ones."""
        more = len(self._columns) - self._first - self._count
        hint = [styled([(self._faint, f"… {more} more below")])] if more and tallest > 1 else []
        rows = _side_by_side([column.rows(size)[-(tallest - len(hint)) :] for column in band], size)
        return [*(rows or [""]), *hint]

    def _answer_width(self, width: int) -> int:
        return max((width - len(_BAR) * (self._count - 1)) // self._count, 1)


def _side_by_side(columns: Sequence[Sequence[Runs]], width: int) -> list[str]:
    """The rows of columns that are `width` wide, side by side."""
    empty: Runs = []
    rows = zip_longest(*columns, fillvalue=empty)
    return [_BAR.join(styled(row) + " " * (width - cells(unstyled(row))) for row in line).rstrip() for line in rows]


def warn_ineffective(answers: Sequence[tuple[str, ResolvedSettings]]) -> None:
    """Warn of settings without effect, with the labels of the answers where it is not all of them."""
    labels_of: dict[tuple[str, str], list[str]] = {}
    for label, resolved in answers:
        for key, reason in ineffective_settings(resolved.settings, resolved.origins).items():
            labels_of.setdefault((key, reason), []).append(label)
    for (key, reason), labels in labels_of.items():
        where = "" if len(labels) == len(answers) else f" in {', '.join(labels)}"
        console.warn(f"{key} has no effect{where}: {reason}")


def print_texts(comparison: "Comparison", think: bool) -> None:
    """Print the answers to stdout, each under its label; with `think`, before each its reasoning to stderr."""
    for one in comparison.results:
        print_line(f"== {one.variant.label} ==")
        if think and one.answer.reasoning:
            console.think(one.answer.reasoning + "\n\n")
        print_line(one.answer.text.rstrip("\n"))


def print_summary(comparison: "Comparison", live: bool) -> None:
    """Print the statistics and the speed of all together: to the terminal below the answers, else to stderr."""
    ignored = () if live else (DiskError,)  # stderr may be closed
    if live or not console.quiet:
        with to_stderr(not live), suppress(*ignored):
            print_line("")
            rows = [_figures(number, one) for number, one in enumerate(comparison.results, 1)]
            right = [head for head in _HEADS if head not in ("VARIANT", "END")]
            print_rows(_HEADS, rows, right=right, spare=_SPARE)
    console.note(_LEGEND)
    timings = [one.answer.record.timings for one in comparison.results]
    generated, read = sum(t.predicted_n for t in timings), sum(t.prompt_n for t in timings)
    seconds = comparison.seconds
    speed = f" in {seconds:.1f} s, {generated / seconds:.0f} tokens/s" if seconds else ""
    total = f"{plural(len(timings), 'answer')}, {plural(generated, 'token')}"
    console.note(f"{total}{speed}; {plural(read, 'prompt token')} evaluated")


def _figures(number: int, result: "CompareResult") -> Sequence[str]:
    s = result.statistics
    shares = (s.distinct_1, s.distinct_2, s.distinct_3, s.mean_p, s.repetition)
    texts = ("-" if share is None else f"{share:.2f}" for share in shares)
    return str(number), result.variant.label, str(s.tokens), str(s.words), *texts, result.answer.finish_reason


def print_errors(comparison: "Comparison") -> None:
    """Print the errors of answers that failed."""
    for one in comparison.results:
        if one.failure:
            console.error(f"{one.variant.label}: {one.failure}", one.failure.hint)


def view_of(comparison: "Comparison") -> CompareView:
    """A view of its answers on the terminal of stdout."""
    labels = [one.variant.label for one in comparison.results]
    return CompareView(print_drawn, shutil.get_terminal_size, labels, wants_color(sys.stdout))


def run(
    comparison: "Comparison", view: CompareView | None, think: bool, first: Callable[[], object] = lambda: None
) -> None:
    """Generate and draw the answers; `first` is called before anything is drawn, more than once."""
    from llmcli.inference.comparison import END

    try:
        with closing(comparison.parts()) as parts:
            for index, kind, text in parts:
                first()
                if view and kind == END:
                    view.end(index)
                elif view and (think or kind == "answer"):
                    view.push(index, kind, text)
    finally:
        first()
        if view:
            view.finish()
