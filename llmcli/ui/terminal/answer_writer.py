"""Write the answer to stdout: the exact text of the model and one newline, or a safe form of it on a terminal."""

from collections.abc import Iterable

from llmcli.errors import ReaderGoneError
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import put
from llmcli.ui.terminal.progress import Status


class AnswerWriter:
    """Writes text as it comes, each piece at once.

    Piped output is UTF-8 and verbatim. Newlines at the end are held back until more text follows, so that the answer
    ends with exactly one, also when it is stopped.
    """

    def __init__(self) -> None:
        self._held = ""
        self._line_is_open = False

    def write(self, text: str) -> None:
        """Write the next piece.

        Raises:
            DiskError: when stdout is closed or full.
            ReaderGoneError: when the reader has closed the pipe.
        """
        text = self._held + text
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        if body:
            self._line_is_open = True
            put(body)

    def end(self) -> None:
        """End the answer with its newline."""
        self._held = ""
        self._line_is_open = False
        put("\n")

    def abandon(self) -> None:
        """End an open line, before an error is printed."""
        if self._line_is_open:
            self.end()


def stream_answer(
    parts: Iterable[tuple[str, str]], writer: AnswerWriter, status: Status, live: bool, think: str
) -> None:
    """Print the parts of an answer: with `live` the text to stdout, and the reasoning to stderr if `think` is "show".

    At the end, also after an error, the progress line is erased and an open line on stdout is ended.
    """
    in_reasoning = False
    try:
        for kind, text in parts:
            status.clear()
            if kind == "think":
                if think == "show":
                    in_reasoning = True
                    console.think(text)
                continue
            if in_reasoning:
                in_reasoning = False
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
