"""Texts in the user's own editor: $VISUAL, $EDITOR, or the one that is always there."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmcli.errors import DiskError, UsageError
from llmcli.ui.console import is_terminal
from llmcli.ui.typeahead import heard_keys


def open_in_editor(path: Path) -> None:
    """Run the editor on a file until the user leaves it.

    Raises:
        DiskError: when it cannot be run.
        UsageError: when the setting is no command, or the editor ends with a status that is not 0.
    """
    try:
        with heard_keys():
            status = subprocess.run([*_command(), str(path)], **_streams()).returncode
    except OSError as error:
        raise DiskError(f"cannot run the editor {_command()[0]!r}: {error.strerror}", "set EDITOR") from None
    if status:
        raise UsageError(f"the editor ended with status {status}")


def _streams() -> dict[str, Any]:
    """Where the editor reads and writes: a pipe of ours holds the turns of a script, or takes the answers."""
    given: dict[str, Any] = {}
    if not is_terminal(sys.stdin):
        given["stdin"] = subprocess.DEVNULL
    if not is_terminal(sys.stdout):
        given["stdout"] = subprocess.DEVNULL if sys.stderr is None else 2
    return given


def _command() -> list[str]:
    set_by_user = [os.environ.get(name, "").strip() for name in ("VISUAL", "EDITOR")]
    windows = sys.platform == "win32"
    editor = next(filter(None, set_by_user), "notepad" if windows else "vi")
    try:
        return shlex.split(editor, posix=not windows)
    except ValueError as error:
        raise UsageError(f"the editor {editor!r} is no command: {error}", "set EDITOR") from None


def edit(text: str, suffix: str = ".md") -> str:
    """`text` as the user has changed it, without the newline that editors put at the end.

    Raises:
        DiskError: when the editor cannot be run, or the file with the text not be written or read.
        UsageError: when the editor fails.
    """
    import tempfile

    try:
        handle, name = tempfile.mkstemp(prefix="llmcli-", suffix=suffix)  # 0600
    except OSError as error:
        raise DiskError(f"cannot write a temporary file: {error.strerror}") from None
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(f"{text}\n")
        open_in_editor(path)
        return path.read_text(encoding="utf-8-sig", errors="replace").removesuffix("\n")
    except OSError as error:
        raise DiskError(f"cannot read what the editor wrote: {error.strerror}") from None
    finally:
        path.unlink(missing_ok=True)
