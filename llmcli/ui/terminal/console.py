"""Messages on stderr: errors, warnings and notes, one line each."""

import os
import sys
from contextlib import suppress
from typing import TextIO

from llmcli.text import sanitize

_RED, _YELLOW, _DIM, _BOLD, _OFF = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


def wants_color(stream: TextIO | None) -> bool:
    """In this order: NO_COLOR, FORCE_COLOR, TERM=dumb, then whether the stream is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE"):
        return True
    return can_redraw(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def can_redraw(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal on which the cursor can be moved."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def encodable(text: str, stream: TextIO) -> str:
    """`text`, with a question mark in place of each character that the encoding of the stream does not have."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def wrapped(text: str, indent: int = 0) -> str:
    """`text` wrapped between words for the terminal of stderr; unchanged elsewhere, where a message is one line."""
    if not is_terminal(sys.stderr):
        return text
    import shutil

    columns = shutil.get_terminal_size().columns
    if len(text) + indent <= columns:
        return text
    import textwrap

    lines = textwrap.wrap(" " * indent + text, columns, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)[indent:]


class Console:
    """Errors, warnings and notes; `quiet` silences all but errors, `verbose` adds detail."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.engine_log = False  # -vv: llama.cpp's log too
        self.debug = bool(os.environ.get("LLMCLI_DEBUG"))

    def error(self, message: str, hint: str = "") -> None:
        self._print("error: ", _RED + _BOLD, message, hint)

    def warn(self, message: str, hint: str = "", always: bool = False) -> None:
        """A warning; `always` prints it in spite of `quiet`: what it warns of would make the output wrong."""
        if always or not self.quiet:
            self._print("warning: ", _YELLOW, message, hint)

    def note(self, message: str) -> None:
        if not self.quiet:
            self._print("", _DIM, message)

    def detail(self, message: str) -> None:
        if self.verbose:
            self._print("", _DIM, message)

    def think(self, text: str) -> None:
        """Reasoning of the model, as it streams."""
        if self.quiet:
            return
        text = sanitize(text) if is_terminal(sys.stderr) else text
        self.write(f"{_DIM}{text}{_OFF}" if wants_color(sys.stderr) else text)

    def _print(self, label: str, style: str, text: str, hint: str = "") -> None:
        text = wrapped(sanitize(" ".join(text.split("\n"))), len(label))
        if wants_color(sys.stderr):
            label, text = (f"{style}{label}{_OFF}", text) if label else ("", f"{style}{text}{_OFF}")
        self.write(f"{label}{text}\n")
        if hint:
            self._print("  hint: ", _BOLD, hint)

    def write(self, text: str) -> None:
        """Write to stderr at once; a stderr that is closed does not stop the work."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(encodable(text, sys.stderr))
            sys.stderr.flush()


console = Console()
