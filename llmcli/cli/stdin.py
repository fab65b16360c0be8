"""What a command reads from stdin."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase, TextIOWrapper
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from llmcli.errors import DiskError, UsageError
from llmcli.files import byte_order_mark, decode_text, read_at_most, text_reading
from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import console, is_terminal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PATIENCE = 3.0  # seconds without input on stdin before a note says that the program waits
_END = "; end it with Ctrl-D"


def reads_stdin(settings: Settings, no_stdin: bool, other: str = "") -> bool:
    """Whether stdin, if no terminal, is added to the prompt. `other` is an option beside the settings that reads it.

    Raises UsageError if two options read stdin, or one does although it is forbidden.
    """
    from llmcli.inference.request import stdin_options

    readers = [*stdin_options(settings), *filter(None, [other])]
    if len(readers) > 1:
        raise UsageError(f"stdin can be read only once, and two options read it: {' and '.join(readers)}", "use a file")
    if no_stdin and readers:
        raise UsageError(f"--no-stdin and {readers[0]} (stdin) cannot be used together", "remove one of them")
    return not no_stdin and not readers and not is_terminal(sys.stdin)


def read_prompt(settings: Settings) -> str:
    """All of stdin as a part of the prompt; warns if it is probably the input of a shell loop."""
    from llmcli.inference.request import stdin_options

    added = bool(settings.prompt or settings.file) and not stdin_options(settings)
    if added and sys.stdin and _is_half_read(sys.stdin):
        console.warn(
            "the rest of stdin becomes part of this prompt: in a shell loop, this is the input of the loop",
            "add --no-stdin to keep stdin for the loop, or `-f -` to read it without this warning",
            always=True,
        )
    hint = ", which is added to the prompt; use --no-stdin to ignore it" if added else _END
    return read_stdin(hint, settings.encoding)


def _is_half_read(stream: TextIO) -> bool:
    """Whether this is a regular file of which another program has read the beginning."""
    try:
        descriptor = stream.fileno()
        about = os.fstat(descriptor)
        return stat.S_ISREG(about.st_mode) and 0 < os.lseek(descriptor, 0, os.SEEK_CUR) < about.st_size
    except (OSError, ValueError):
        return False


def read_stdin(hint: str = _END, encoding: str = "utf-8") -> str:
    """All of stdin as text; without input, a note with `hint` says that the program waits. Raises DiskError."""
    read = text_reading.stdin or _read_bytes
    return decode_text(read(hint), "stdin", encoding)


@contextmanager
def stdin_as_file() -> Iterator[None]:
    """Within this block a file name such as `-` means stdin, which is read once and is the same for all variants."""
    kept: list[bytes] = []

    def read(hint: str = _END) -> bytes:
        if not kept:
            kept.append(_read_bytes(hint))
        return kept[0]

    text_reading.stdin = read
    try:
        yield
    finally:
        text_reading.stdin = None


class _Utf8Lines(RawIOBase):
    """Stdin in another encoding, whose lines are read as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = TextIOWrapper(stream, encoding, errors="replace", newline="\n")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """For `read`: a character has at most four bytes."""
        view = memoryview(buffer)
        data = self.readline(len(view) // 4)
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._text.readline(-1 if size is None else size).encode("utf-8", "replace")


def stdin_lines(encoding: str) -> BinaryIO:
    """Stdin, of which lines of UTF-8 are read, whatever its encoding is."""
    stream = sys.stdin.buffer
    if isinstance(stream, BufferedReader) and not is_terminal(sys.stdin):
        _, encoding = byte_order_mark(stream.peek(4), encoding)
    return stream if encoding == "utf-8" else cast(BinaryIO, _Utf8Lines(stream, encoding))


def _read_bytes(hint: str) -> bytes:
    if sys.stdin is None:
        return b""
    note = threading.Timer(_PATIENCE, console.note, [f"waiting for stdin{hint}"])
    note.daemon = True
    note.start()
    try:
        with _read_errors():
            return read_at_most(sys.stdin.buffer, "stdin", "give less text")
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
