"""A comparison: the answers side by side while they stream, then their statistics and errors."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

from llmcli.errors import DiskError
from llmcli.params.settings import ResolvedSettings, Settings, ineffective_settings
from llmcli.text import plural, sanitize
from llmcli.ui.markdown.splitter import Block, Splitter
from llmcli.ui.terminal.cells import painted, visible, wrap
from llmcli.ui.terminal.console import console, wants_color
from llmcli.ui.terminal.output import print_drawn, print_line, print_rows, to_stderr
from llmcli.ui.terminal.progress import Clock, LiveView, Size, Write

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer
    from llmcli.inference.comparison import Comparison
    from llmcli.ui.markdown.render import Renderer

_NARROWEST = 28  # minimum columns of an answer
_BAR, _CROSS, _RULE = " │ ", "─┼─", "─"
_HEADS = ("N", "VARIANT", "TOKENS", "WORDS", "DISTINCT-1", "DISTINCT-2", "DISTINCT-3", "MEAN P", "REPEATED", "END")
_SPARE = ("WORDS", "DISTINCT-3", "DISTINCT-1", "VARIANT", "END")  # omitted in a narrow window, the first one first
_LEGEND = (
    "DISTINCT-n: share of n-token sequences that are different; MEAN P: mean probability of the tokens; "
    "REPEATED: share of 4-token sequences that occurred before"
)


class Column:
    """The rows of an answer that are not written yet, drawn as in the chat; reasoning and raw text stay plain."""

    def __init__(self, label: str, renderer: "Renderer", is_raw: bool = False) -> None:
        self.label = label
        self.ended = False
        self._renderer, self._is_raw = renderer, is_raw
        self._splitter = Splitter()
        self._kind = ""  # of the last piece
        self._plain = ""  # the last line of plain text, and the blank lines after it
        self._undrawn: list[Block] = []  # final; a column that waits does not know its width
        self._drawn: list[str] = []  # their rows

    def add(self, kind: str, text: str) -> None:
        """Add a piece of the "answer" or of the reasoning ("think")."""
        text = sanitize(text)
        if not self._kind:
            text = text.lstrip()
        if not text:
            return
        if self._kind == "think" and kind != "think":
            self._end_plain()
            self._plain = "\n"
        self._kind = kind
        if kind != "think" and not self._is_raw:
            self._undrawn += self._splitter.feed(text)
            return
        self._plain += text.replace("\t", "    ")
        # A line is final when text follows it: blank lines at the end are not drawn.
        lines = self._plain.rstrip().split("\n")[:-1]
        self._undrawn += map(self._block, lines)
        self._plain = self._plain[sum(len(line) + 1 for line in lines) :]

    def end(self) -> None:
        """End the answer: all its rows are final."""
        self._end_plain()
        self._undrawn += self._splitter.finish()
        self.ended = True

    def final(self, width: int) -> int:
        """How many of the remaining rows cannot change any more."""
        self._drawn += self._renderer.rows(self._undrawn, width)
        self._undrawn = []
        return len(self._drawn)

    def rows(self, width: int) -> list[str]:
        """The remaining rows."""
        plain = [self._block(self._plain)] if self._plain.strip() else []
        return [*self._drawn, *self._renderer.preview([*plain, *self._splitter.tail()], width)]

    def take(self, count: int) -> list[str]:
        """Remove and return the first `count` rows."""
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        return taken

    def _block(self, line: str) -> Block:
        return Block("plain", line.rstrip(), gap=False, level=self._kind == "think")

    def _end_plain(self) -> None:
        self._undrawn += [self._block(self._plain)] if self._plain.strip() else []
        self._plain = ""


class CompareView(LiveView):
    """Shows the answers under their labels, from the first call to `finish`.

    They are in bands of columns. A row of a band is final when all its answers have passed it; the bands below wait
    until the band ends.
    """

    def __init__(
        self, write: Write, size: Size, columns: Sequence[Column], color: bool, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(write, size, "2" if color else "", clock)
        self._strong = "1" if color else ""
        self._columns = columns
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
        self._columns[index].end()
        self._draw()

    def finish(self) -> None:
        """Draw the rest; the cursor is at the start of a new line afterwards."""
        if not self._count:
            self._region.draw([], [], self._measure()[0])
            return
        for column in self._columns:
            column.end()
        self._draw()

    def _rows(self, height: int, width: int) -> tuple[list[str], list[str]]:
        done: list[str] = []
        while self._first < len(self._columns):
            if not self._count:
                done += self._start_band(width)
            size, band = self._answer_width(width), self._columns[self._first : self._first + self._count]
            final = [column.final(size) for column in band]
            unfinished = [n_rows for n_rows, column in zip(final, band, strict=True) if not column.ended]
            count = min(unfinished) if unfinished else max(final)
            done += _side_by_side([column.take(count) for column in band], size)
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
        band = enumerate(self._columns[self._first : self._first + self._count], self._first + 1)
        heads = [wrap(f"{number}. {sanitize(column.label)}", size) for number, column in band]
        rows = _side_by_side([[painted(row, self._strong) for row in head] for head in heads], size)
        return [*rows, _CROSS.join([_RULE * size] * self._count)]

    def _tail(self, band: Sequence[Column], size: int, tallest: int) -> list[str]:
        """The rows that can still change; of a column that is far ahead of another, the last ones."""
        more = len(self._columns) - self._first - self._count
        hint = [painted(f"… {more} more below", self._faint)] if more and tallest > 1 else []
        rows = _side_by_side([column.rows(size)[-(tallest - len(hint)) :] for column in band], size)
        return [*(rows or [""]), *hint]

    def _answer_width(self, width: int) -> int:
        return max((width - len(_BAR) * (self._count - 1)) // self._count, 1)


def _side_by_side(columns: Sequence[Sequence[str]], width: int) -> list[str]:
    rows = zip_longest(*columns, fillvalue="")
    return [_BAR.join(row + " " * (width - visible(row)) for row in line).rstrip() for line in rows]


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
    for answer in comparison.answers:
        print_line(f"== {answer.request.label} ==")
        if think and answer.reasoning:
            console.think(answer.reasoning + "\n\n")
        print_line(answer.text.rstrip("\n"))


def print_summary(comparison: "Comparison", live: bool) -> None:
    """Print the statistics and the speed of all together: to the terminal below the answers, else to stderr."""
    ignored = () if live else (DiskError,)  # stderr may be closed
    if live or not console.quiet:
        with to_stderr(not live), suppress(*ignored):
            print_line("")
            rows = [_figures(number, one) for number, one in enumerate(comparison.answers, 1)]
            right = [head for head in _HEADS if head not in ("VARIANT", "END")]
            print_rows(_HEADS, rows, right=right, spare=_SPARE)
    console.note(_LEGEND)
    timings = [answer.record.timings for answer in comparison.answers]
    generated, read = sum(t.predicted_n for t in timings), sum(t.prompt_n for t in timings)
    seconds = comparison.seconds
    speed = f" in {seconds:.1f} s, {generated / seconds:.0f} tokens/s" if seconds else ""
    total = f"{plural(len(timings), 'answer')}, {plural(generated, 'token')}"
    console.note(f"{total}{speed}; {plural(read, 'prompt token')} evaluated")


def _figures(number: int, answer: "Answer") -> Sequence[str]:
    from llmcli.inference.comparison import statistics_of

    s = statistics_of(answer)
    shares = (s.distinct_1, s.distinct_2, s.distinct_3, s.mean_p, s.repetition)
    texts = ("-" if share is None else f"{share:.2f}" for share in shares)
    return str(number), answer.request.label, str(s.tokens), str(s.words), *texts, answer.finish_reason


def print_errors(comparison: "Comparison") -> None:
    """Print the errors of answers that failed."""
    for answer in comparison.answers:
        if failure := answer.record.failure:
            console.error(f"{answer.request.label}: {failure}", failure.hint)


def view_of(comparison: "Comparison", settings: Settings) -> CompareView:
    """A view of its answers on the terminal of stdout, in the theme of the settings."""
    from llmcli.ui.markdown.render import Renderer  # slow to import, and a pipe does without
    from llmcli.ui.markdown.theme import theme_of

    color, theme = wants_color(sys.stdout), theme_of(settings.theme)
    columns = []
    for answer in comparison.answers:
        is_raw = answer.settings.raw or not settings.markdown
        columns.append(Column(answer.request.label, Renderer(theme, color), is_raw))
    return CompareView(print_drawn, shutil.get_terminal_size, columns, color)


def run(comparison: "Comparison", view: CompareView | None, think: bool, first: Callable[[], object]) -> None:
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
