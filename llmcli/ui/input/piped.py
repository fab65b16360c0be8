'''A turn per line of a stream, or per block between lines of """: the chat without a terminal.'''

from collections.abc import Callable, Iterator
from typing import BinaryIO

from llmcli.errors import UsageError
from llmcli.ui.prompt.block import body, closes, opens

MOST = 16 << 20  # bytes of one turn


class LineReader:
    """Reads from a pipe, a file or a simple terminal what `TerminalReader` reads from a full one."""

    multiline = False

    def __init__(self, stream: BinaryIO, marker: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self._marker = marker or (lambda: None)
        self._started = False
        self._taken = 0  # bytes of the present turn

    def read(self, default: str = "") -> str:  # noqa: ARG002 - a stream has no input line
        """The next turn that is not blank.

        Raises:
            EOFError: at the end of the stream.
            UsageError: when the turn is too long; the one after it can still be read.
        """
        while True:
            self._marker()
            text = body(self._turn())
            if text.strip():
                return text

    def refresh(self) -> None:
        """There is no status line."""

    def _turn(self) -> str:
        self._taken = 0
        first = self._line()
        if first is None:
            raise EOFError
        kept = []
        for line in self._block(first) if opens(first) else self._joined(first):
            if self._taken <= MOST:
                kept.append(line)
        if self._taken > MOST:
            raise UsageError(
                f"skipped a message: it must have at most {MOST >> 20} MiB", "split it into several messages"
            )
        return "\n".join(kept)

    def _block(self, first: str) -> Iterator[str]:
        yield first
        while (line := self._line()) is not None:
            yield line
            if closes(first, line):
                return

    def _joined(self, first: str) -> Iterator[str]:
        """The line, and the next ones as long as a line ends in a backslash."""
        line: str | None = first
        while line is not None and line.endswith("\\"):
            yield line[:-1]
            line = self._line()
        if line is not None:
            yield line

    def _line(self) -> str | None:
        """The next line without its end, None after the last one; the start of a line that is too long."""
        data = rest = self._stream.readline(MOST)
        self._taken += len(rest)
        while len(rest) == MOST and not rest.endswith(b"\n"):
            rest = self._stream.readline(MOST)
            self._taken += len(rest)
        if not self._started:
            self._started = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace") if data else None
