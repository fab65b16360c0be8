"""Keys move the temperature while an answer streams, on a real terminal; other keys wait for the prompt."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmcli.ui.input import live_keys
from tests.cli.chat_terminal import (
    CHAT,
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    DOWN,
    ENTER,
    FOOT,
    PROMPT,
    TINY,
    UP,
    Talk,
    pasted,
    script,
    tiny_home,
)
from tests.conftest import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

STORY = "Tell me a long story."
FLAGS = ("--seed", "3", "-t", "1", "-c", "8192", "--ignore-eos")
STATUS = " · temp 0.8"  # in the row below the prompt
KEYPAD_UP, KEYPAD_DOWN = "\x1bOA", "\x1bOB"


def begin(chat: Talk) -> None:
    """Let the model tell a story, and see it begin."""
    chat.ready().send(STORY)
    chat.until(lambda: len(chat.answer(STORY).split()) > 5, "the first words")


def wait_foot(chat: Talk, keys: str) -> None:
    """Wait until the row below the answer has this text about the keys."""
    chat.until(lambda: chat.live_keys() == f"↑↓ {keys}", keys)


def wait_words(chat: Talk, count: int = 40) -> None:
    """Wait for the next words: more than a token, because one may have been drawn before the last key was read."""
    chat.catch_up()
    before = len(chat.answer(STORY))
    chat.until(lambda: len(chat.answer(STORY)) > before + count, "more words")


def echoes(chat: Talk) -> bool:
    """Whether the terminal shows by itself what is typed, as it does until a program has it again."""
    import termios

    return bool(termios.tcgetattr(chat.child.child_fd)[3] & termios.ECHO)


def type_halves(chat: Talk, *halves: bytes) -> bool:
    """Type parts of keys one by one; False if it took so long that an Escape may be a key of its own."""
    begun = time.monotonic()
    for half in halves:
        os.write(chat.child.child_fd, half)
    return time.monotonic() - begun < live_keys._ESCAPE / 2


def stop(chat: Talk, line: str = PROMPT) -> str:
    """Stop the answer, wait until `line` is the line of the prompt, and return the whole text."""
    chat.keys(CTRL_C)
    chat.until(lambda: chat.line() == line, f"the line {line!r}")
    return chat.text()


def moves(home: Path) -> list[list[float]]:
    """The recorded moves of the only answer on disk."""
    (file,) = (home / "data" / "sessions").glob("*.jsonl")
    events: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    (answer,) = [event for event in events if event.get("role") == "assistant"]
    found: list[list[float]] = answer["replay"]["moves"]
    return found


@pytest.mark.usefixtures("with_starter")
@pytest.mark.parametrize("columns", [80, 40])
def test_keys_move_the_temperature_and_a_replay_repeats_it(home: Path, columns: int, run: Run) -> None:
    with Talk(*FLAGS, "--session", "moved", columns=columns) as chat:
        begin(chat)
        assert chat.foot().startswith("Ctrl-C stops · ↑↓ warmer, colder")
        for key, shown in ((UP, "0.8 → 0.9"), ("+", "0.8 → 1.0"), ("-", "0.8 → 0.9"), (KEYPAD_DOWN, "0.8")):
            chat.keys(key)
            wait_foot(chat, f"temp {shown}")
            wait_words(chat)
        chat.keys(KEYPAD_UP, UP)
        wait_foot(chat, "temp 0.8 → 1.0")
        wait_words(chat)
        chat.keys(*[DOWN] * 20)
        wait_foot(chat, "temp 0.8 → 0.0")
        chat.keys(UP)
        wait_foot(chat, "temp 0.8 → 0.1")
        wait_words(chat)
        shown = stop(chat)
        assert "↑↓" not in shown
        assert "temperature moved: +0.1 from token" in shown
        assert "-0.7 from" in " ".join(shown.split())
        chat.ready().keys(CTRL_D)
        assert chat.wait_end() == 0
    recorded = moves(home)
    places, shifts = [place for place, _ in recorded], [shift for _, shift in recorded]
    assert places == sorted(set(places))
    assert (shifts[:4], shifts[-1]) == ([0.1, 0.2, 0.1, 0.0], -0.7)
    assert all(shift >= -0.8 for shift in shifts)
    assert "same" in run("replay", "moved").stderr


@pytest.mark.usefixtures("with_starter")
def test_a_message_typed_ahead_is_in_the_line_without_arrows() -> None:
    halves = ("ä".encode()[:1], "ä".encode()[1:], b"\x1b[20", b"0~a\n+ ", b"b\x1b[20", b"1~", b"\x1b", b"[D")
    for is_last in (False,) * 9 + (True,):  # a busy machine can stop this program or the terminal between two halves
        with Talk(*FLAGS) as chat:
            begin(chat)
            chat.keys("-", "5 °C - ", UP, "or +3")
            wait_foot(chat, "temp 0.8")
            is_quick = type_halves(chat, *halves)
            chat.keys(KEYPAD_UP)
            wait_foot(chat, "temp 0.8 → 0.9")
            chat.keys(CTRL_C)
            chat.until(lambda: STATUS in chat.status(), "the prompt")
            if not is_last and (not is_quick or chat.line() != "  + b"):
                continue
            assert chat.line() == "  + b"
            assert "> 5 °C - or +3äa" in chat.screen()  # its first minus came before the message
            assert chat.window.cursor.x == 4  # and the last key went one to the left
            chat.keys(CTRL_C)
            begin(chat)
            chat.keys(pasted("- one\n- two"), "+", ENTER, "what", "?")
            chat.wait_read()
            chat.keys(CTRL_C)
            chat.wait_line("  what?")  # the line that was ready to be sent is text again
            return


@pytest.mark.usefixtures("with_starter")
def test_keys_move_the_temperature_after_ctrl_z_and_fg() -> None:
    with Talk(command=("bash", "--norc", "--noprofile", "-i"), env={"PS1": "$ ", "PS2": ""}) as shell:
        shell.wait_line("$")
        shell.keys(" ".join(f'"{word}"' for word in (*CHAT, *FLAGS)), ENTER)
        begin(shell)
        shell.keys(UP)
        wait_foot(shell, "temp 0.8 → 0.9")
        shell.keys(CTRL_Z)
        shell.until(lambda: "Stopped" in shell.text() and shell.line() == "$", "the shell")
        shell.keys("fg", ENTER)
        shell.until(lambda: shell.text().rpartition("\n")[2].startswith(FOOT) and not echoes(shell), "the row again")
        shell.keys(DOWN, DOWN)
        wait_foot(shell, "temp 0.8 → 0.7")
        shell.keys("typed ahead")
        shell.wait_read()
        stop(shell, f"{PROMPT} typed ahead")


@pytest.mark.usefixtures("with_starter")
def test_keys_without_a_row_or_an_effect_are_explained() -> None:
    with Talk(*FLAGS, "--no-markdown", columns=40, env={"NO_COLOR": "1"}) as chat:
        begin(chat)
        chat.keys("+", UP)
        wait_words(chat, 120)  # a thread reads the keys, and here they change nothing on the screen
        shown = stop(chat)
        assert "↑↓" not in chat.raw.decode()
        assert "temperature moved: +0." in shown
        chat.ready().ask("/markdown on")
        chat.ask("/temp sentence:1.1,0.3..0.9")
        begin(chat)
        chat.keys(DOWN)
        moved = "Ctrl-C stops · ↑↓ temp 1.1 → 1.0", "Ctrl-C stops · ↑↓ temp 0.3..0.9 -0.1"
        chat.until(lambda: chat.foot() in moved, "the moved temperature")
        stop(chat)
        chat.ready().ask("/samplers top_k")
        begin(chat)
        chat.keys(DOWN)
        chat.until(lambda: "↑↓ no temperature in the samplers" in chat.screen(), "the row of the keys")
        assert "↑↓ had no effect: the sampler chain has" in stop(chat)


def test_keys_typed_ahead_reach_no_question_and_no_editor(tmp_path: Path) -> None:
    folder = tiny_home(tmp_path / "folder", long=r'"ab "*')
    (folder / "t.md").write_text("old")
    editor = script(folder / "ed", """exec bash -c 'read -t 0.2 line; printf "read <%s>" "$line" > "$0"' "$1\"""")
    flags = (*TINY, "-c", "2048", "-n", "1800", "--ignore-eos", "--grammar-file", "long.gbnf")
    with Talk(*flags, cwd=folder, env={"EDITOR": str(editor)}) as chat:
        chat.ready().send("hi")
        chat.wait_for("ab ab")
        chat.keys(f"/export t.md{ENTER}y{ENTER}/editor{ENTER}rest")  # at once: the answer ends by itself
        chat.wait_line("[y/N]")  # the answer has ended
        assert (folder / "t.md").read_text() == "old"
        chat.keys("n", ENTER)
        chat.wait_for("choose another name")
        chat.wait_for(f"{PROMPT} y")
        chat.until(lambda: chat.text().rpartition(f"{PROMPT} y")[2].count("ab") > 5, "an answer to y")
        chat.wait_line("rest")
        assert "read <>rest" in chat.line()
