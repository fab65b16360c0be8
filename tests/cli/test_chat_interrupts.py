"""Ctrl-C, signals, Ctrl-Z and closed windows: nothing is lost, and the terminal is restored."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.chat_terminal import (
    CHAT,
    CTRL_BACKSLASH,
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    ENTER,
    FOOT,
    LEAVE,
    PROMPT,
    Talk,
    pasted,
)

pytestmark = [
    pytest.mark.terminal,
    pytest.mark.usefixtures("with_starter"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]

FLAGS = ("--temp", "0", "-t", "1", "-c", "8192", "--ignore-eos")
STORY = "Tell me a long story."
BEGINNING = "I'm"  # how the starter tells a story
STOPPED = "stopped; /continue resumes, /retry answers again"


def modes(chat: Talk) -> list[Any]:
    import termios

    return termios.tcgetattr(chat.child.child_fd)


def in_shell() -> Talk:
    """A shell with job control, as a terminal has it."""
    chat = Talk(command=("bash", "--norc", "--noprofile", "-i"), env={"PS1": "$ ", "PS2": ""})
    chat.wait_line("$")
    return chat


def start_story(chat: Talk) -> None:
    """Ask for a story, and wait for its first words."""
    chat.send(STORY)
    chat.until(lambda: BEGINNING in chat.answer(STORY), "the story")


def stop(chat: Talk) -> None:
    """Press Ctrl-C twice; the second one can also come when the prompt is back, and then says how to leave."""
    chat.keys(CTRL_C, CTRL_C)
    chat.until(lambda: chat.line() == PROMPT and (" · " in chat.status() or chat.status() == LEAVE), "the prompt")


def saved_messages(home: Path) -> list[dict[str, Any]]:
    """The messages of the only session on disk."""
    (file,) = (home / "data" / "sessions").glob("*.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return [event for event in events if event["type"] == "message"]


def written_since(chat: Talk, start: int, what: bytes) -> bool:
    return what in chat.raw[start:]


def echoes(chat: Talk) -> bool:
    """Whether the terminal shows by itself what is typed."""
    import termios

    return bool(modes(chat)[3] & termios.ECHO)


def is_restored(raw: bytes) -> bool:
    """Whether the cursor is shown and pastes are no longer in brackets."""
    pairs = ((b"\x1b[?25h", b"\x1b[?25l"), (b"\x1b[?2004l", b"\x1b[?2004h"))
    return all(raw.rfind(off) < raw.rfind(on) for on, off in pairs)


def test_ctrl_c_returns_to_the_prompt_in_every_state() -> None:
    with Talk(*FLAGS) as chat:
        chat.ready().send("hi")  # the model is still loading, or has just been loaded
        chat.until(lambda: len(chat.text().split("\n")) > 1, "the spinner, or the answer")
        chat.keys(CTRL_C)
        chat.until(lambda: "not sent" in chat.text() or "stopped; " in chat.text(), "the stop, before or after a token")
        chat.until(lambda: chat.line() in (PROMPT, f"{PROMPT} hi"), "the prompt")
        if chat.line() != PROMPT:  # the message that was not sent
            chat.keys(CTRL_C)
        chat.ready()
        chat.ask("/clear")
        chat.keys(CTRL_C)
        chat.wait_for(LEAVE)
        chat.type("never sent")
        chat.keys(CTRL_C)
        chat.ready()
        start_story(chat)  # streaming
        chat.keys(CTRL_C)
        chat.ready()
        assert chat.text().count(STOPPED) >= 1
        first_words = chat.ask("/history 1").split("interrupt\n")[1].split()
        assert first_words[:1] == [BEGINNING]
        chat.send("/continue")
        stop(chat)
        chat.ask("/clear")
        chat.keys(pasted("The quick brown fox jumps over the lazy dog. " * 500))  # 5,000 tokens to read
        chat.wait_line("characters]")
        chat.keys(ENTER)
        chat.wait_for("reading the prompt")
        stop(chat)
        chat.ask("/clear")
        chat.ask("/max_tokens 8")
        assert chat.ask("What is a comet?").startswith("A comet is a small, icy particle\n")
        chat.keys(CTRL_D)
        assert chat.wait_end() == 0
        assert is_restored(chat.raw)
        assert "Traceback" not in chat.text()


def test_ctrl_c_at_once_after_enter_stops_the_answer() -> None:
    with Talk(*FLAGS) as chat:
        chat.ready().keys(f"{STORY}{ENTER}{CTRL_C}")  # before the prompt has restored the terminal
        chat.until(lambda: "not sent" in chat.text() or "stopped; " in chat.text(), "the stop, before or after a token")
        chat.until(lambda: chat.line() in (PROMPT, f"{PROMPT} {STORY}"), "the prompt")


def test_lines_typed_before_ctrl_c_are_in_the_line_and_do_not_run() -> None:
    with Talk(*FLAGS) as chat:
        chat.ready()
        start_story(chat)
        chat.keys("tell me", ENTER, "/clear", ENTER)
        chat.wait_read()
        chat.keys(CTRL_C)
        chat.wait_line("  /clear")
        chat.keys(CTRL_C)
        chat.ready()
        assert STOPPED in chat.text()
        assert "new conversation" not in chat.text()
        assert "tell me" not in chat.ask("/history")


def test_lines_typed_during_a_comparison_do_not_run_after_ctrl_c() -> None:
    with Talk(*FLAGS) as chat:
        chat.ready()
        chat.send(f"/compare {STORY} temp=0,1")
        chat.wait_for(BEGINNING)
        chat.keys("tell me", ENTER, "/clear", ENTER)
        chat.wait_more(320)  # a thread reads the keys, and here they change nothing on the screen
        chat.keys(CTRL_C)
        chat.wait_line("  /clear")
        chat.keys(CTRL_C)
        chat.ready()
        assert "new conversation" not in chat.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_chat_and_restores_the_terminal(home: Path, number: int) -> None:
    with in_shell() as shell:
        before = modes(shell)
        for streaming in (False, True):
            shell.keys(" ".join(f'"{word}"' for word in (*CHAT, *FLAGS)) + "; echo end $?", ENTER)
            shell.ready()
            assert modes(shell) != before
            if streaming:
                start_story(shell)
            written = len(shell.raw)
            pid = int(Path(f"/proc/{shell.child.pid}/task/{shell.child.pid}/children").read_text().split()[0])
            os.kill(pid, number)
            end = f"end {128 + number}".encode()
            shell.until(partial(written_since, shell, written, end), "the end")
            shell.until(lambda: shell.line().startswith("$"), "the shell")
            assert modes(shell) == before
            assert is_restored(shell.raw[: shell.raw.index(end, written)])
        assert "Traceback" not in shell.text()
    user, model = saved_messages(home)
    assert user["content"] == STORY
    assert (model["finish_reason"], model["content"].split()[0]) == ("interrupt", BEGINNING)


def test_a_window_closed_while_an_answer_streams_loses_nothing(home: Path) -> None:
    with Talk(*FLAGS) as chat:
        chat.ready()
        start_story(chat)
        pid = chat.child.pid
        chat.child.ptyproc.fileobj.close()  # what a window manager does
        gone, _ = os.waitpid(pid, 0)
        assert gone == pid
        chat.child.ptyproc.terminated = True
    assert [message["role"] for message in saved_messages(home)] == ["user", "assistant"]
    assert saved_messages(home)[1]["content"].startswith(BEGINNING)


def test_ctrl_backslash_in_an_answer_restores_the_terminal() -> None:
    import termios

    with Talk(*FLAGS) as chat:
        chat.ready()
        start_story(chat)
        assert not echoes(chat)
        chat.keys(CTRL_BACKSLASH)
        assert chat.wait_end() == 128 + signal.SIGQUIT
        assert echoes(chat)
        assert modes(chat)[3] & termios.ICANON
        assert modes(chat)[0] & termios.ICRNL
        assert is_restored(chat.raw)


def test_ctrl_z_and_fg_work_at_the_prompt_and_in_an_answer(home: Path) -> None:
    with in_shell() as shell:
        before = modes(shell)
        shell.keys(" ".join(f'"{word}"' for word in (*CHAT, *FLAGS)), ENTER)
        shell.ready().type("half a mess")
        shell.keys(CTRL_Z)
        shell.wait_for("Stopped")
        shell.wait_line("$")
        assert modes(shell) == before
        shell.keys("fg", ENTER)
        shell.until(lambda: shell.line() == f"{PROMPT} half a mess", "the line as it was")
        shell.keys(CTRL_C)
        shell.ready()
        start_story(shell)
        shell.keys(CTRL_Z)
        shell.until(lambda: shell.text().count("Stopped") == 2 and shell.line() == "$", "the shell again")
        assert modes(shell) == before
        shell.keys("fg", ENTER)
        shell.until(lambda: shell.line().startswith(FOOT), "the row below the answer")
        shell.wait_more(120)
        shell.keys(CTRL_C)
        shell.ready()
        assert STOPPED in shell.text()
        shell.keys(CTRL_D)
        shell.wait_line("$")
        assert modes(shell) == before
    assert saved_messages(home)[1]["finish_reason"] == "interrupt"
