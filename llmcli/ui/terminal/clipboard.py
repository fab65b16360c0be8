"""The clipboard: through the system's own program if there is one, else through the terminal (OSC 52)."""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from llmcli.errors import DiskError, LlmcliError

_TIMEOUT = 3.0  # seconds for a program to copy or paste
_MAX_BASE64 = 100_000  # bytes; terminals drop longer sequences
_MAX_PASTE = 16 << 20  # bytes
_INSTALL = "install wl-clipboard (for Wayland) or xclip (for X11)"
_POWERSHELL = "[Console]::OutputEncoding = [Text.Encoding]::UTF8; [Console]::Out.Write((Get-Clipboard -Raw))"
_CLIP = "clip.exe"  # of Windows, and of WSL; it reads UTF-16
# Commands, and the variable without which each is of no use.
_COPIERS = {
    ("wl-copy",): "WAYLAND_DISPLAY",
    ("xclip", "-selection", "clipboard", "-in"): "DISPLAY",
    ("xsel", "--clipboard", "--input"): "DISPLAY",
    ("pbcopy",): "",
    (_CLIP,): "",
}
_PASTERS = {
    ("wl-paste", "--no-newline"): "WAYLAND_DISPLAY",
    ("xclip", "-selection", "clipboard", "-out"): "DISPLAY",
    ("xsel", "--clipboard", "--output"): "DISPLAY",
    ("pbpaste",): "",
    ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL): "",
}


def copy(text: str, write: Callable[[str], None] | None) -> str:
    """Copy to the "clipboard" by a program, or else to the "terminal" by `write`: returns which. Raises LlmcliError."""
    data = text.encode("utf-8", "replace")
    # Then only the terminal is on the user's machine.
    remote = bool(os.environ.get("SSH_TTY") or os.environ.get("SSH_CONNECTION"))
    sent = remote and _ask_terminal(data, write)
    for command in _available(_COPIERS):
        if _run(command, text.encode("utf-16", "replace") if command[0] == _CLIP else data) is not None:
            return "clipboard"
    if sent or (not remote and _ask_terminal(data, write)):
        return "terminal"
    if len(base64.b64encode(data)) > _MAX_BASE64:
        raise LlmcliError("the text is too long for the terminal's clipboard", f"{_INSTALL}, or use /export FILE")
    raise LlmcliError("no program found that writes to the clipboard", _INSTALL)


def paste() -> str:
    """The text on the clipboard. Raises LlmcliError when no program reads it, DiskError unless it is a text."""
    commands = _available(_PASTERS)
    if not commands:
        raise LlmcliError(
            "no program found that reads the clipboard", f"{_INSTALL}, or paste with the keys of the terminal"
        )
    data = next(filter(None, map(_run, commands)), b"")
    if not data:
        raise DiskError("the clipboard is empty or cannot be read", "copy a text first")
    if len(data) > _MAX_PASTE:
        raise DiskError(f"the clipboard contains more than {_MAX_PASTE >> 20} MiB", "attach a file instead")
    if b"\0" in data:
        raise DiskError("the clipboard does not contain a text", "copy a text first")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def _available(commands: dict[tuple[str, ...], str]) -> list[tuple[str, ...]]:
    possible = [command for command, variable in commands.items() if not variable or os.environ.get(variable)]
    return [command for command in possible if shutil.which(command[0])]


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


def _ask_terminal(data: bytes, write: Callable[[str], None] | None) -> bool:
    """Send OSC 52; False if the terminal is known not to support it."""
    encoded = base64.b64encode(data).decode()
    if write is None or os.environ.get("TERM") in ("dumb", "linux") or len(encoded) > _MAX_BASE64:
        return False
    sequence = f"\x1b]52;c;{encoded}\x07"
    if os.environ.get("TMUX"):
        # By default tmux drops sequences for the terminal around it, but sends its own buffer to it.
        _run(("tmux", "load-buffer", "-w", "-"), data)
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    write(sequence)
    return True
