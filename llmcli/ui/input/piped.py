'''The input of a chat without a terminal: a message on each line, or in a block between lines of """.'''

from collections.abc import Callable
from itertools import chain
from typing import BinaryIO

from llmcli.errors import UsageError
from llmcli.files import decode_bytes
from llmcli.text import BLOCK_MARK, block_body, closes_block, is_open_block, opens_block
from llmcli.ui.terminal.console import console

MOST = 16 << 20  # bytes of one message


class LineReader:
    """Reads messages from a pipe, a file or a terminal without cursor movements, in place of `TerminalReader`."""

    multiline = False

    def __init__(self, stream: BinaryIO, marker: Callable[[], None] | None = None) -> None:
        """`marker` shows a user at a terminal that a message can be typed; there `\\` at the end continues a line."""
        self._stream, self._marker = stream, marker
        self.is_block = False  # whether the last message was in a block: then it is not a command
        self._size = 0  # bytes of the current message

    def read(self, default: str = "") -> str:  # noqa: ARG002 - a stream has no input line
        """The next message that is not blank; EOFError at the end, UsageError if it is too long (the next may fit)."""
        text = ""
        while not text.strip():
            if self._marker:
                self._marker()
            text = block_body(whole := self._message())
            self.is_block = whole.startswith(BLOCK_MARK)
            if is_open_block(whole):
                console.warn(f"the block at the end of the input is not closed: its last line must be {BLOCK_MARK}")
        return text

    def refresh(self) -> None:
        """Do nothing: a pipe has no status line."""

    def _message(self) -> str:
        self._size = 0
        first = self._line()
        if first is None:
            raise EOFError
        is_block, continues, kept = opens_block(first), self._marker is not None, []
        for number, line in enumerate(chain([first], iter(self._line, None))):
            if self._size <= MOST:
                kept.append(line.removesuffix("\\") if continues and not is_block else line)
            is_last = number > 0 and closes_block(first, line) if is_block else not (continues and line.endswith("\\"))
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
        return decode_bytes(data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r"), "stdin")
