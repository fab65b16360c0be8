"""What a command reads from stdin."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from llmcli.errors import DiskError, UsageError
from llmcli.files import decode_text
from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import console, is_terminal

_PATIENCE = 3.0  # seconds without input on stdin before a note says that the program waits
_END = "; end it with Ctrl-D"


def reads_stdin(settings: Settings, no_stdin: bool) -> bool:
    """Whether stdin, if no terminal, is added to the prompt. Raises UsageError if it is asked for and forbidden."""
    if no_stdin and "-" in (settings.prompt, *settings.file):
        raise UsageError("--no-stdin and '-' (stdin) cannot be used together", "remove one of them")
    return not no_stdin and not is_terminal(sys.stdin)


def read_prompt(settings: Settings) -> str:
    """All of stdin as a part of the prompt; warns if it is probably the input of a shell loop."""
    added = bool(settings.prompt or settings.file) and "-" not in (settings.prompt, *settings.file)
    if added and sys.stdin and _is_half_read(sys.stdin):
        console.warn(
            "the rest of stdin becomes part of this prompt: in a shell loop, this is the input of the loop",
            "add --no-stdin to keep stdin for the loop, or `-f -` to read it without this warning",
            always=True,
        )
    return read_stdin(", which is added to the prompt; use --no-stdin to ignore it" if added else _END)


def _is_half_read(stream: TextIO) -> bool:
    """Whether this is a regular file of which another program has read the beginning."""
    try:
        descriptor = stream.fileno()
        about = os.fstat(descriptor)
        return stat.S_ISREG(about.st_mode) and 0 < os.lseek(descriptor, 0, os.SEEK_CUR) < about.st_size
    except (OSError, ValueError):
        return False


def read_stdin(hint: str = _END) -> str:
    """All of stdin as text; without input, a note with `hint` says that the program waits. Raises DiskError."""
    if sys.stdin is None:
        return ""
    note = threading.Timer(_PATIENCE, console.note, [f"waiting for stdin{hint}"])
    note.daemon = True
    note.start()
    try:
        with _read_errors():
            return decode_text(sys.stdin.buffer.read(), "stdin")
    finally:
        note.cancel()


@contextmanager
def piped_stdin(hint: str) -> Iterator[BinaryIO]:
    """The bytes of stdin. Raises UsageError with `hint` if it is a terminal, DiskError if it cannot be read."""
    if sys.stdin is None or is_terminal(sys.stdin):
        raise UsageError("stdin is empty", hint)
    with _read_errors():
        yield sys.stdin.buffer


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot read stdin: {error.strerror}") from None
