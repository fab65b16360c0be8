"""What changes in place: a progress line, a spinner, download bars, and views that are drawn again and again."""

import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from llmcli.text import format_duration, plural, sanitize
from llmcli.ui.terminal.cells import cells, fit, painted, visible
from llmcli.ui.terminal.console import can_redraw, console, encodable, wants_color

_PATIENCE = 0.3  # seconds; shorter work shows nothing
_TICK = 0.1  # seconds between two texts of a line or two frames of the spinner
_REDRAW = 1 / 60  # seconds between two drawings of a view, the first of which waits for nothing
_SHARE = 40  # a drawing is followed by a pause this many times its own time
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows the text between them at once
_BATCH_NOTE = 10.0  # seconds between two notes about a batch
_NOTE = 5.0  # seconds between two lines about a download where there are no bars
_MB = 10**6  # bytes, as in `format_size`
_WINDOW = 100  # ticks; the speed of a download is that of the last ones
_BAR, _NARROW = 16, 60  # columns: of a bar, and of a window that has no space for one
_FACTS = 20  # columns beside a name: the share, and the time that is left

Write = Callable[[str], None]  # of text with color and cursor sequences
Size = Callable[[], tuple[int, int]]  # columns and rows of the window
Clock = Callable[[], float]  # seconds


class ProgressLine:
    """A line on stderr; nothing for short work, and nothing at all where stderr is not a terminal."""

    def __init__(self) -> None:
        self._on = can_redraw(sys.stderr) and not console.quiet
        self._next = monotonic() + _PATIENCE
        self._shown = False

    def update(self, text: str) -> None:
        if not self._on or monotonic() < self._next:
            return
        self._next = monotonic() + _TICK
        self._shown = True
        console.write(f"\r\x1b[K{sanitize(text)}")

    def loading(self, share: float) -> None:
        self.update(f"loading the model {share:.0%}")

    def reading(self, done: int, total: int) -> None:
        self.update(f"reading the prompt {done / max(total, 1):.0%}")

    def identifying(self, done: int, total: int) -> None:
        self.update(f"computing the sha256 of the model {done / max(total, 1):.0%}")

    def clear(self) -> None:
        """Erase the line; cheap when there is none."""
        if self._shown:
            self._shown = False
            console.write("\r\x1b[K")


class BatchProgress:
    """How far a batch is: a line on a terminal, elsewhere a note every ten seconds."""

    def __init__(self, total: int | None, clock: Clock = monotonic) -> None:
        """`total` is the number of lines, if it is known."""
        self._live, self._total, self._clock = can_redraw(sys.stderr), total, clock
        self._start = clock()
        self._next = self._start + (_PATIENCE if self._live else _BATCH_NOTE)
        self._shown = False

    def update(self, done: int, earlier: int, failed: int, n_tokens: int) -> None:
        """`done` lines are written, `earlier` of them by another run; so many tokens are generated."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (_TICK if self._live else _BATCH_NOTE)
        facts = self._facts(done, earlier, failed, n_tokens, now - self._start)
        if not self._live:
            console.note(", ".join(facts))
        elif not console.quiet:
            room = shutil.get_terminal_size().columns - 1
            while len(facts) > 1 and len(", ".join(facts)) > room:
                facts.pop()
            self._shown = True
            console.write(f"\r\x1b[K{', '.join(facts)[:room]}")

    def _facts(self, done: int, earlier: int, failed: int, n_tokens: int, seconds: float) -> list[str]:
        lines = f"{done} of {self._total} lines" if self._total and done <= self._total else plural(done, "line")
        speed = f"{n_tokens / seconds:.0f} tokens/s" if n_tokens else f"{(done - earlier) / seconds:.1f} lines/s"
        facts = [lines, speed]  # a decision generates no tokens
        if self._total and earlier < done <= self._total:
            facts.append(f"{format_duration((self._total - done) * seconds / (done - earlier))} left")
        return [*facts, f"{failed} failed"] if failed else facts

    def clear(self) -> None:
        """Erase the line; cheap when there is none."""
        if self._shown:
            self._shown = False
            console.write("\r\x1b[K")


class Spinner:
    """Within its block it calls `show(text)` from a thread while `text` is set; after `end` nothing more is shown."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.text = ""
        self._show = show
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.end()

    def _run(self) -> None:
        self._ended.wait(_PATIENCE)
        while not self._ended.is_set():
            if self.text:
                self._show(self.text)
            self._ended.wait(_TICK)

    def end(self) -> bool:
        """Stop; False if it has been stopped before."""
        if self._ended.is_set():
            return False
        self._ended.set()
        self._thread.join()
        return True


class Downloads:
    """A context manager; `bar(name)` gives a function that takes (bytes so far, bytes in all)."""

    def __init__(self) -> None:
        self._live = can_redraw(sys.stderr) and not console.quiet
        self._region = LiveRegion(console.write)
        self._bars: list[_Download] = []
        self._next = 0.0
        self._lock = threading.Lock()  # each connection may call from a thread of its own

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._draw(finished=True)

    def bar(self, name: str) -> Callable[[int, int], None]:
        """The progress function of one file; without a terminal it prints a line every five seconds."""
        download = _Download(sanitize(name))
        next_line, is_open = 0.0, False  # is_open: the last line was not that of the end

        def update(done: int, total: int) -> None:
            nonlocal next_line, is_open
            with self._lock:
                now = monotonic()
                download.update(done, total, now)
                if not self._live:
                    if now >= next_line or (done >= total and is_open):
                        next_line, is_open = now + _NOTE, done < total
                        console.note(f"{download.name}: {', '.join(reversed(download.facts()))}")
                    return
                if download not in self._bars:
                    self._bars.append(download)
                if now >= self._next or done >= total:
                    self._next = now + _TICK
                    self._draw()

        return update

    def say(self, text: str) -> None:
        """Print a note above the bars."""
        if not self._bars:
            console.note(text)
            return
        with self._lock:
            self._draw([painted(sanitize(text), "2" if wants_color(sys.stderr) else "")])

    def _draw(self, above: Sequence[str] = (), finished: bool = False) -> None:
        columns, rows = shutil.get_terminal_size()
        longest = max((cells(bar.name) for bar in self._bars), default=0)
        bars = [bar.row(columns - 1, longest) for bar in self._bars]
        final, tail = (bars, []) if finished else ([], bars[1 - rows :])  # of many files the oldest are complete
        self._region.draw([*above, *final], tail, (columns, rows))
        if finished:
            self._bars = []


class _Download:
    def __init__(self, name: str) -> None:
        self.name = name
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._done = self._total = 0
        self._now = 0.0

    def update(self, done: int, total: int, now: float) -> None:
        if not self._samples or now - self._samples[-1][0] >= _TICK:
            self._samples.append((now, done))
        self._done, self._total, self._now = done, total, now

    def facts(self) -> list[str]:
        """After the first moments the time that is left and the speed; and the sizes."""
        start, first = self._samples[0]
        sizes = f"{self._done / _MB:.0f} of {self._total / _MB:.0f} MB"
        if self._now - start < _PATIENCE or self._done <= first:
            return [sizes]
        speed = (self._done - first) / (self._now - start)
        left = (self._total - self._done) / speed
        time = f"{format_duration(left)} left" if round(left) else "done"
        return [time, f"{speed / _MB:.1f} MB/s", sizes]

    def row(self, width: int, column: int) -> str:
        """Name in so many columns, bar, share, and as many of the facts as fit beside them."""
        share = min(self._done / max(self._total, 1), 1.0)
        bar, room = "", width
        if width >= _NARROW:
            done, color = round(_BAR * share), wants_color(sys.stderr)
            full, rest = ("━", "━" if color else "─") if encodable("━─", sys.stderr) == "━─" else ("=", "-")
            bar = painted(full * done, "36" if color else "") + painted(rest * (_BAR - done), "2" if color else "")
            bar, room = f"  {bar}", width - len("  ") - _BAR
        column = min(column, max(room - _FACTS, room // 2, 1))
        text = f"  {share:>4.0%}"
        for fact in self.facts():
            if column + len(text) + len("  ") + len(fact) > room:
                break
            text += f"  {fact}"
        name = self.name[: fit(self.name, 0, column)]
        return f"{name}{' ' * (column - cells(name))}{bar}{text}"


class LiveView:
    """A view that streams: the rows that are final are written once, the rest is drawn again below them.

    Nothing else may write to the terminal between its first drawing and its last one. The final rows depend on the text
    alone; the moments of the drawings depend on the clock.
    """

    def __init__(self, write: Write, size: Size, faint: str, clock: Clock) -> None:
        self._size = size
        self._clock = clock
        self._faint = faint
        self._region = LiveRegion(write)
        self._due = 0.0  # when it is drawn again

    def _rows(self, height: int, width: int) -> tuple[list[str], list[str]]:
        """The rows that have become final, and those that can still change."""
        raise NotImplementedError

    def _is_due(self) -> bool:
        return self._clock() >= self._due

    def _draw(self) -> None:
        started = self._clock()
        size, width = self._measure()
        self._region.draw(*self._rows(size[1], width), size)
        now = self._clock()
        self._due = now + max(_REDRAW, _SHARE * (now - started))

    def _draw_spinner(self, text: str, below: Sequence[str] = ()) -> None:
        """Draw what happens before there is any text."""
        size, width = self._measure()
        frame = _FRAMES[int(self._clock() / _TICK) % len(_FRAMES)]
        rows = [self._faint_row(f"{frame} {' '.join(sanitize(text).split())}", width)] if text else []
        self._region.draw([], [*rows, *below], size)
        self._due = self._clock() + _REDRAW

    def _faint_row(self, text: str, width: int) -> str:
        return painted(text[: fit(text, 0, width)], self._faint)

    def _measure(self) -> tuple[tuple[int, int], int]:
        """The window, and the width of the text: the last column stays free for the cursor."""
        columns, rows = self._size()
        columns = max(columns, 1)
        return (columns, max(rows, 1)), max(columns - 1, 1)


class LiveRegion:
    """Keeps the cursor behind the last row of the tail, or at the start of a new line without a tail."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._rows: list[str] = []
        self._size = (0, 0)

    def draw(self, done: list[str], tail: list[str], size: tuple[int, int]) -> None:
        """Write the finished rows `done` where the tail began, and the new `tail` below; equal rows are kept."""
        old, new = self._rows, done + tail
        same = 0
        if size[0] == self._size[0]:
            while same < min(len(old), len(new)) and old[same] == new[same]:
                same += 1
        if new and same == len(new) < len(old):
            same -= 1  # the cursor belongs behind the last row
        if same < len(old):
            # Back to the start of the first row that is different. A window that became narrower has wrapped the rows:
            # they are erased, so that a terminal that joins wrapped rows when it grows does not join the new ones.
            columns, height = size
            up = min(sum(max(1, -(-visible(row) // columns)) for row in old[same:]), height) - 1
            erase = "\x1b[2K \x1b[J\r" if columns != self._size[0] else ""
            *rows, last = new[same:] or [""]
            out = (f"\x1b[{up}A" if up else "") + "\r" + erase + "".join(f"{row}\x1b[K\r\n" for row in rows)
            # The screen is never erased from its first cell on: tmux takes that for a clear, and keeps a copy of it.
            out += f"{last}\x1b[J" if last else " \x1b[J\r"
        else:
            out = ("\r\n" if old and new[same:] else "") + "\r\n".join(new[same:])
        out += "\r\n" if new and not tail else ""
        self._rows, self._size = tail, size
        if out:
            self._write(f"{_BEGIN}{out}{_END}")
