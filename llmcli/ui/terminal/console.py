"""Messages on stderr, one line each; questions to the person at the terminal, and texts from an editor."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from llmcli.errors import DiskError, UsageError
from llmcli.files import decode_text, text_reading
from llmcli.text import sanitize
from llmcli.ui.terminal.interrupt import allow_interrupt, enable_echo

_RED, _YELLOW, _DIM, _BOLD, _OFF = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


def wants_color(stream: TextIO | None) -> bool:
    """In this order: NO_COLOR, FORCE_COLOR, TERM=dumb, then whether the stream is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE"):
        return True
    return can_redraw(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def can_redraw(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal on which the cursor can be moved."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def encodable(text: str, stream: TextIO) -> str:
    """`text`, with a question mark in place of each character that the encoding of the stream does not have."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def wrapped(text: str, indent: int = 0) -> str:
    """`text` wrapped between words for the terminal of stderr; unchanged elsewhere, where a message is one line."""
    if not is_terminal(sys.stderr) or len(text) + indent <= (columns := _columns()):
        return text
    lines = textwrap.wrap(" " * indent + text, columns, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)[indent:]


def _columns() -> int:
    """The width of the terminal of stderr; stdout, which Python asks, may be a pipe."""
    columns = 0
    if not os.environ.get("COLUMNS") and not is_terminal(sys.stdout):
        with suppress(OSError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return columns or shutil.get_terminal_size().columns


class Console:
    """Errors, warnings and notes; `quiet` silences all but errors, `verbose` adds detail."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.engine_log = False  # -vv: llama.cpp's log too
        self.debug = bool(os.environ.get("LLMCLI_DEBUG"))

    def error(self, message: str, hint: str = "") -> None:
        self._print("error: ", _RED + _BOLD, message, hint)

    def warn(self, message: str, hint: str = "", always: bool = False) -> None:
        """A warning; `always` prints it in spite of `quiet`: what it warns of would make the output wrong."""
        if always or not self.quiet:
            self._print("warning: ", _YELLOW, message, hint)

    def warn_all(self, notes: list[str], remark: str = "") -> None:
        """A remark, if there is one, and a warning for each note, which is removed."""
        if remark:
            self.note(remark)
        while notes:
            self.warn(notes.pop(0))

    def note(self, message: str, always: bool = False) -> None:
        """A note; `always` prints it in spite of `quiet`: it was asked for."""
        if always or not self.quiet:
            self._print("", _DIM, message)

    def detail(self, message: str) -> None:
        if self.verbose:
            self._print("", _DIM, message)

    def think(self, text: str) -> None:
        """Reasoning of the model, as it streams."""
        if self.quiet:
            return
        text = sanitize(text) if is_terminal(sys.stderr) else text
        self.write(f"{_DIM}{text}{_OFF}" if wants_color(sys.stderr) else text)

    def _print(self, label: str, style: str, text: str, hint: str = "") -> None:
        text = wrapped(sanitize(" ".join(text.split("\n"))), len(label))
        if wants_color(sys.stderr):
            label, text = (f"{style}{label}{_OFF}", text) if label else ("", f"{style}{text}{_OFF}")
        self.write(f"{label}{text}\n")
        if hint:
            self._print("  hint: ", _BOLD, hint)

    def write(self, text: str) -> None:
        """Write to stderr at once; a stderr that is closed does not stop the work."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(encodable(text, sys.stderr))
            sys.stderr.flush()


console = Console()
text_reading.warn = partial(console.warn, always=True)


def can_ask() -> bool:
    """Whether the user can answer: both stdin and stderr are terminals."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def confirm(question: str, default: bool) -> bool:
    """Ask on stderr and wait for y or n; Enter takes the default, the end of input is no."""
    answer = _read_answer(wrapped(sanitize(f"{question} [{'Y/n' if default else 'y/N'}]")) + " ")
    if not answer:
        sys.stderr.write("\n")
        return False
    answer = answer.strip().lower()
    return answer in ("y", "yes") if answer else default


def choose(question: str, options: Mapping[str, str], default: str) -> str:
    """Ask on stderr for one of the options by its name or its first letter; Enter or anything else is the default."""
    lines = [wrapped(sanitize(f"  {name[0]}  {meaning}")) for name, meaning in options.items()]
    lines.append(wrapped(sanitize(f"{question} [{'/'.join(options)}, Enter = {default}]")) + " ")
    answer = ""
    with suppress(KeyboardInterrupt):
        answer = _read_answer("\n".join(lines)).strip().lower()
    return next((name for name in options if answer and name.startswith(answer)), default)


def _read_answer(text: str) -> str:
    """The line that the user types after `text`; empty at the end of input."""
    with allow_interrupt(), enable_echo():
        sys.stderr.write(text)
        sys.stderr.flush()
        try:
            return sys.stdin.readline()
        except UnicodeDecodeError:
            return "\ufffd"  # not the name of an option


def edit(text: str) -> str:
    """`text` as the user changed it, without the newline that editors add. Raises what `open_in_editor` does."""
    import tempfile

    try:
        handle, name = tempfile.mkstemp(prefix="llmcli-", suffix=".md")  # 0600
    except OSError as error:
        raise DiskError(f"cannot write a temporary file: {error.strerror}") from None
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(f"{text}\n")
        open_in_editor(path)
        return decode_text(path.read_bytes().replace(b"\r\n", b"\n"), "the edited text").removesuffix("\n")
    except OSError as error:
        raise DiskError(f"cannot read the edited text: {error.strerror}") from None
    finally:
        path.unlink(missing_ok=True)


def open_in_editor(path: Path) -> None:
    """Open a file in the user's editor until it is closed. Raises UsageError or DiskError when it fails."""
    import shlex
    import subprocess

    set_by_user = [os.environ.get(name, "").strip() for name in ("VISUAL", "EDITOR")]
    windows = sys.platform == "win32"
    editor = next(filter(None, set_by_user), "notepad" if windows else "vi")
    try:
        command = shlex.split(editor, posix=not windows)
    except ValueError as error:
        raise UsageError(f"the editor {editor!r} is not a valid command: {error}", "set EDITOR") from None
    stderr = subprocess.DEVNULL if sys.stderr is None else 2
    stdin = None if is_terminal(sys.stdin) else subprocess.DEVNULL  # it does not read the messages of a script,
    stdout = None if is_terminal(sys.stdout) else stderr  # and does not write among the answers
    try:
        with enable_echo():
            status = subprocess.run([*command, str(path)], stdin=stdin, stdout=stdout).returncode
    except OSError as error:
        raise DiskError(f"cannot run the editor {command[0]!r}: {error.strerror}", "set EDITOR") from None
    if status:
        raise UsageError(f"the editor failed with status {status}")
