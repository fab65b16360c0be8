"""An answer on a terminal while it streams: finished blocks are written once, the rest is drawn again below."""

import time
from collections.abc import Callable

from llmcli.text import plural, sanitize
from llmcli.ui.markdown.code import color_code, style_of
from llmcli.ui.markdown.render import Renderer, parser
from llmcli.ui.markdown.splitter import Splitter
from llmcli.ui.terminal.cells import Runs, cells, folds, styled, wrap
from llmcli.ui.terminal.progress import LiveRegion

_TALLEST = 12  # rows of the tail
_ROWS_WITH_FOOT = 4  # a lower window has none for a foot
_ROWS_WITH_GAP = 10  # a lower window has none for a blank row above the foot
_INTERVAL = 1 / 30
_SHARE = 40  # a redraw is followed by a pause this many times its own time
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ROWS = 3
_KEPT = 2000  # characters; of twice as many the older half is dropped


def preload() -> None:
    """Import what the first word of an answer needs; safe in a thread."""
    parser().parse("a\n\n- b\n")
    cells("é")
    color_code("x = 1", "python", style_of("dark", True))


class AnswerView:
    """Shows one answer; nothing else may write to the terminal between its first call and `finish`.

    The finished rows depend on the text alone; the moments when the tail is drawn depend on the clock.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        size: Callable[[], tuple[int, int]],
        style: str,
        color: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = size
        self._clock = clock
        self._style = style_of(style, color)
        self._region = LiveRegion(write)
        self._splitter = Splitter()
        self._renderer = Renderer(self._style)
        self._inbox: list[str] = []
        self._due = 0.0
        self._answering = False
        self._thinking: ReasoningFold | None = None
        self._doing = ""
        self._foot: Callable[[], str] | None = None

    def status(self, text: str) -> None:
        """Show what is happening, in one line that the first text replaces; later, draw what is due."""
        if self._clock() < self._due:
            return
        if self._thinking or self._answering:
            self._draw()
            return
        self._doing = " ".join(sanitize(text).split())
        self._wait()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Show a row below all that is drawn from now on (`now`: at once). `finish` removes it.

        `row` is called at each drawing.
        """
        self._foot = row
        if not now:
            return
        if self._thinking or self._answering:
            self._draw()
        else:
            self._wait()

    def think(self, text: str) -> None:
        """Add to the reasoning."""
        if self._answering:
            self._commit()
        if self._thinking is None:
            self._thinking = ReasoningFold(self._clock())
            self._due = 0.0
        self._thinking.add(sanitize(text))
        if self._clock() >= self._due:
            self._draw()

    def push(self, text: str) -> None:
        """Add to the answer."""
        if not text:
            return
        if not self._answering:
            self._begin()
        self._inbox.append(text)
        if self._clock() >= self._due:
            self._draw()

    def resume(self, text: str) -> None:
        """Continue an answer whose `text` is on the screen; only its unfinished last block is drawn again."""
        _, width = self._measure()
        self._renderer.rows(self._splitter.feed(sanitize(text)), width)
        self._renderer.join()
        self._answering = True
        self._draw()

    def finish(self) -> None:
        """Write the rest; the cursor is at the start of a new line afterwards."""
        self._foot = None
        if self._thinking:
            self._begin()
        self._commit()

    def _wait(self) -> None:
        """Draw the spinner."""
        size, width = self._measure()
        spinner = _SPINNER[int(self._clock() * 10) % len(_SPINNER)]
        tail = [self._faint_row(f"{spinner} {self._doing}", width)] if self._doing else []
        self._region.draw([], [*tail, *self._below(size, width)], size)
        self._due = self._clock() + _INTERVAL

    def _below(self, size: tuple[int, int], width: int) -> list[str]:
        """The foot, where the window has a row for it."""
        if not self._foot or size[1] < _ROWS_WITH_FOOT:
            return []
        return [self._faint_row(sanitize(self._foot()), width)]

    def _faint_row(self, text: str, width: int) -> str:
        start, end = folds(text, width)[0]
        return styled([(self._style.faint, text[start:end])])

    def _begin(self) -> None:
        """Fold the reasoning, because the answer begins."""
        self._answering = True
        self._due = 0.0
        if self._thinking is None:
            return
        size, width = self._measure()
        summary = [(self._style.faint, self._thinking.summary(self._clock()))]
        self._thinking = None
        self._region.draw([*self._renderer.apart(), *map(styled, wrap(summary, width))], [], size)

    def _commit(self) -> None:
        """Write the answer so far as if it ended here."""
        size, width = self._measure()
        blocks = self._splitter.feed(self._text()) + self._splitter.finish()
        self._region.draw(self._renderer.rows(blocks, width), [], size)
        self._answering = False

    def _draw(self) -> None:
        started = self._clock()
        size, width = self._measure()
        below = self._below(size, width)
        if below and size[1] >= _ROWS_WITH_GAP:  # without colors nothing else tells the foot from the answer
            below = ["", *below]
        tallest = max(1, min(size[1] - 2, _TALLEST) - len(below))
        if self._thinking:
            done: list[str] = []
            title, *last = self._thinking.rows(width)
            tail = [
                styled([(self._style.faint, text) for _, text in row]) for row in [title, *last[-max(1, tallest - 1) :]]
            ]
        else:
            done = self._renderer.rows(self._splitter.feed(self._text()), width)
            tail = self._renderer.preview(self._splitter.tail(), width)
        self._region.draw(done, [*tail[-tallest:], *below], size)
        now = self._clock()
        self._due = now + max(_INTERVAL, _SHARE * (now - started))

    def _text(self) -> str:
        text = sanitize("".join(self._inbox))
        self._inbox.clear()
        return text

    def _measure(self) -> tuple[tuple[int, int], int]:
        """The window, and the width of the text: the last column stays free for the cursor."""
        columns, rows = self._size()
        columns = max(columns, 1)
        return (columns, max(rows, 1)), max(columns - 1, 1)


class ReasoningFold:
    """Counts the words and keeps the end of the text."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._text = ""
        self._words = 0
        self._within = False

    def add(self, text: str) -> None:
        if not text:
            return
        self._words += len(text.split()) - (self._within and not text[0].isspace())
        self._within = not text[-1].isspace()
        self._text += text
        if len(self._text) > 2 * _KEPT:
            half = self._text[-_KEPT:]
            self._text = half[half.find(" ") + 1 :]

    def rows(self, width: int) -> list[Runs]:
        """The last rows of the text, under a title."""
        text = " ".join(self._text.split())
        last = wrap([("", text)], width)[-_ROWS:] if text else []
        return [[("", "thinking")], *last]

    def summary(self, now: float) -> str:
        return f"thought for {max(0.0, now - self._started):.1f} s · {plural(self._words, 'word')}"
