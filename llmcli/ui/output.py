"""The only way to stdout: verbatim UTF-8 into a pipe or file, safe text onto a terminal."""

import os
import sys

from llmcli.errors import DiskError, ReaderGoneError
from llmcli.ui.console import is_terminal
from llmcli.ui.safe import safe


def put(text: str, style: str = "") -> None:
    """Write `text` at once; `style` (the numbers of an SGR sequence) counts on a terminal only.

    Raises:
        DiskError: when stdout is closed or full.
        ReaderGoneError: when the reader of a pipe has gone.
    """
    if sys.stdout is None:
        raise DiskError("stdout is closed", "leave it open, or redirect it to a file")
    try:
        if is_terminal(sys.stdout):
            encoding = sys.stdout.encoding or "utf-8"
            text = safe(text).encode(encoding, "replace").decode(encoding)
            sys.stdout.write(f"\x1b[{style}m{text}\x1b[0m" if style else text)
            sys.stdout.flush()
        else:
            _write_all(text.encode("utf-8", "replace"))
    except BrokenPipeError:
        raise ReaderGoneError("nobody reads stdout any more") from None
    except OSError as error:
        raise DiskError(f"cannot write to stdout: {error.strerror}") from None


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


def _write_all(data: bytes) -> None:
    """Past Python's buffer, which would try again at exit, after the error has been told."""
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]
