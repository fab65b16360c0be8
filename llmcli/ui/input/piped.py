'''The input of a chat without a terminal: a message on each line, or in a block between lines of """.'''

import re
from collections.abc import Callable
from itertools import chain
from typing import BinaryIO

from llmcli.errors import UsageError

MOST = 16 << 20  # bytes of one message
MARK = '"""'
_COMMAND = re.compile(r'/[A-Za-z?][\w?-]*[ \t]+(?=""")')  # the argument of a command may be a block too


class LineReader:
    """Reads messages from a pipe, a file or a terminal without cursor movements, in place of `TerminalReader`."""

    multiline = False

    def __init__(self, stream: BinaryIO, marker: Callable[[], None] = lambda: None) -> None:
        self._stream = stream
        self._marker = marker
        self._size = 0  # bytes of the current message

    def read(self, default: str = "") -> str:  # noqa: ARG002 - a stream has no input line
        """The next message that is not blank; EOFError at the end, UsageError if it is too long (the next may fit)."""
        while True:
            self._marker()
            text = body(self._message())
            if text.strip():
                return text

    def refresh(self) -> None:
        """Do nothing: a pipe has no status line."""

    def _message(self) -> str:
        self._size = 0
        first = self._line()
        if first is None:
            raise EOFError
        is_block, kept = opens(first), []
        for number, line in enumerate(chain([first], iter(self._line, None))):
            if self._size <= MOST:
                kept.append(line if is_block else line.removesuffix("\\"))
            is_last = number > 0 and closes(first, line) if is_block else not line.endswith("\\")
            if is_last:
                break
        if self._size > MOST:
            raise UsageError(
                f"skipped a message: it must have at most {MOST >> 20} MiB", "split it into several messages"
            )
        return "\n".join(kept)

    def _line(self) -> str | None:
        """The next line without its end, None after the last one; the start of a line that is too long."""
        data = rest = self._stream.readline(MOST)
        self._size += len(rest)
        while len(rest) == MOST and not rest.endswith(b"\n"):
            rest = self._stream.readline(MOST)
            self._size += len(rest)
        if not data:
            return None
        return data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def opens(first: str) -> bool:
    """Whether this first line of a message begins a block that continues in the next line."""
    line = _split_command(first)[1].rstrip()
    return line.startswith(MARK) and not (line.endswith(MARK) and len(line) >= 2 * len(MARK))


def closes(first: str, line: str) -> bool:
    """Whether `line` ends the block that `first` opened.

    A mark on a line of its own is closed on a line of its own, so that code with docstrings can be in the block; a mark
    with text behind it is closed at the end of any line.
    """
    line = line.rstrip()
    return line == MARK if _split_command(first)[1].rstrip() == MARK else line.endswith(MARK)


def is_open(text: str) -> bool:
    """Whether the message is a block that has not been closed."""
    first, _, rest = text.partition("\n")
    return opens(first) and not closes(first, rest.rstrip().rpartition("\n")[2])


def body(text: str) -> str:
    """The message without its marks; one that is not a block is unchanged."""
    command, block = _split_command(text)
    if not block.startswith(MARK):
        return text
    inner = block.removeprefix(MARK) if is_open(text) else block.rstrip().removeprefix(MARK).removesuffix(MARK)
    head, newline, rest = inner.partition("\n")
    return command + (inner if head.strip() or not newline else rest).removesuffix("\n")


def _split_command(text: str) -> tuple[str, str]:
    """The command before a block ("" where there is none), and the rest."""
    found = _COMMAND.match(text)
    return (found[0], text[found.end() :]) if found else ("", text)
