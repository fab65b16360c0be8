"""The answer on stdout: exactly the model's text and one newline, or what a terminal may safely show of it."""

from collections.abc import Iterable

from llmcli.errors import ReaderGoneError
from llmcli.ui.console import console
from llmcli.ui.output import put
from llmcli.ui.status import Status


class AnswerWriter:
    """Writes text as it comes, each piece at once.

    Piped output is UTF-8 and verbatim. Line feeds at the end are held back until more text follows, so that the
    answer ends in exactly one, whenever it is cut.
    """

    def __init__(self) -> None:
        self._held = ""
        self._open = False

    def write(self, text: str) -> None:
        """Write the next piece.

        Raises:
            DiskError: when stdout is closed or full.
            ReaderGoneError: when the reader has gone.
        """
        text = self._held + text
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        if body:
            self._open = True
            put(body)

    def end(self) -> None:
        """End the answer with its newline."""
        self._held = ""
        self._open = False
        put("\n")

    def abandon(self) -> None:
        """Close a line that was begun, for an error is about to be told."""
        if self._open:
            self.end()


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
    except ReaderGoneError:
        raise
    except BaseException:
        writer.abandon()
        raise
    finally:
        status.clear()
