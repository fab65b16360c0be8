"""The keys of the input line, and the text that they send."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.errors import DiskError, UsageError
from llmcli.ui.input.reader import LEAVE
from llmcli.ui.terminal.console import edit
from tests.ui.input.keyboard import (
    ALT_ENTER,
    BACKSPACE,
    CTRL_C,
    CTRL_D,
    CTRL_E,
    CTRL_R,
    CTRL_X,
    DOWN,
    ENTER,
    ESCAPE,
    HOME,
    LEFT,
    NEW_LINE,
    RIGHT,
    TAB,
    UP,
    Keyboard,
    keyboard,
    paste,
)


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Keyboard]:
    with keyboard(tmp_path / "history.jsonl") as keys:
        yield keys


def commands(before: str) -> Iterator[tuple[str, int, str]]:
    word = before.split(" ")[-1]
    for text in ("top_p ", "top_k ") if before.startswith("/set ") else ("/set ", "/seed ", "/exit", "@file.txt"):
        if (word and text.startswith(word)) or before == "/set ":
            yield text, len(word), "a note"


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (["hi", ENTER], "hi"),
        ([ENTER, "  ", ENTER, "hi", ENTER], "  hi"),
        (["a", ALT_ENTER, "b", ENTER], "a\nb"),
        (["a", NEW_LINE, "b", ENTER], "a\nb"),
        (["a\\", ENTER, "b", ENTER], "a\nb"),
        (["a\\b", ENTER], "a\\b"),
        (["ab\\", LEFT, LEFT, ENTER], "ab\\"),
        (['"""', ENTER, "a", ENTER, '"""', ENTER], "a"),
        (['"""', ENTER, 'a"""', ENTER, '"""', ENTER], 'a"""'),
        (['"""a\\', ENTER, 'b"""', ENTER], "a\\\nb"),
        (['""""""', ENTER, "b", ENTER], "b"),
        (["ab", LEFT, CTRL_D, ENTER], "a"),
        (["wrong", CTRL_C, "right", ENTER], "right"),
        ([CTRL_C, CTRL_C, "x", ENTER], "x"),
        (["b", HOME, "a", ENTER], "ab"),
        (["naïve 🙂 你好", ENTER], "naïve 🙂 你好"),
    ],
)
def test_keys_send_a_text(typed: Keyboard, keys: list[str], sent: str) -> None:
    assert typed(*keys) == sent


@pytest.mark.parametrize(
    ("pasted", "sent"),
    [
        ("a\nb\n", "a\nb\n"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[31mred\x07\x00\x7f\x9b\tx", "[31mred\tx"),
        ('"""\na\n"""\n', "a"),
        ("/exit\n", "/exit\n"),
        ("line\n" * 300, "line\n" * 300),
    ],
)
def test_a_paste_never_sends(typed: Keyboard, pasted: str, sent: str) -> None:
    assert typed(paste(pasted), ENTER) == sent


@pytest.mark.parametrize(
    "text", ["/exit\nmore", "/help me\n", "/help\n\n" + "line\n" * 300, '"""Doc.\nmore\n"""\nimport x', '"""a."""\nb']
)
def test_pasted_lines_are_a_message_also_from_the_history(typed: Keyboard, text: str) -> None:
    is_line = text.count("\n") == 1 and text.endswith("\n")
    assert typed(paste(text), ENTER) == text
    assert typed.reader.is_block is not is_line
    assert typed(UP, ENTER) == text
    assert typed.reader.is_block is not is_line


def test_text_typed_after_a_paste_is_in_its_block(typed: Keyboard) -> None:
    assert typed(paste("/exit\nmore"), "!", ENTER) == "/exit\nmore!"
    assert typed("see ", paste("/exit\nmore"), ENTER) == "see /exit\nmore"
    assert not typed.reader.is_block


def test_a_message_that_was_not_sent_stays_a_message(typed: Keyboard) -> None:
    assert typed("?", ENTER, default="/exit\nmore") == "/exit\nmore?"
    assert typed.reader.is_block
    assert typed("/exit", ENTER) == "/exit"
    assert not typed.reader.is_block


def test_ctrl_d_on_an_empty_line_ends(typed: Keyboard) -> None:
    with pytest.raises(EOFError):
        typed("a", BACKSPACE, CTRL_D)


def test_a_keyboard_that_is_gone_ends(typed: Keyboard) -> None:
    typed.keys.close()
    with pytest.raises(EOFError):
        typed("a")


def test_multiline_swaps_enter_and_alt_enter(typed: Keyboard) -> None:
    typed.reader.multiline = True
    assert typed("a", ENTER, "b", ALT_ENTER) == "a\nb"
    assert typed("/multiline", ENTER) == "/multiline"  # the way back


@pytest.mark.slow
def test_up_goes_through_the_text_and_then_the_history(typed: Keyboard) -> None:
    assert typed("one", ENTER) == "one"
    assert typed("two", NEW_LINE, "lines", ENTER) == "two\nlines"
    typed.reader.history.append_string("from the editor")
    assert typed(UP, ENTER) == "from the editor"
    assert typed(UP, UP, UP, UP, ENTER) == "one"
    assert typed(UP, UP, DOWN, "!", ENTER) == "one!"


def test_the_history_is_searched(typed: Keyboard) -> None:
    for text in ("apples and pears", "plums"):
        typed(text, ENTER)
    assert typed(CTRL_R, "pea", ENTER, ENTER) == "apples and pears"
    assert typed("x", CTRL_R, "pea", CTRL_C, ENTER) == "x"


@pytest.mark.parametrize("key", [RIGHT, CTRL_E])
def test_the_newest_message_with_the_same_start_is_suggested(typed: Keyboard, key: str) -> None:
    for text in ("tell me a joke", "tell me more\nof it"):
        typed(text, ENTER) if "\n" not in text else typed(paste(text), ENTER)
    assert typed("tell", key, ENTER) == "tell me more"
    assert typed("tell me a", key, ENTER) == "tell me a joke"
    assert typed("ell", key, ENTER) == "ell"


def test_the_default_is_in_the_line(typed: Keyboard) -> None:
    assert typed("!", ENTER, default="edit\r\nme") == "edit\nme!"


def test_enter_takes_the_chosen_completion_or_sends(typed: Keyboard) -> None:
    typed.again(commands)
    assert typed("/se", ENTER) == "/se"  # the menu is open, nothing is chosen
    assert typed("/se", DOWN, DOWN, ENTER, ENTER) == "/seed "
    assert typed("/set ", DOWN, ENTER, "1", ENTER) == "/set top_p 1"
    assert typed("see @f", TAB, ENTER) == "see @file.txt"  # Tab takes the only one at once
    assert typed("/ex", TAB, ENTER) == "/exit"
    assert typed("/set x", CTRL_C, "ab /se", TAB, "t", ENTER) == "ab /set"  # asked for, and both have it in common
    assert typed("/se", DOWN, ESCAPE, "x", ENTER) == "/sex"  # Escape gives the typed text back


def test_only_commands_and_files_open_the_menu(typed: Keyboard) -> None:
    asked: list[str] = []

    def suggest(before: str) -> list[tuple[str, int, str]]:
        asked.append(before)
        return []

    typed.again(suggest)
    typed("say /a to me@here", NEW_LINE, "/b", ENTER)
    assert asked == []
    typed("a @b", ENTER)
    assert set(asked) == {"a @b"}


def test_a_fault_in_a_callback_does_not_end_the_prompt(typed: Keyboard) -> None:
    def broken(before: str) -> Iterator[tuple[str, int, str]]:
        yield "/x", 99, ""
        raise RuntimeError(before)

    def status() -> str:
        raise RuntimeError

    typed.again(broken, status, hint=status)
    assert typed("/", TAB, ENTER, ENTER) == "/x"


def test_ctrl_c_on_an_empty_line_shows_how_to_leave(typed: Keyboard) -> None:
    typed.again(status=lambda: "the status\nin one line")
    shown: list[str] = []
    typed.reader._app.after_render += lambda _app: shown.append(typed.reader._footer())
    typed(CTRL_C, "x", CTRL_C, "y", ENTER)
    assert [text for text, before in zip(shown, ["", *shown], strict=False) if text != before] == [
        "the status in one line",
        LEAVE,
        "the status in one line",
    ]


def test_vi_keys_edit_the_line(typed: Keyboard) -> None:
    typed.again(mode="vi")
    assert typed("wrong word", ESCAPE, "0", "ce", "right", ESCAPE, "A", "s", ENTER) == "right words"
    assert typed("a", ESCAPE, "k", ENTER) == "right words"
    assert typed("a", ALT_ENTER, "b", ESCAPE, ENTER) == "a\nb"


@pytest.mark.skipif(sys.platform == "win32", reason="the editor is a shell script")
def test_the_editor_changes_the_text_and_a_broken_one_leaves_it(
    typed: Keyboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ntest "$(stat -c %a "$1")" = 600 && sed -i s/a/b/g "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(editor))
    long = "a" * 20_000
    assert typed(paste(long), CTRL_X + "\x05", ENTER) == "b" * 20_000
    for broken in ("/no/such/editor", "false", "'"):
        monkeypatch.setenv("EDITOR", broken)
        assert typed("a", CTRL_X + "\x05", ENTER) == "a"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("llmcli-")]


def test_refresh_from_another_thread_shows_the_new_status(typed: Keyboard) -> None:
    words = ["loading"]
    typed.again(status=lambda: words[0])
    typed.reader.refresh()  # nothing to draw yet

    def load() -> None:
        words[0] = "ready"
        typed.reader.refresh()

    def drawn(_app: object) -> None:
        if words == ["loading"] and typed.reader.buffer.text == "x":
            words.append("is loading")
            threading.Thread(target=load).start()
        elif words[0] == "ready":
            typed.keys.send_text(ENTER)

    typed.reader._app.after_render += drawn
    assert typed("x") == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="the editor is a shell command")
def test_edit_removes_the_last_newline_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "sed -i -e '$a more' -e s/ü/u/")
    assert edit("ü\n") == "u\n\nmore"
    monkeypatch.setenv("VISUAL", " ")
    monkeypatch.setenv("EDITOR", "/no/such/editor --flag")
    with pytest.raises(DiskError, match="cannot run the editor '/no/such/editor'"):
        edit("")
    monkeypatch.setenv("EDITOR", "false")
    with pytest.raises(UsageError, match="status 1"):
        edit("")


@pytest.mark.skipif(sys.platform == "win32", reason="the editor is a shell command")
def test_an_editor_in_a_script_leaves_stdin_and_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISUAL", "sh -c 'cat; echo drawn; echo text > $0'")
    read, write = os.pipe()
    os.write(write, b"the next turn\n")
    os.close(write)
    kept = os.dup(0)
    os.dup2(read, 0)
    try:
        assert edit("") == "text"
        assert os.read(0, 99) == b"the next turn\n"
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(read)
    assert capfd.readouterr().out == ""


def test_ctrl_c_ends_an_edit_of_the_chat_without_a_hint(typed: Keyboard) -> None:
    changes = ["a change"]
    typed.reader.on_interrupt = lambda: bool(changes and changes.pop())
    typed(CTRL_C, "x", ENTER, default="old text")
    assert not changes
