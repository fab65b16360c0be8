"""The real chat in a pseudo-terminal, with an emulator that shows what a user sees."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from select import select
from typing import Any

import pexpect
import pyte

from llmcli.engine.llama.probe import probe_record
from llmcli.models.notes import record_probed
from tests.models.tiny_models import full_attention
from tests.screen import Screen
from tests.waiting import Patience

ENTER, TAB, ESCAPE, UP, DOWN, BACKSPACE = "\r", "\t", "\x1b", "\x1b[A", "\x1b[B", "\x7f"
CTRL_C, CTRL_D, CTRL_J, CTRL_R, CTRL_X_CTRL_E, CTRL_Z = "\x03", "\x04", "\n", "\x12", "\x18\x05", "\x1a"
CTRL_BACKSLASH = "\x1c"
ALT_ENTER = ESCAPE + ENTER
PROMPT = ">"
HINT = "Ask anything"  # how the gray text in an empty line begins
FOOT = "Ctrl-C stops"  # how the row below a streaming answer begins
GREEDY = ("--temp", "0", "-n", "20", "-c", "1024", "-t", "1")
TINY = ("-m", "tiny.gguf", "-n", "100", "-t", "1")  # its text is noise; a grammar determines it
LEAVE = "Ctrl-D or /exit ends the chat"  # the row below an empty line after Ctrl-C
SYNCHRONIZED = 2026 << 5  # the mode of a terminal between the two ends of a drawing, as pyte keeps it
PATIENCE = 60.0  # seconds; no test asks how fast something is
CHAT = (sys.executable, "-m", "llmcli", "chat")


def pasted(text: str) -> str:
    """What a terminal sends when a text is pasted."""
    return f"\x1b[200~{text}\x1b[201~"


def tiny_home(folder: Path, **answers: str) -> Path:
    """A folder with a tiny model, tried before, and NAME.gbnf for each answer that it can be made to give."""
    folder.mkdir()
    model = full_attention(folder / "tiny.gguf")
    record_probed(Path(os.environ["LLMCLI_HOME"], "data"), [model], probe_record())
    for name, rule in answers.items():
        (folder / f"{name}.gbnf").write_text(f"root ::= {rule}\n")
    return folder


def script(path: Path, body: str) -> Path:
    """A program for a shell."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class ChatScreen(Screen):
    def report_device_status(self, *_mode: int, **_more: Any) -> None:
        raise AssertionError("the chat asks the terminal something, which not every terminal answers")


class Talk:
    """A chat in a window of so many columns and rows. It waits for what is on the screen, never for a time."""

    def __init__(
        self,
        *flags: str,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        command: tuple[str, ...] = CHAT,
    ) -> None:
        surroundings = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        self.child = pexpect.spawn(
            command[0],
            [*command[1:], *flags],
            dimensions=(rows, columns),
            env=surroundings,
            cwd=str(cwd) if cwd else None,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
        )
        self.child.delaybeforesend = None
        self.child.ptyproc.delayafterclose = self.child.ptyproc.delayafterterminate = 0.02
        self.window = ChatScreen(columns, rows, history=20_000, ratio=1)
        self.stream = pyte.ByteStream(self.window)
        self.raw = b""  # everything that was written
        self.over = False

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # What a user does

    def keys(self, *keys: str) -> None:
        """Press keys; nothing is waited for."""
        for key in keys:
            data = key.encode()
            while data:  # a terminal takes 4 kB at a time, and wants to be read meanwhile
                self._pump(0)
                sent = os.write(self.child.child_fd, data[:1024])
                data = data[sent:]

    def type(self, text: str) -> None:
        """Type a short text, and see it in the line."""
        self.keys(text)
        self.until(lambda: self.line().startswith(f"{PROMPT} {text}".rstrip()), f"the typed {text!r}")

    def send(self, text: str) -> None:
        """Type a short text and send it; the chat is at work afterwards, or already done."""
        self.type(text)
        before = self.line()
        self.keys(ENTER)
        self.until(lambda: self.line() != before, f"{text!r} to be taken")

    def ask(self, text: str) -> str:
        """Send a text, wait for the next prompt, and return the rows between the two, without a first blank one."""
        start = self._row()
        self.send(text)
        self.ready()
        return "\n".join([*self.scrollback(), *self.screen()][start + 1 : self._row()]).removeprefix("\n")

    def resize(self, columns: int, rows: int) -> None:
        """Drag the window's corner."""
        self._pump(0)
        self.window.resize(rows, columns)
        self.window.cursor.y = min(self.window.cursor.y, rows - 1)
        self.child.setwinsize(rows, columns)

    def close(self) -> None:
        """Close the window; the program is gone afterwards."""
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
            self.child.wait()
        self.child.close()
        self.over = True

    # What a user sees

    def screen(self) -> list[str]:
        """The rows of the window without trailing blanks."""
        return [row.rstrip() for row in self.window.display]

    def scrollback(self) -> list[str]:
        """The rows that have left the window at its top."""
        return [self.window.row(row).rstrip() for row in self.window.history.top]

    def text(self) -> str:
        """Scrollback and window."""
        return "\n".join([*self.scrollback(), *self.screen()]).rstrip()

    def line(self) -> str:
        """The row with the cursor, without the hint of an empty one."""
        row = self.screen()[self.window.cursor.y]
        hinted = row.startswith(f"{PROMPT} {HINT}") and self.window.cursor.x == len(PROMPT) + 1
        return PROMPT if hinted else row

    def foot(self) -> str:
        """The row below a streaming answer; empty where there is none."""
        return next((row for row in reversed(self.screen()) if row.startswith(FOOT)), "")

    def live_keys(self) -> str:
        """The part of that row about the keys that move the temperature."""
        return next((part for part in self.foot().split(" · ") if part.startswith("↑↓")), "")

    def answer(self, question: str) -> str:
        """The rows below the last row that ends with this question, without the row below the answer and the status."""
        rows = self.text().rpartition(question)[2].split("\n")
        return "\n".join(row for row in rows if not row.startswith(FOOT) and " · temp " not in row)

    def _row(self) -> int:
        """The number of that row from the first one that was ever written."""
        return len(self.window.history.top) + self.window.cursor.y

    def status(self) -> str:
        """The row below the cursor."""
        return (*self.screen(), "")[self.window.cursor.y + 1]

    # Waiting

    def ready(self) -> "Talk":
        """Wait for an empty prompt with its status below; a narrow window has none."""
        narrow = self.window.columns < 30
        self.until(lambda: self.line() == PROMPT and (narrow or " · " in self.status()), "the next prompt")
        return self

    def loaded(self) -> "Talk":
        """Wait until the model is loaded."""
        self.until(lambda: self.line() == PROMPT and "/1" in self.status(), "the model")
        return self

    def wait_for(self, text: str) -> None:
        """Wait until a text can be seen in the window or above it."""
        self.until(lambda: text in self.text(), repr(text))

    def wait_more(self, count: int) -> None:
        """Wait for so many characters that the program writes from now on."""
        self.catch_up()
        before = len(self.text())
        self.until(lambda: len(self.text()) > before + count, "more text")

    def catch_up(self) -> None:
        """Read all that the program has written so far."""
        while self._pump(0):
            pass

    def wait_read(self) -> None:
        """Wait until all keys are read while an answer streams: Ctrl-C would drop those that wait.

        The temperature goes up and down again, which the row below the answer shows.
        """
        for key in (UP, DOWN):
            passed = ("", self.live_keys())
            self.keys(key)
            self.until(partial(self._has_moved, passed), "the row of the keys")

    def _has_moved(self, passed: tuple[str, ...]) -> bool:
        return self.live_keys() not in passed

    def wait_line(self, text: str) -> None:
        """Wait until the row with the cursor ends with a text."""
        self.until(lambda: self.line().endswith(text), f"a line {text!r}")

    def choose(self, key: str, default: str) -> None:
        """Answer a question that is asked outside of the prompt."""
        self.wait_line(f"{default}]")
        self.keys(key, ENTER)
        self.ready()

    def wait_end(self) -> int:
        """Wait until the program has ended; its exit status, or minus the signal that ended it."""
        self.until(lambda: self.over, "the end of the program")
        self.child.wait()
        return int(self.child.exitstatus if self.child.signalstatus is None else -self.child.signalstatus)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Read what the program writes until the condition holds, and no drawing is half-way.

        Raises:
            AssertionError: with the screen, when it ends or takes too long before.
        """
        patience = Patience(PATIENCE)
        while not condition() or (self._is_drawing() and not self.over):
            assert not self.over, f"ended while waiting for {what}:\n{self.text()}"
            assert not patience.is_over(), f"waited in vain for {what}:\n{self.text()}\n{self.window.cursor}"
            self._pump(0.05)

    def _is_drawing(self) -> bool:
        """Whether only the beginning of a drawing has been read: the prompt hides the cursor until the end of each."""
        return self.window.cursor.hidden or SYNCHRONIZED in self.window.mode

    def _pump(self, timeout: float) -> bool:
        """Read what has been written, or comes within so many seconds; False if there is nothing."""
        data = b""
        try:
            data = self.child.read_nonblocking(65536, timeout)
        except pexpect.TIMEOUT:
            return False
        except (pexpect.EOF, OSError):
            self.over = True
            data = self._rest()
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    def _rest(self) -> bytes:
        """What a program that has ended has written last: pexpect may find its end before that text."""
        data, descriptor = b"", self.child.child_fd
        with suppress(OSError):  # the end
            while select([descriptor], [], [], 0)[0] and (part := os.read(descriptor, 65536)):
                data += part
        return data
