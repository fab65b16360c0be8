"""Questions to the user at the terminal, and texts from the user's editor."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llmcli.errors import DiskError, UsageError
from llmcli.text import sanitize
from llmcli.ui.terminal.console import is_terminal, wrapped
from llmcli.ui.terminal.interrupt import allow_interrupt, enable_echo


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
    """`text` after the changes of the user, without the newline that editors add at the end.

    Raises:
        DiskError: when the editor cannot be run, or the file with the text not be written or read.
        UsageError: see `open_in_editor`.
    """
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
        return path.read_text(encoding="utf-8-sig", errors="replace").removesuffix("\n")
    except OSError as error:
        raise DiskError(f"cannot read the edited text: {error.strerror}") from None
    finally:
        path.unlink(missing_ok=True)


def open_in_editor(path: Path) -> None:
    """Open a file in the user's editor, and wait until the user closes it.

    Raises:
        DiskError: when the editor cannot be run.
        UsageError: when VISUAL or EDITOR is not a valid command, or the editor ends with a status other than 0.
    """
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
