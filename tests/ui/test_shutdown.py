"""The program on a real terminal: what it draws, and what it must not."""

import os
import sys
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")
pytestmark = [
    pytest.mark.terminal,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal"),
]


def on_terminal(*args: str, **env: str) -> tuple[str, int]:
    """All that the program writes to an 80-column terminal, and its status."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "llmcli", *args],
        env={**os.environ, **env},
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=120,
    )
    text = child.read()
    child.wait()
    child.close()
    return text, child.exitstatus


def test_control_characters_in_the_text_are_made_visible(with_tiny: Path) -> None:
    text, status = on_terminal("generate", "--raw", "-n", "1", "--echo", "a \x1b]0;title\x07 \x9b2J b", TERM="xterm")
    assert status == 0
    assert "a ␛]0;title␇ \\x9b2J b" in text
    assert "\x1b]0" not in text


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_without_color_gets_no_escape_sequence(with_tiny: Path, env: dict[str, str]) -> None:
    text, status = on_terminal("generate", "hi", "-n", "4", "--stats", "--mirostat", "2", "--top-p", "0.3", **env)
    assert status == 0
    assert "has no effect" in text
    assert "\x1b[3" not in text
    assert "\x1b[2m" not in text


def test_an_error_has_colors_on_a_terminal_or_if_forced(run) -> None:  # type: ignore[no-untyped-def]
    text, status = on_terminal("generate", "hi", "--top-p", "3", TERM="xterm")
    assert status == 2
    assert "\x1b[31m" in text
    assert "\x1b[31m" in run("generate", "hi", "--top-p", "3", env={"FORCE_COLOR": "1"}).stderr
    assert "\x1b" not in run("generate", "hi", "--top-p", "3").stderr


def test_a_missing_prompt_on_a_terminal_is_an_error(with_tiny: Path) -> None:
    text, status = on_terminal("generate", TERM="dumb")
    assert status == 2
    assert "no prompt" in text


def test_a_file_name_with_escapes_cannot_drive_the_terminal(tmp_path: Path) -> None:
    text, status = on_terminal("generate", "hi", "-m", str(tmp_path / "evil\x1b[2J.gguf"), TERM="dumb")
    assert status == 3
    assert "\x1b" not in text
