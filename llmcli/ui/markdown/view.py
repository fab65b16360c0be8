"""An answer on a terminal while it streams: finished blocks are written once, the rest is drawn again below them."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from llmcli.errors import LlmcliError
from llmcli.text import plural, sanitize
from llmcli.ui.markdown.render import Renderer
from llmcli.ui.markdown.splitter import Block, Splitter
from llmcli.ui.markdown.theme import theme_of
from llmcli.ui.terminal.cells import painted, wrap
from llmcli.ui.terminal.progress import Clock, LiveView, Size, Write

_TALLEST, _REASONING_ROWS = 12, 3  # rows that are drawn again
_ROWS_WITH_FOOT, _ROWS_WITH_GAP = 4, 10  # of a window; a lower one has no foot, or no blank row above it
_WINDOW = 2000  # characters of the reasoning; its last rows are those of the last one or two windows


Later = Callable[[float, Callable[[], None]], object]  # seconds, and what to call then


class AnswerView(LiveView):
    """Shows one answer, from the first call to `finish`. Each method may be called from any thread."""

    def __init__(
        self,
        write: Write,
        size: Size,
        theme: str,
        color: bool,
        clock: Clock = time.monotonic,
        shows_reasoning: bool = True,
        later: Later | None = None,
    ) -> None:
        """`later` lets what comes too soon after a drawing be drawn in time; without, the next text does it."""
        super().__init__(write, size, "2" if color else "", clock)
        self._later, self._is_waiting = later, False
        self._splitter = Splitter()
        self._renderer = Renderer(theme_of(theme), color)
        self._undrawn: list[Block] = []  # final
        self._answering = False
        self._reasoning: list[str] = []  # its pieces, until the answer begins
        self._reasoning_began = 0.0
        self._doing = ""
        self._foot: Callable[[], str] | None = None
        self._shows_reasoning = shows_reasoning
        self._finished = False
        self._lock = threading.Lock()

    def status(self, text: str) -> None:
        """Show in one line what is happening, until the first text; later, draw again if it is time."""
        with self._lock:
            if self._is_due():
                self._doing = text
                self._redraw()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Show a row, called at each drawing, below all that is drawn from now on (`now`: at once) until `finish`."""
        with self._lock:
            if self._finished:
                return
            self._foot = row
            if now:
                self._redraw()

    def answer(self, parts: Iterable[tuple[str, str]], so_far: str = "") -> None:
        """Show the parts as they stream; they continue the text `so_far`, which is on the screen already."""
        if so_far:
            self.resume(so_far)
        for kind, text in parts:
            if kind == "answer":
                self.push(text)
            elif self._shows_reasoning:
                self.think(text)

    def think(self, text: str) -> None:
        """Add to the reasoning."""
        with self._lock:
            if self._answering:
                self._commit()
            if not self._reasoning:
                self._reasoning_began = self._clock()
                self._due = 0.0
            self._reasoning.append(sanitize(text))
            self._draw_in_time()

    def push(self, text: str) -> None:
        """Add to the answer."""
        if not text:
            return
        with self._lock:
            if not self._answering:
                self._begin()
            self._undrawn += self._splitter.feed(sanitize(text))
            self._draw_in_time()

    def resume(self, text: str) -> None:
        """Continue an answer whose `text` is on the screen; only its unfinished last block is drawn again."""
        with self._lock:
            _, width = self._measure()
            self._renderer.rows(self._splitter.feed(sanitize(text)), width)
            self._renderer.join()
            self._answering = True
            self._draw()

    def finish(self) -> None:
        """Write the rest; the cursor is at the start of a new line afterwards. Harmless when done twice."""
        with self._lock:
            self._finished = True
            self._foot = None
            if self._reasoning:
                self._begin()
            self._commit()

    def _draw_in_time(self) -> None:
        """Draw now, or when it is time: several tokens can come at once, and then none for a while."""
        if self._is_due():
            self._draw()
        elif self._later and not self._is_waiting:
            self._is_waiting = True
            self._later(self._due - self._clock(), self._draw_rest)

    def _draw_rest(self) -> None:
        with self._lock:
            self._is_waiting = False
            if self._is_due() and not self._finished:  # else a later text has drawn it
                self._redraw()

    def _redraw(self) -> None:
        if self._reasoning or self._answering:
            self._draw()
            return
        size, width = self._measure()
        self._draw_spinner(self._doing, self._below(size[1], width))

    def _below(self, height: int, width: int) -> list[str]:
        """The foot, where the window has a row for it."""
        if not self._foot or height < _ROWS_WITH_FOOT:
            return []
        return [self._faint_row(sanitize(self._foot()), width)]

    def _begin(self) -> None:
        """Fold the reasoning, because the answer begins."""
        self._answering = True
        self._due = 0.0
        if not self._reasoning:
            return
        size, width = self._measure()
        seconds = max(0.0, self._clock() - self._reasoning_began)
        n_words = len("".join(self._reasoning).split())
        summary = wrap(f"thought for {seconds:.1f} s · {plural(n_words, 'word')}", width)
        self._reasoning = []
        self._region.draw([*self._renderer.apart(), *(painted(row, self._faint) for row in summary)], [], size)

    def _commit(self) -> None:
        """Write the answer so far as if it ended here."""
        size, width = self._measure()
        blocks, self._undrawn = self._undrawn + self._splitter.finish(), []
        self._region.draw(self._renderer.rows(blocks, width), [], size)
        self._answering = False

    def _rows(self, height: int, width: int) -> tuple[list[str], list[str]]:
        below = self._below(height, width)
        if below and height >= _ROWS_WITH_GAP:  # without colors nothing else tells the foot from the answer
            below = ["", *below]
        tallest = max(1, min(height - 2, _TALLEST) - len(below))
        if self._reasoning:
            done: list[str] = []
            text = "".join(self._reasoning)
            start = max(len(text) // _WINDOW - 1, 0) * _WINDOW  # which moves rarely: the rows break at the same places
            last = wrap(" ".join(text[start:].split()), width)[-min(_REASONING_ROWS, max(1, tallest - 1)) :]
            tail = [painted(row, self._faint) for row in ("thinking", *last)]
        else:
            done = self._renderer.rows(self._undrawn, width)
            self._undrawn = []
            tail = self._renderer.preview(self._splitter.tail(), width)
        return done, [*tail[-tallest:], *below]


def call_later(seconds: float, call: Callable[[], None]) -> None:
    """Call in a thread after so many seconds; of a terminal that is gone, the next text of the answer tells."""

    def run() -> None:
        with suppress(LlmcliError):
            call()

    timer = threading.Timer(max(seconds, 0.0), run)
    timer.daemon = True
    timer.start()


def preload() -> None:
    """Import the modules that the first word of an answer needs; safe in a thread."""
    splitter = Splitter()
    Renderer(theme_of("dark"), True).rows(splitter.feed("é\n\n- b\n\n```python\nx = 1\n```\n"), 80)
