"""Messages on stderr are as wide as its terminal, wherever stdout goes."""

import os
import sys

import pytest

from llmcli.ui.terminal.console import console

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)


@pytest.mark.parametrize("variable", ["", "30"])
def test_a_message_is_wrapped_where_stdout_is_a_pipe(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 20, 40, 0, 0))
    monkeypatch.setenv("COLUMNS", variable)
    monkeypatch.setenv("NO_COLOR", "1")
    with os.fdopen(theirs, "w") as stderr, open(os.devnull, "w") as stdout:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(sys, "stdout", stdout)
        console.note("word " * 12)
        lines = os.read(ours, 1 << 10).decode().splitlines()
    os.close(ours)
    per_line = int(variable or 40) // len("word ")
    assert [line.split() for line in lines] == [["word"] * per_line] * (12 // per_line) + (
        [["word"] * (12 % per_line)] if 12 % per_line else []
    )
