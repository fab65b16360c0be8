"""The answer on stdout: exactly the model's text and one newline, or what a terminal may safely show of it."""

import os
import sys
from collections.abc import Iterable

from llmcli.errors import DiskError
from llmcli.ui.console import console, is_terminal
from llmcli.ui.safe import safe
from llmcli.ui.status import Status


class AnswerWriter:
    """Writes text as it comes, each piece at once.

    Piped output is UTF-8 and verbatim. Line feeds at the end are held back until more text follows, so that the
    answer ends in exactly one, whenever it is cut.
    """

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)
        self._held = ""
        self._open = False

    def write(self, text: str) -> None:
        """Write the next piece.

        Raises:
            DiskError: when stdout is closed or full.
            BrokenPipeError: when the reader has gone.
        """
        text = self._held + text
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        if body:
            self._open = True
            self._put(body)

    def end(self) -> None:
        """End the answer with its newline."""
        self._held = ""
        self._open = False
        self._put("\n")

    def abandon(self) -> None:
        """Close a line that was begun, for an error is about to be told."""
        if self._open:
            self.end()

    def _put(self, text: str) -> None:
        if sys.stdout is None:
            raise DiskError("stdout is closed", "leave it open, or redirect it to a file")
        try:
            if self._terminal:
                encoding = sys.stdout.encoding or "utf-8"
                sys.stdout.write(safe(text).encode(encoding, "replace").decode(encoding))
                sys.stdout.flush()
            else:
                _write_all(text.encode("utf-8", "replace"))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DiskError(f"cannot write to stdout: {error.strerror}") from None


def _write_all(data: bytes) -> None:
    """Past Python's buffer, which would try again at exit, after the error has been told."""
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


def stream_answer(
    parts: Iterable[tuple[str, str]], writer: AnswerWriter, status: Status, live: bool, think: str
) -> None:
    """Run through the parts of an answer: the text to stdout while `live`, the reasoning to stderr if shown.

    Whatever ends it, the progress line is gone and a line that was begun on stdout is closed.
    """
    thinking = False
    try:
        for kind, text in parts:
            status.clear()
            if kind == "think":
                if think == "show":
                    thinking = True
                    console.think(text)
                continue
            if thinking:
                thinking = False
                console.think("\n\n")
            if live:
                writer.write(text)
    except BrokenPipeError:
        raise
    except BaseException:
        writer.abandon()
        raise
    finally:
        status.clear()
