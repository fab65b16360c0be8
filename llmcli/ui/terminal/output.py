"""The only way to stdout: verbatim UTF-8 into a pipe or file, safe text onto a terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from llmcli.errors import DiskError, ReaderGoneError
from llmcli.ui.terminal.console import is_terminal
from llmcli.ui.terminal.sanitize import safe

_aside = False


@contextmanager
def aside(wanted: bool) -> Iterator[None]:
    """Within this block all goes to stderr, if wanted: the output of a chat command is not an answer of the model."""
    global _aside
    before, _aside = _aside, wanted
    try:
        yield
    finally:
        _aside = before


def stream() -> TextIO:
    """The stream that output goes to now."""
    return sys.stderr if _aside else sys.stdout


def put(text: str, style: str = "") -> None:
    """Write `text` at once; `style` (the numbers of an SGR sequence) counts on a terminal only.

    Raises:
        DiskError: when stdout is closed or full.
        ReaderGoneError: when the reader of a pipe has gone.
    """
    out = stream()
    if out is None:
        raise DiskError("stdout is closed", "leave it open, or redirect it to a file")
    try:
        if is_terminal(out):
            encoding = out.encoding or "utf-8"
            text = safe(text).encode(encoding, "replace").decode(encoding)
            out.write(f"\x1b[{style}m{text}\x1b[0m" if style else text)
            out.flush()
        else:
            _write_all(out, text.encode("utf-8", "replace"))
    except BrokenPipeError:
        raise ReaderGoneError("the reader of stdout has closed it") from None
    except OSError as error:
        raise DiskError(f"cannot write to stdout: {error.strerror}") from None


def put_drawn(text: str) -> None:
    """Write text to a terminal that is safe already, with colors and cursor movements of llmcli.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    try:
        out = stream()
        encoding = out.encoding or "utf-8"
        out.write(text.encode(encoding, "replace").decode(encoding))
        out.flush()
    except BrokenPipeError:
        raise ReaderGoneError("the reader of stdout has closed it") from None
    except OSError as error:
        raise DiskError(f"cannot write to the terminal: {error.strerror}") from None


def put_line(text: str, style: str = "") -> None:
    """Write a line."""
    put(text + "\n" if not style else text, style)
    if style:
        put("\n")


def put_table(rows: list[tuple[str, str]]) -> None:
    """Write pairs, the second column aligned."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        put_line(f"{name:<{width}}  {value}")


def _write_all(out: TextIO, data: bytes) -> None:
    """Write past the buffer of Python, which would try again at exit, after the error message."""
    out.flush()
    descriptor = out.fileno()
    while data:
        data = data[os.write(descriptor, data) :]
