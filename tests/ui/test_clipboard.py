"""The clipboard through programs (small scripts here) and through the terminal."""

import base64
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcli.errors import DiskError, LlmcliError
from llmcli.ui.terminal import clipboard
from llmcli.ui.terminal.clipboard import copy, paste

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
Make = Callable[[str, str], None]
TEXT = "Grüße\n\n  'x' \"y\" 🙂"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Creates a program of this name; there are no others, and no display. A busy machine gives them time."""
    monkeypatch.setattr(clipboard, "_TIMEOUT", 60.0)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("WAYLAND_DISPLAY", "DISPLAY", "TMUX", "SSH_TTY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)

    def program(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin; cd '{tmp_path}'\n{script}\n")
        path.chmod(0o755)

    return program


@pytest.fixture
def shown() -> list[str]:
    """What was written to the terminal."""
    return []


def osc(text: str) -> str:
    return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07"


@pytest.mark.parametrize(
    ("variable", "program", "arguments", "encoding"),
    [
        ("WAYLAND_DISPLAY", "wl-copy", "", "utf-8"),
        ("DISPLAY", "xclip", "-selection clipboard -in", "utf-8"),
        ("DISPLAY", "xsel", "--clipboard --input", "utf-8"),
        ("", "pbcopy", "", "utf-8"),
        ("", "clip.exe", "", "utf-16"),
    ],
)
def test_the_program_of_the_system_copies_the_text(
    make: Make,
    shown: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    program: str,
    arguments: str,
    encoding: str,
) -> None:
    make(program, 'cat > taken; echo "$*" > arguments')
    if variable:
        monkeypatch.setenv("TERM", "dumb")
        with pytest.raises(LlmcliError):  # without a display it is of no use
            copy(TEXT, shown.append)
        monkeypatch.setenv(variable, ":0")
    assert copy(TEXT, shown.append) == "clipboard"
    assert (tmp_path / "taken").read_bytes().decode(encoding) == TEXT
    assert (tmp_path / "arguments").read_text().strip() == arguments
    assert shown == []


def test_the_next_program_follows_one_that_fails(
    make: Make, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    make("xclip", "exit 1")
    make("xsel", "cat > taken")
    assert copy("x" * 300_000, shown.append) == "clipboard"
    assert (tmp_path / "taken").stat().st_size == 300_000
    make("xsel", "exit 1")
    assert copy("x", shown.append) == "terminal"


@pytest.mark.timeout(60)
def test_a_program_that_hangs_times_out(make: Make, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipboard, "_TIMEOUT", 0.2)
    monkeypatch.setenv("WAYLAND_DISPLAY", "w")
    make("wl-copy", "exec sleep 600")
    make("wl-paste", "exec sleep 600")
    assert copy("x" * 50_000, shown.append) == "terminal"
    with pytest.raises(DiskError, match="cannot be read"):
        paste()


def test_a_program_that_keeps_running_does_not_block(
    make: Make, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    make("xclip", "cat > taken\nsleep 600 &\necho $! > left")
    assert copy("x", shown.append) == "clipboard"  # else it is given up when its time is over
    left = int((tmp_path / "left").read_text())
    assert os.getsid(left) != os.getsid(0)  # Ctrl-C in our terminal does not reach it
    os.kill(left, 15)


def test_without_a_program_the_terminal_copies(make: Make, shown: list[str]) -> None:
    assert copy(TEXT, shown.append) == "terminal"
    assert shown == [osc(TEXT)]


def test_over_ssh_the_terminal_copies_too(
    make: Make, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    make("pbcopy", "cat > taken")
    assert copy(TEXT, shown.append) == "clipboard"
    assert shown == [osc(TEXT)]
    assert (tmp_path / "taken").read_text() == TEXT


def test_tmux_passes_the_text_to_its_terminal(
    make: Make, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    assert copy(TEXT, shown.append) == "terminal"
    wrapped = osc(TEXT).replace("\x1b", "\x1b\x1b")
    assert shown == [f"\x1bPtmux;{wrapped}\x1b\\"]
    make("tmux", 'cat > taken; echo "$*" > arguments')
    assert copy(TEXT, shown.append) == "terminal"
    assert (tmp_path / "taken").read_text() == TEXT
    assert (tmp_path / "arguments").read_text() == "load-buffer -w -\n"


@pytest.mark.parametrize("term", ["dumb", "linux"])
def test_without_any_way_the_hint_names_a_program_to_install(
    make: Make, shown: list[str], monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    with pytest.raises(LlmcliError, match="no program found that writes to the clipboard") as caught:
        copy("x", shown.append)
    assert "xclip" in caught.value.hint
    assert shown == []
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(LlmcliError, match="no program found that writes to the clipboard"):
        copy("x", None)


def test_a_long_text_is_not_sent_to_the_terminal(make: Make, shown: list[str]) -> None:
    assert copy("x" * 75_000, shown.append) == "terminal"
    with pytest.raises(LlmcliError, match="too long"):
        copy("x" * 75_001, shown.append)
    assert len(shown) == 1


def test_a_lone_surrogate_is_copied_as_a_question_mark(make: Make, shown: list[str]) -> None:
    copy("a\ud800", shown.append)
    assert shown == [osc("a?")]


@pytest.mark.parametrize(
    ("variable", "program", "arguments"),
    [
        ("WAYLAND_DISPLAY", "wl-paste", "--no-newline"),
        ("DISPLAY", "xclip", "-selection clipboard -out"),
        ("DISPLAY", "xsel", "--clipboard --output"),
        ("", "pbpaste", ""),
    ],
)
def test_the_program_of_the_system_pastes_the_text(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, program: str, arguments: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, ":0")
    (tmp_path / "held").write_text(TEXT)
    make(program, 'cat held; echo "$*" > arguments')
    assert paste() == TEXT
    assert (tmp_path / "arguments").read_text().strip() == arguments


def test_paste_turns_crlf_into_newlines(make: Make) -> None:
    make("powershell.exe", "printf 'a\\r\\nb'")
    assert paste() == "a\nb"


@pytest.mark.parametrize(
    ("script", "telling"),
    [
        ("exit 1", "empty"),
        ("true", "empty"),
        ("printf 'a\\0b'", "not contain a text"),
        ("head -c 2000 /dev/zero", "more than"),
    ],
)
def test_paste_refuses_what_is_not_a_short_text(
    make: Make, monkeypatch: pytest.MonkeyPatch, script: str, telling: str
) -> None:
    monkeypatch.setattr(clipboard, "_MAX_PASTE", 1000)
    make("pbpaste", script)
    with pytest.raises(DiskError, match=telling):
        paste()


def test_paste_needs_a_program(make: Make) -> None:
    with pytest.raises(LlmcliError, match="no program found that reads the clipboard") as caught:
        paste()
    assert "wl-clipboard" in caught.value.hint
