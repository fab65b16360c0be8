"""The clipboard: through the system's own program where there is one, and through the terminal (OSC 52) elsewhere."""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from llmcli.errors import DiskError, LlmcliError

_PATIENCE = 3.0  # seconds for a program that takes or gives a text
_MOST_BASE64 = 100_000  # bytes; terminals drop longer sequences
_LARGEST = 16 << 20  # bytes that are pasted
_INSTALL = "install wl-clipboard (for Wayland) or xclip (for X11)"
_POWERSHELL = "[Console]::OutputEncoding = [Text.Encoding]::UTF8; [Console]::Out.Write((Get-Clipboard -Raw))"


@dataclass(frozen=True, slots=True)
class _Program:
    """A program that reads or writes the clipboard; `needs` is the variable without which it cannot."""

    needs: str
    command: tuple[str, ...]
    encoding: str = "utf-8"


_COPIERS = (
    _Program("WAYLAND_DISPLAY", ("wl-copy",)),
    _Program("DISPLAY", ("xclip", "-selection", "clipboard", "-in")),
    _Program("DISPLAY", ("xsel", "--clipboard", "--input")),
    _Program("", ("pbcopy",)),
    _Program("", ("clip.exe",), "utf-16"),  # Windows, and Linux inside of it
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

    Returns "clipboard" when a program took it, and "terminal" when the terminal was asked to, which does not answer.

    Raises:
        LlmcliError: when there is no way, with what to install.
    """
    far_away = bool(os.environ.get("SSH_TTY") or os.environ.get("SSH_CONNECTION"))  # programs here are not at the desk
    asked = far_away and _ask_terminal(text, write)
    for program in _at_hand(_COPIERS):
        if _run(program.command, text.encode(program.encoding, "replace")) is not None:
            return "clipboard"
    if asked or (not far_away and _ask_terminal(text, write)):
        return "terminal"
    if len(_base64(text)) > _MOST_BASE64:
        raise LlmcliError("the text is too long to go through the terminal", f"{_INSTALL}, or /export it to a file")
    raise LlmcliError("there is no way to the clipboard here", _INSTALL)


def paste() -> str:
    """The text on the clipboard.

    Raises:
        LlmcliError: when no program can read it.
        DiskError: when it is empty, no text or too large.
    """
    programs = list(_at_hand(_PASTERS))
    if not programs:
        raise LlmcliError(
            "there is no way to read the clipboard here", f"{_INSTALL}, or paste with the terminal's keys"
        )
    data = next((found for found in (_run(program.command) for program in programs) if found), b"")
    if not data:
        raise DiskError("the clipboard is empty or cannot be read", "copy a text first")
    if len(data) > _LARGEST:
        raise DiskError(f"the clipboard holds more than {_LARGEST >> 20} MiB", "attach a file instead")
    if b"\0" in data:
        raise DiskError("the clipboard does not hold a text", "copy a text first")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def _at_hand(programs: tuple[_Program, ...]) -> Iterator[_Program]:
    for program in programs:
        if (not program.needs or os.environ.get(program.needs)) and shutil.which(program.command[0]):
            yield program


def _run(command: tuple[str, ...], data: bytes = b"") -> bytes | None:
    """What the program writes, given `data`; None when it fails or takes too long.

    Some of them stay behind to serve what was copied. Such a one must not hold a pipe of ours, which we would wait
    for, and is out of the terminal's reach, for Ctrl-C would end it.
    """
    with tempfile.TemporaryFile() as out:
        try:
            subprocess.run(
                [shutil.which(command[0]) or command[0], *command[1:]],
                input=data,
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE,
                check=True,
                env=_environment(command[0]),
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        out.seek(0)
        return out.read(_LARGEST + 1)


def _environment(program: str) -> Mapping[str, str]:
    """macOS's programs take text for ASCII unless the locale says otherwise."""
    return {**os.environ, "LC_CTYPE": "UTF-8"} if program.startswith("pb") else os.environ


def _ask_terminal(text: str, write: Callable[[str], None] | None) -> bool:
    """Send OSC 52; False where the terminal is known not to take it."""
    encoded = _base64(text)
    if write is None or os.environ.get("TERM") in ("dumb", "linux") or len(encoded) > _MOST_BASE64:
        return False
    sequence = f"\x1b]52;c;{encoded}\x07"
    if os.environ.get("TMUX"):
        # By default tmux swallows what is meant for the terminal around it, but passes its own buffer on.
        _run(("tmux", "load-buffer", "-w", "-"), text.encode("utf-8", "replace"))
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    write(sequence)
    return True


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode()
