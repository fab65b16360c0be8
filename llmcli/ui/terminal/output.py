"""The only way to stdout: verbatim UTF-8 into a pipe or file, safe text onto a terminal; tables."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llmcli.errors import DiskError, OutputClosedError, UsageError
from llmcli.text import escape_json, sanitize
from llmcli.ui.terminal.cells import cells, wrap
from llmcli.ui.terminal.console import console, encodable, is_terminal, wants_color
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Prompt
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine
    from llmcli.params.settings import ResolvedSettings, Settings

_to_stderr = False
_write_file: Callable[[bytes], object] | None = None  # takes the output in place of stdout
_is_copied = False  # the output goes to stdout too
_GAP = "  "
_BOLD, _DIM = "1", "2"
_FEWEST = 10  # columns for text beside an indent
_FEWEST_HELD, _SHARE_HELD = 20, 0.2  # tokens that could be drafted, to be worth a word


def print_line(text: str, style: str = "") -> None:
    """Write a line; `style` (the numbers of an SGR sequence) counts on a terminal with colors only."""
    out = stream()
    if style and not _write_file and is_terminal(out) and wants_color(out):
        print_drawn(f"\x1b[{style}m{sanitize(text)}\x1b[0m\n")
    else:
        print_text(text + "\n")


def print_text(text: str) -> None:
    """Write `text` at once. Raises DiskError when stdout is full, OutputClosedError when its reader has gone."""
    if _write_file and not _to_stderr:
        _write_file(text.encode("utf-8", "replace"))
        if not _is_copied:
            return
    out = stream()
    if not out and _to_stderr:
        return  # as messages do
    if out is None:
        raise DiskError("stdout is closed", "leave it open, or redirect it to a file")
    if is_terminal(out):
        print_drawn(sanitize(text))
        return
    data = text.encode("utf-8", "replace")
    with _write_errors():
        out.flush()  # Python's own buffer would be flushed again at exit, after the error message
        while data:
            data = data[os.write(out.fileno(), data) :]


def print_prompt(text: str) -> None:
    """Write a rendered prompt, which ends with one line feed."""
    print_text(text.removesuffix("\n") + "\n")


def print_drawn(text: str) -> None:
    """Write to a terminal a text that is safe already: with the color and cursor sequences of llmcli only."""
    with _write_errors():
        out = stream()
        out.write(encodable(text, out))
        out.flush()


def stream() -> TextIO:
    """The stream that output goes to."""
    return sys.stderr if _to_stderr else sys.stdout


def columns(elsewhere: int = 10**6) -> int:
    """The columns of a row of output; `elsewhere` (no limit) where it is not a terminal."""
    return shutil.get_terminal_size().columns if is_terminal(stream()) else elsewhere


@contextmanager
def to_stderr(wanted: bool) -> Iterator[None]:
    """Within this block output goes to stderr, if `wanted`: that of a chat command is not an answer."""
    global _to_stderr
    before, _to_stderr = _to_stderr, wanted
    try:
        yield
    finally:
        _to_stderr = before


@contextmanager
def redirect(write: Callable[[bytes], object], copy: bool) -> Iterator[None]:
    """Within this block `write` gets the output in place of stdout; with `copy` stdout gets it too."""
    global _write_file, _is_copied
    before, _write_file, _is_copied = (_write_file, _is_copied), write, copy
    try:
        yield
    finally:
        _write_file, _is_copied = before


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise OutputClosedError("the reader of stdout has closed it") from None
    except OSError as error:
        raise DiskError(f"cannot write to stdout: {error.strerror}") from None


class AnswerWriter:
    """Writes the pieces of an answer at once.

    Piped output is UTF-8 and verbatim. Newlines at the end are held back until more text follows, so that the answer
    ends with exactly one, also when it is stopped.
    """

    def __init__(self) -> None:
        self._held = ""
        self._line_is_open = False

    def write(self, text: str) -> None:
        """Write the next piece. Raises what `print_text` raises."""
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

    At the end, also after an error, the progress line is erased and an open line is ended.
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
        if in_reasoning:  # which was stopped: what follows on stderr has its own line
            console.think("\n")


@contextmanager
def write_trace(answer: "Answer", name: str | None, kept: bool = False) -> Iterator[None]:
    """Within this block the trace of the answer goes into the file `name`, or is `kept`. Raises DiskError."""
    if name is None:
        answer.request.trace = 0 if kept else None
        yield
        return
    if not name.strip():
        raise UsageError("the file name of --trace is empty", "give a file, as in --trace answer.jsonl")
    if name == "-":
        raise UsageError("--trace cannot write to stdout, which is for the answer", "use --trace answer.jsonl")
    from llmcli.inference.trace_file import TraceWriter

    with closing(TraceWriter(Path(os.path.expanduser(name)))) as writer:
        answer.request.trace, answer.on_token = answer.settings.trace_top, writer.write
        yield


def warn_ineffective(resolved: "ResolvedSettings", known: set[str] | None = None) -> None:
    """Warn of each chosen setting that has no effect, with the reason; not of what is `known`, to which it is added."""
    from llmcli.params.settings import ineffective_settings  # the front page does without settings

    known = set() if known is None else known
    for key, reason in ineffective_settings(resolved.settings, resolved.origins).items():
        if f"{key}: {reason}" not in known:
            console.warn(f"{key} (from {resolved.origins[key]}) has no effect: {reason}")
        known.add(f"{key}: {reason}")


def warn_unread_arguments(prompt: "Prompt", settings: "Settings", known: set[str]) -> None:
    """Warn of variables that the chat template of a prompt does not read; `known` as in `warn_ineffective`."""
    if not settings.template_arg:
        return
    from llmcli.inference.template import unread_arguments  # Jinja takes its time

    unread = unread_arguments(prompt, settings)
    if unread and unread[0] not in known:
        console.warn(*unread)
        known.add(unread[0])


def warn_dropped(engine: "Engine", settings: "Settings", known: set[str]) -> None:
    """Warn of settings that the engine does not have, and that are left out; `known` as in `warn_ineffective`."""
    if not settings.drop_unsupported:
        return
    from llmcli.inference.engine import dropped_settings  # loads the engine

    for name in dropped_settings(engine, settings):
        if name not in known:
            console.warn(f"{name} is left out: {engine.name} does not support it")
        known.add(name)


def draft_facts(timings: Mapping[str, float]) -> str:
    """How many tokens were drafted and accepted in an answer with these timings, and the gain; or what `on` might gain.

    Empty if there is nothing to tell.
    """
    n_held = timings.get("draft_n_held", 0)
    if n_held >= max(_FEWEST_HELD, _SHARE_HELD * timings["predicted_n"]):
        return f"{n_held:.0f} tokens could be drafted, see --speculative on"
    if not timings.get("draft_n"):
        return ""
    drafted, accepted, gain = (timings[name] for name in ("draft_n", "draft_n_accepted", "draft_gain"))
    return f"{drafted:.0f} tokens drafted, {accepted:.0f} accepted, {gain:.2f} times as fast"


def warn_slow(answer: "Answer") -> None:
    """Warn when a temperature policy in Python takes more than a tenth of the time."""
    timings, n_tokens = answer.timings(), len(answer.tokens)
    policy_ms, total_ms = answer.record.policy_ms, timings["predicted_ms"]
    if n_tokens and 0 < total_ms / 10 < policy_ms:
        share = f"{policy_ms / n_tokens:.1f} ms per token, {policy_ms / total_ms:.0%} of the time"
        console.warn(f"the temperature policy is slow: {share}")


def print_json(data: Any, indent: int | None = 2) -> None:
    """Write a value as JSON, indented or in one line; characters that could drive a terminal are escapes."""
    import json  # imported here: answers do not need it

    print_line(escape_json(json.dumps(data, ensure_ascii=False, indent=indent)))


def print_diff(before: str, after: str) -> None:
    """Print what differs between two texts, line by line, as `diff -u` does."""
    import difflib  # takes 3 ms

    colors = {"-": "31", "+": "32", "@": "36"}
    old, new = ([f"{line}\n" for line in text.rstrip("\n").split("\n")] for text in (before, after))
    for line in difflib.unified_diff(old, new, "input", "answer"):
        print_line(line.rstrip("\n"), colors.get(line[0], ""))


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    below: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print the rows; the columns named in `right` hold numbers, and `below` has a further line for each row.

    A terminal that is a little too narrow omits the columns in `spare`, the first of them first. One that is much too
    narrow gets a block for each row. A cell with several lines is joined into one, and is safe in a pipe too.
    """
    table = [[sanitize(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(heads, *table, strict=True)]
    kept: list[int] = []  # the columns that fit; none where they do not fit even without the spare ones
    for number in range(len(spare) + 1):
        fewer = [index for index, head in enumerate(heads) if head not in spare[:number]]
        if not kept and sum(widths[index] + len(_GAP) for index in fewer) - len(_GAP) <= columns():
            kept = fewer

    def line(row: Sequence[str]) -> str:
        return _GAP.join(_padded(row[at], widths[at], heads[at] in right) for at in kept).rstrip()

    if kept:
        print_line(line(heads), _BOLD)
    for row, further in zip_longest(table, below, fillvalue=""):
        if kept:
            print_line(line(row))
        else:
            _print_block(heads, row)
        if further:
            print_line(f"{_GAP}{further}", _DIM)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print pairs, one a line, the values aligned and safe; on a narrow terminal a long value goes below its name."""
    column = max((cells(name) for name, _ in facts), default=0) + len(_GAP)
    for name, value in facts:
        value = sanitize(re.sub(r"[\r\n\t]+", " ", value))
        fits = column + cells(value) <= columns()
        _print_hanging(name, [value] if fits else _wrapped(value, len(_GAP)), column if fits else len(_GAP))


def print_definitions(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with their meanings, wrapped, beside them; below, where a name is long or the window is narrow."""
    column = 24 if columns() >= 48 else 4
    for name, meaning in pairs:
        _print_hanging(name, _wrapped(meaning, column, 100), column)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if right else text + space


def _print_block(heads: Sequence[str], row: Sequence[str]) -> None:
    """The first cell alone, and under it the others with their heads."""
    print_line(row[0], _BOLD)
    indent = max((len(head) for head in heads[1:]), default=0) + 2 * len(_GAP)
    for head, cell in zip(heads[1:], row[1:], strict=True):
        if cell:
            _print_hanging(_GAP + head.lower(), wrap(cell, max(columns() - indent, _FEWEST)), indent)


def _print_hanging(name: str, lines: Sequence[str], indent: int) -> None:
    """Lines at `indent`, with a name before the first of them, or above it where the name is long."""
    if name and cells(name) + len(_GAP) > indent:
        print_line(name)
        name = ""
    for line in lines or [""]:
        print_line(_padded(name, indent, right=False) + line)
        name = ""


def _wrapped(text: str, indent: int, elsewhere: int = 10**6) -> list[str]:
    """Lines of whole words: an address or a path that is broken cannot be copied."""
    width = max(columns(elsewhere) - indent, _FEWEST)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
