"""The input line on a real terminal: what is drawn, what stays, and what signals leave behind."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from select import select
from time import monotonic

import pytest

from tests.screen import Screen
from tests.waiting import Patience

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")
pytestmark = [
    pytest.mark.terminal,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal"),
]
DRIVER = Path(__file__).with_name("driver.py")
ROOT = Path(__file__).parents[3]


class Terminal:
    """The driver in a window of its own."""

    def __init__(self, folder: Path, columns: int, rows: int, hint: str = "") -> None:
        env = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.child = pexpect.spawn(
            sys.executable,
            [str(DRIVER), str(folder / "history.jsonl"), hint],
            dimensions=(rows, columns),
            env=env,
        )
        self.child.delaybeforesend = None
        self.raw = b""
        self._screen = Screen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self._screen)

    def send(self, text: str) -> None:
        """Press keys: a terminal takes some of them at a time while nobody reads it."""
        data = text.encode()
        while data:
            self.read(0)
            data = data[os.write(self.child.child_fd, data) :]

    def read(self, seconds: float = 0.05) -> bool:
        """Draw the new output, or what comes within so many seconds; False at the end."""
        if not select([self.child.child_fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.child.child_fd, 1 << 16)
        except OSError:
            return False
        if not data:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def rows(self) -> list[str]:
        """The scrollback and the screen, down to the last row that is not empty."""
        above = [self._screen.row(row) for row in self._screen.history.top]
        return "\n".join(row.rstrip() for row in [*above, *self._screen.display]).rstrip().split("\n")

    def cursor(self) -> tuple[int, int]:
        """Row and column."""
        return self._screen.cursor.y, self._screen.cursor.x

    def until(self, shown: Callable[[list[str]], bool]) -> list[str]:
        patience = Patience()
        while not shown(rows := self.rows()):
            assert not patience.is_over(), "\n".join(rows)
            assert self.read(), "\n".join(rows)
        return rows

    def until_ends_with(self, *last: str) -> list[str]:
        return self.until(lambda rows: rows[-len(last) :] == list(last))

    def until_the_end(self) -> int:
        while self.read():
            pass
        self.child.wait()
        status: int = self.child.exitstatus
        return status


def test_the_prompt_works_at_eighty_columns(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80, 24)
    terminal.until_ends_with(">", "the status")
    terminal.send("hello\nworld\r")
    rows = terminal.until_ends_with("<'hello\\nworld'>", ">", "the status")
    assert rows == ["> hello", "  world", "<'hello\\nworld'>", ">", "the status"]  # without the status of the first
    terminal.send("/se")
    terminal.until_ends_with("> /se", "      /set    what it does", "      /seed   what it does")
    terminal.send("\t\r")
    terminal.until_ends_with("> /set", "the status")
    terminal.send("\x03\x03")
    terminal.until_ends_with(">", "Ctrl-D or /exit ends the chat")
    terminal.send("\x04")
    assert terminal.until_the_end() == 0
    assert terminal.rows()[-2:] == [">", "the end"]
    assert b"\x1b[6n" not in terminal.raw  # asks the terminal nothing
    assert b"\x1b]" not in terminal.raw
    assert b"\x1b[?1000h" not in terminal.raw


def test_the_prompt_works_in_a_tiny_window(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 20, 5)
    terminal.until_ends_with(">")
    terminal.send("a message that is longer than the whole window, 你好 included, by more than a few words")
    terminal.until(lambda rows: rows[-1].endswith("words") and len(rows) == 5)
    terminal.send("\r")
    rows = terminal.until(lambda rows: rows[-1] == ">" and "<" in "".join(rows))
    text = "".join(rows).replace(" ", "")
    assert text.count("amessagethatislongerthanthewholewindow,你好included,bym") == 2  # typed, and read
    terminal.send("/")
    terminal.until(lambda rows: rows[-3:-2] == ["> /"] and "/seed" in rows[-1])


def test_a_hint_is_in_the_line_while_the_line_is_empty(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80, 24, "Ask anything")
    terminal.until_ends_with("> Ask anything", "the status")
    assert terminal.cursor() == (0, 2)
    terminal.send("x")
    terminal.until_ends_with("> x", "the status")
    terminal.send("\x7f")
    terminal.until_ends_with("> Ask anything", "the status")
    terminal.send("hi\r")
    terminal.until_ends_with("> hi", "<'hi'>", "> Ask anything", "the status")
    terminal.send("\x12")  # Ctrl-R: the keys go to the search
    terminal.until(lambda rows: "search" in rows[-2] and rows[-3] == ">")
    terminal.send("\x03\x04")
    assert terminal.until_the_end() == 0
    assert terminal.rows()[-2:] == [">", "the end"]


def test_a_long_message_is_whole_in_the_scrollback(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80, 8)
    terminal.until_ends_with(">", "the status")
    lines = [f"line {number}" for number in range(30)]
    terminal.send("\x1b[200~" + "\r".join(lines) + "\x1b[201~")
    terminal.until(lambda rows: rows[-2:] == ["  line 29", "the status"])
    terminal.send("\r")
    rows = terminal.until(lambda rows: rows[-2:] == [">", "the status"])
    typed = rows[: rows.index("  line 29") + 1]
    assert typed == ["> line 0", *(f"  {line}" for line in lines[1:])]


def test_a_megabyte_pasted_is_a_label_that_is_sent_in_full(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80, 24)
    terminal.until_ends_with(">", "the status")

    def seconds_to_paste(hundreds: int) -> float:
        started = monotonic()
        terminal.send("see \x1b[200~" + "x" * 99 + "\r")
        for _ in range(hundreds):
            terminal.send(("x" * 99 + "\r") * 100)
        terminal.send("\x1b[201~ end")
        terminal.until_ends_with(f"> see [pasted {100 * hundreds + 1:,} lines] end", "the status")
        return monotonic() - started

    for _ in range(5):  # a machine that stops for a moment can disturb each of the two
        tenth = seconds_to_paste(10)
        terminal.send("\x03")
        terminal.until_ends_with(">", "the status")
        ratio = seconds_to_paste(100) / tenth
        if ratio < 200:  # the parser of the prompt searches a paste again with each piece: 40 is usual
            break
        terminal.send("\x03")
        terminal.until_ends_with(">", "the status")
    assert ratio < 200
    terminal.send("\x1b[D" * 4 + "\x7f\r")  # the label goes with one key
    rows = terminal.until_ends_with("<'see  end'>", ">", "the status")
    assert rows[:2] == ["> see  end", "<'see  end'>"]
    assert len(terminal.raw) < 20_000


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("HUP", 129)])
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(tmp_path: Path, name: str, status: int) -> None:
    import signal
    import termios

    terminal = Terminal(tmp_path, 80, 24)
    cooked = termios.tcgetattr(terminal.child.child_fd)
    terminal.until_ends_with(">", "the status")
    terminal.send("half")
    terminal.until_ends_with("> half", "the status")
    assert termios.tcgetattr(terminal.child.child_fd)[3] != cooked[3]
    os.kill(terminal.child.pid, getattr(signal, f"SIG{name}"))
    assert terminal.until_the_end() == status
    assert terminal.rows() == ["> half"]
    assert b"\x1b[?2004l" in terminal.raw


def test_sigint_from_outside_clears_the_line(tmp_path: Path) -> None:
    import signal

    terminal = Terminal(tmp_path, 80, 24)
    terminal.until_ends_with(">", "the status")
    terminal.send("half")
    terminal.until_ends_with("> half", "the status")
    os.kill(terminal.child.pid, signal.SIGINT)
    terminal.until_ends_with(">", "the status")
    terminal.send("\x04")
    assert terminal.until_the_end() == 0
