"""Keys in the chat: completion, editing, lines, pastes and history."""

import sys
from pathlib import Path

import pytest

from tests.cli.chat_terminal import (
    ALT_ENTER,
    BACKSPACE,
    CTRL_C,
    CTRL_D,
    CTRL_J,
    CTRL_R,
    CTRL_X_CTRL_E,
    DOWN,
    ENTER,
    ESCAPE,
    PROMPT,
    TAB,
    TINY,
    UP,
    Talk,
    pasted,
    script,
    tiny_home,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

YES = (*TINY, "--grammar-file", "yes.gbnf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_home(tmp_path / "folder", yes='"yes"')


def test_commands_settings_values_and_files_are_completed(folder: Path) -> None:
    (folder / "notes of may.txt").write_text("rain")
    with Talk(*YES, cwd=folder) as chat:
        chat.ready().keys("/bran")
        chat.until(lambda: "/branch " in chat.text() and "/branches " in chat.text(), "the menu")
        chat.keys("ches", ENTER)
        chat.wait_for("the conversation is empty")
        chat.ready().keys("/top_")
        chat.wait_for("now 0.95 · between 0 and 1")
        chat.keys("p 0.5", ENTER)
        chat.wait_for("top_p = 0.5")
        chat.ready().keys("/overflow old")
        chat.wait_for("oldest  now ask")
        chat.keys(TAB)
        chat.wait_line("/overflow oldest")
        chat.keys(ENTER)
        chat.wait_for("overflow = oldest")
        chat.ready().ask("/seed 7")
        chat.keys("/reset se")
        chat.until(lambda: any(line.strip() == "seed" for line in chat.screen()), "the menu")
        chat.keys(TAB)
        chat.wait_line("/reset seed")
        chat.keys(ENTER)
        chat.wait_for("reset: seed")
        chat.ready().keys("read @not")
        chat.until(lambda: '@"notes of may.txt"' in chat.text(), "the menu")
        chat.keys(TAB)
        chat.wait_line('read @"notes of may.txt"')
        chat.keys(ENTER)
        chat.wait_for("attached: notes of may.txt")
        chat.ready().keys("/think h")
        chat.wait_for("hide")
        chat.keys(ESCAPE, CTRL_C)
        chat.ready()


def test_keys_blocks_and_pastes_make_several_lines(folder: Path) -> None:
    with Talk(*YES, cwd=folder) as chat:
        chat.ready().keys("a", ALT_ENTER, "b", CTRL_J, "c\\", ENTER, "d")
        chat.until(lambda: chat.line() == "  d", "four lines")
        chat.keys(ENTER)
        chat.ready().keys('"""', ENTER, "e", ENTER, ENTER, "f", ENTER)
        chat.until(lambda: chat.line() == "", "an open block")
        chat.keys('"""', ENTER)
        chat.ready().keys(pasted("g\r\nh\n/exit\n"))
        chat.until(lambda: "  /exit" in chat.screen(), "the paste")
        assert "yes" not in chat.text().rpartition("> g")[2]  # a paste sends nothing
        chat.keys("i", ENTER)
        chat.ready().ask("/multiline on")
        chat.keys("j", ENTER, "k")
        chat.until(lambda: chat.line() == "  k", "two lines")
        chat.keys(ALT_ENTER)
        chat.ready().ask("/multiline off")
        shown = chat.ask("/history")
        for text in ("\na\nb\nc\nd\n", "\ne\n\nf\n", "\ng\nh\n/exit\ni\n", "\nj\nk\n"):
            assert text in shown, text


def test_the_line_has_an_editor_suggestions_and_a_search(folder: Path) -> None:
    editor = script(folder / "ed", 'printf "%s, edited" "$(cat "$1")" > "$1"')
    with Talk(*YES, cwd=folder, env={"EDITOR": str(editor)}) as one, Talk(*YES, cwd=folder) as other:
        other.ready().ask("from another chat")
        one.ready().ask("first message")
        one.ask("second message")
        one.keys("fir")
        one.wait_line("> first message")  # suggested
        one.keys("\x1b[C", ENTER)  # Right takes it
        one.ready().keys(UP, UP)
        one.wait_line("> second message")
        one.keys(DOWN, BACKSPACE * 8, CTRL_X_CTRL_E)
        one.wait_line("> first, edited")
        one.keys(CTRL_C)
        one.ready().keys(CTRL_R, "second")
        one.until(lambda: any(line.startswith("> second message") for line in one.screen()), "the search")
        one.keys(ENTER)
        one.until(lambda: one.line() == "> second message", "what was found")
        one.keys(CTRL_C)
        one.ready().keys(CTRL_C)
        one.wait_for("Ctrl-D or /exit ends the chat")
        one.keys("x", BACKSPACE, CTRL_D)
        assert one.wait_end() == 0
        other.ready().keys(CTRL_D)
        assert other.wait_end() == 0
    with Talk(*YES, cwd=folder) as late:
        late.ready().keys(CTRL_R, "another")
        late.until(lambda: any(line.startswith("> from another chat") for line in late.screen()), "the other's")
        late.keys(ENTER)
        late.wait_line("> from another chat")
        late.keys(CTRL_C)
        late.ready().keys(UP)
        late.until(lambda: late.line() != PROMPT, "the last one of both")


def test_keys_typed_during_an_answer_wait_for_the_prompt(folder: Path) -> None:
    with Talk(*TINY, "--grammar-file", "yes.gbnf", cwd=folder) as chat:
        chat.ready().keys("hi", ENTER, "again", ENTER, pasted("and\nonce"), "more")
        chat.wait_line("  oncemore")
        assert chat.text().count("again") == 1
        chat.keys(ENTER)
        assert "\nand\noncemore\n" in chat.ready().ask("/history")


def test_vi_keys_work_in_the_chat(folder: Path) -> None:
    with Talk(*YES, "--editing-mode", "vi", cwd=folder) as chat:
        chat.ready().keys("wrong words")
        chat.wait_line("wrong words")
        chat.keys(ESCAPE)
        chat.until(lambda: b"\x1b[2 q" in chat.raw or b"\x1b[1 q" in chat.raw, "the cursor of vi's normal mode")
        chat.keys("0", "ce", "right")
        chat.until(lambda: chat.line() == "> right words", "the changed word")
        chat.keys(ENTER)
        assert "\nright words\n" in chat.ready().ask("/history")
