"""The only way to stdout: verbatim UTF-8 into a pipe or file, safe text onto a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llmcli.errors import DiskError, OutputClosedError, UsageError
from llmcli.text import sanitize
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer

_aside = False
_SLOW = 0.1  # share of the time that a policy may take before there is a warning


@contextmanager
def to_stderr(wanted: bool) -> Iterator[None]:
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


def print_text(text: str, style: str = "") -> None:
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
            text = sanitize(text).encode(encoding, "replace").decode(encoding)
            out.write(f"\x1b[{style}m{text}\x1b[0m" if style else text)
            out.flush()
        else:
            _write_all(out, text.encode("utf-8", "replace"))
    except BrokenPipeError:
        raise OutputClosedError("the reader of stdout has closed it") from None
    except OSError as error:
        raise DiskError(f"cannot write to stdout: {error.strerror}") from None


def print_drawn(text: str) -> None:
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
        raise OutputClosedError("the reader of stdout has closed it") from None
    except OSError as error:
        raise DiskError(f"cannot write to the terminal: {error.strerror}") from None


def print_line(text: str, style: str = "") -> None:
    """Write a line."""
    print_text(text + "\n" if not style else text, style)
    if style:
        print_text("\n")


def print_pairs(rows: list[tuple[str, str]]) -> None:
    """Write pairs, the second column aligned."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print_line(f"{name:<{width}}  {value}")


def _write_all(out: TextIO, data: bytes) -> None:
    """Write past the buffer of Python, which would try again at exit, after the error message."""
    out.flush()
    descriptor = out.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


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
            print_text(body)

    def end(self) -> None:
        """End the answer with its newline."""
        self._held = ""
        self._line_is_open = False
        print_text("\n")

    def abandon(self) -> None:
        """End an open line, before an error is printed."""
        if self._line_is_open:
            self.end()


def stream_answer(
    parts: Iterable[tuple[str, str]], writer: AnswerWriter, status: ProgressLine, live: bool, think: str
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
    except OutputClosedError:
        raise
    except BaseException:
        writer.abandon()
        raise
    finally:
        status.clear()


@contextmanager
def write_trace(answer: "Answer", name: str | None, kept: bool = False) -> Iterator[None]:
    """Within this block the trace of the answer goes into the file `name`; with `kept` it is recorded at least.

    Raises:
        DiskError: when the file cannot be written.
    """
    if name is None:
        answer.trace = 0 if kept else None
        yield
        return
    if not name.strip():
        raise UsageError("the file name of --trace is empty", "give a file, as in --trace answer.jsonl")
    from llmcli.inference.trace_file import TraceWriter

    with closing(TraceWriter(Path(os.path.expanduser(name)))) as writer:
        answer.trace, answer.on_token = answer.settings.trace_top, writer.write
        yield


def warn_slow(answer: "Answer") -> None:
    """Warn when a temperature policy in Python takes much of the time."""
    if not answer.started:
        return
    timings, n_tokens = answer.timings(), len(answer.generation.tokens) - len(answer.prompt.tokens)
    policy_ms, total_ms = answer.generation.policy_ms, timings["predicted_ms"]
    if n_tokens and 0 < _SLOW * total_ms < policy_ms:
        share = f"{policy_ms / n_tokens:.1f} ms per token, {policy_ms / total_ms:.0%} of the time"
        console.warn(f"the temperature policy is slow: {share}")


def print_json(data: Any) -> None:
    """Write a value as indented JSON."""
    import json  # imported here: answers do not need it

    print_line(json.dumps(data, ensure_ascii=False, indent=2))
