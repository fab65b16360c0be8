"""The clipboard: through the system's own program if there is one, else through the terminal (OSC 52)."""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from llmcli.errors import DiskError, LlmcliError

_TIMEOUT = 3.0  # seconds for a program to copy or paste
_MAX_BASE64 = 100_000  # bytes; terminals drop longer sequences
_MAX_PASTE = 16 << 20  # bytes
_INSTALL = "install wl-clipboard (for Wayland) or xclip (for X11)"
_POWERSHELL = "[Console]::OutputEncoding = [Text.Encoding]::UTF8; [Console]::Out.Write((Get-Clipboard -Raw))"


@dataclass(frozen=True, slots=True)
class _Program:
    """A program that reads or writes the clipboard; it works only where the variable `needs` is set."""

    needs: str
    command: tuple[str, ...]
    encoding: str = "utf-8"


_COPIERS = (
    _Program("WAYLAND_DISPLAY", ("wl-copy",)),
    _Program("DISPLAY", ("xclip", "-selection", "clipboard", "-in")),
    _Program("DISPLAY", ("xsel", "--clipboard", "--input")),
    _Program("", ("pbcopy",)),
    _Program("", ("clip.exe",), "utf-16"),  # Windows, and WSL
)
_PASTERS = (
    _Program("WAYLAND_DISPLAY", ("wl-paste", "--no-newline")),
    _Program("DISPLAY", ("xclip", "-selection", "clipboard", "-out")),
    _Program("DISPLAY", ("xsel", "--clipboard", "--output")),
    _Program("", ("pbpaste",)),
    _Program("", ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL)),
)


def copy(text: str, write: Callable[[str], None] | None) -> str:
    """Put a text onto the clipboard; `write` sends text to the terminal, None where there is none.

    Returns "clipboard" when a program took it, and "terminal" when it was sent to the terminal, which does not confirm.

    Raises:
        LlmcliError: when neither is possible, with what to install.
    """
    # Then only the terminal is on the user's machine.
    remote = bool(os.environ.get("SSH_TTY") or os.environ.get("SSH_CONNECTION"))
    sent = remote and _ask_terminal(text, write)
    for program in _available(_COPIERS):
        if _run(program.command, text.encode(program.encoding, "replace")) is not None:
            return "clipboard"
    if sent or (not remote and _ask_terminal(text, write)):
        return "terminal"
    if len(_base64(text)) > _MAX_BASE64:
        raise LlmcliError("the text is too long for the terminal's clipboard", f"{_INSTALL}, or use /export FILE")
    raise LlmcliError("no program found that writes to the clipboard", _INSTALL)


def paste() -> str:
    """The text on the clipboard.

    Raises:
        LlmcliError: when no program can read it.
        DiskError: when it is empty, not a text or too large.
    """
    programs = _available(_PASTERS)
    if not programs:
        raise LlmcliError(
            "no program found that reads the clipboard", f"{_INSTALL}, or paste with the keys of the terminal"
        )
    data = next((found for found in (_run(program.command) for program in programs) if found), b"")
    if not data:
        raise DiskError("the clipboard is empty or cannot be read", "copy a text first")
    if len(data) > _MAX_PASTE:
        raise DiskError(f"the clipboard contains more than {_MAX_PASTE >> 20} MiB", "attach a file instead")
    if b"\0" in data:
        raise DiskError("the clipboard does not contain a text", "copy a text first")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def _available(programs: tuple[_Program, ...]) -> list[_Program]:
    possible = [program for program in programs if not program.needs or os.environ.get(program.needs)]
    return [program for program in possible if shutil.which(program.command[0])]


def _run(command: tuple[str, ...], data: bytes = b"") -> bytes | None:
    """The output of the program with `data` as input; None when it fails or takes too long.

    Some programs keep running to serve the copied text. So the output goes to a file, because a pipe would stay open,
    and the program gets its own session, because Ctrl-C in this terminal would end it.
    """
    # The programs of macOS read text as ASCII unless the locale is UTF-8.
    locale = {"LC_CTYPE": "UTF-8"} if command[0].startswith("pb") else {}
    with tempfile.TemporaryFile() as out:
        try:
            subprocess.run(
                [shutil.which(command[0]) or command[0], *command[1:]],
                input=data,
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT,
                check=True,
                env=os.environ | locale,
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        out.seek(0)
        return out.read(_MAX_PASTE + 1)


def _ask_terminal(text: str, write: Callable[[str], None] | None) -> bool:
    """Send OSC 52; False if the terminal is known not to support it."""
    encoded = _base64(text)
    if write is None or os.environ.get("TERM") in ("dumb", "linux") or len(encoded) > _MAX_BASE64:
        return False
    sequence = f"\x1b]52;c;{encoded}\x07"
    if os.environ.get("TMUX"):
        # By default tmux drops sequences for the terminal around it, but sends its own buffer to it.
        _run(("tmux", "load-buffer", "-w", "-"), text.encode("utf-8", "replace"))
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    write(sequence)
    return True


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode()
