"""Whole conversations as a user sees them on a terminal."""

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.chat_terminal import CTRL_C, CTRL_D, ENTER, GREEDY, PROMPT, TINY, Talk, pasted, script, tiny_home
from tests.conftest import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

MARKDOWN = r'"# Title\n\nwords that go on until a narrow window is full\n\n- a\n- **b**\n\n```py\nprint(1)\n```\n"'
COLOR = re.compile(rb"\x1b\[[0-9;]*[34][0-9](;[0-9;]*)?m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny model, and a grammar for each answer that it can give."""
    return tiny_home(
        tmp_path / "folder",
        three='"one two three."',
        md=MARKDOWN,
        think=r'"<think>\nLet me see.\n</think>\n\nSo it is."',
        escapes=r'"a\x1b[31mred\x1b]0;title\x07 \x9b2J b\rc\u202e d"',
        long=r'"ab "*',
        line=r'"ab"*',
    )


def wrap(text: str, columns: int = 79) -> list[str]:
    return textwrap.wrap(text, columns)


@pytest.mark.usefixtures("with_starter")
def test_every_row_of_a_conversation_is_as_expected(run: Run) -> None:
    comet, star, again = run(
        "chat", *GREEDY, "--no-save", stdin="What is a comet?\nAnd a star?\n/retry max_tokens=4\n"
    ).text.splitlines()
    with Talk(*GREEDY) as chat:
        chat.loaded()
        for text in ("What is a comet?", "And a star?", "/retry max_tokens=4"):
            chat.ask(text)
        assert chat.text().split("\n")[:-1] == [
            "> What is a comet?", "", *wrap(comet), "", "cut off: max_tokens is 20; /continue resumes",
            "> And a star?", "", *wrap(star), "", "cut off: max_tokens is 20; /continue resumes",
            "> /retry max_tokens=4", "", *wrap(again), "", "cut off: max_tokens is 4; /continue resumes",
            PROMPT,
        ]  # fmt: skip
        assert re.fullmatch(
            r"starter · context \d+/1\.0k · temp 0 · \d+ tokens?/s · \d{4}-\d\d-\d\d-what-is-a-comet", chat.status()
        )
        chat.keys(CTRL_D)
        assert chat.wait_end() == 0


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 5)])
def test_markdown_is_rendered_in_every_window(folder: Path, columns: int, rows: int) -> None:
    with Talk(*TINY, "--grammar-file", "md.gbnf", columns=columns, rows=rows, cwd=folder) as chat:
        chat.ready().send("hi")
        chat.ready()
        lines = chat.text().split("\n")
        answer = lines[lines.index("Title") : len(lines) - lines[::-1].index(PROMPT) - 1]
        words = wrap("words that go on until a narrow window is full", columns - 1)
        assert answer == ["Title", "", *words, "", "• a", "• b", "", "── py ──", "print(1)", "────────", ""]
        assert b"**" not in chat.raw
        assert chat.text().count("print(1)") == 1
        assert COLOR.search(chat.raw)


def test_control_characters_are_visible_and_reasoning_wraps(folder: Path) -> None:
    with Talk(*TINY, cwd=folder) as chat:
        chat.ready().ask("/grammar_file think.gbnf")
        assert re.search(r"\nthought for [\d.]+ s · 3 words\n\nSo it is\.\n$", chat.ask("hi"))
        assert chat.ask("/think") == "Let me see."
        chat.ask("/think hide")
        assert chat.ask("hi") == "So it is.\n"
        chat.ask("/grammar_file escapes.gbnf")
        assert chat.ask("hi") == "a␛[31mred␛]0;title␇ \\x9b2J bc\\u202e d\n"
        assert b"title\x07" not in chat.raw
        chat.ask("/reset grammar_file")
        for byte in (0xE2, 0xFF):  # the token of this byte alone: no UTF-8
            chat.ask(f"/logit_bias {byte + 3}=+1000")
            assert set(chat.ask("hi").partition("cut off")[0].replace("\n", "")) == {"�"}
        assert chat.text().count("tiny has no chat template: a plain one is used") == 1


def test_an_endless_line_is_printed_once_and_completely(folder: Path) -> None:
    with Talk(*TINY, "-n", "301", "--ignore-eos", columns=40, rows=8, cwd=folder) as chat:
        chat.ready()
        for name in ("long", "line"):
            chat.ask(f"/grammar_file {name}.gbnf")
            shown = chat.ask("hi").rpartition("chat_template)")[2].partition("cut off")[0]
            words = "".join(shown.split())
            assert words == "ab" * (len(words) // 2) + "a" * (len(words) % 2)
            answer = chat.ask("/history 1")
            assert words == "".join(answer.partition("length\n")[2].split())
            assert len(words) > 150


def test_messages_are_edited_in_the_line_and_in_the_editor(folder: Path) -> None:
    editor = script(folder / "ed", 'printf "from the editor" > "$1"')
    with Talk(*TINY, "--seed", "3", "--grammar-file", "three.gbnf", cwd=folder, env={"EDITOR": str(editor)}) as chat:
        chat.ready().ask("hi")
        chat.send("/edit")
        chat.wait_line("> hi")
        assert chat.status() == "editing message 1 · Enter saves it · Ctrl-C cancels"
        chat.keys(" there", ENTER)
        chat.ready()
        chat.send("/edit 2")
        chat.wait_line("> one two three.")
        chat.keys(" four", ENTER)
        chat.ready()
        assert "1 you" in (shown := chat.ask("/history"))
        assert "\nhi there\n" in shown
        assert "\none two three. four\n" in shown
        rows = chat.ask("/branches").split("\n")[1:]
        assert [row.split()[:2] for row in rows] == [["1", "2"], ["2", "2"], ["3*", "2"]]
        chat.send("/edit 1")
        chat.wait_line("> hi there")
        chat.keys(CTRL_C)
        chat.ready().ask("/branch 1")
        chat.send("/editor")
        chat.wait_line("> from the editor")
        chat.keys(ENTER)
        chat.ready()
        assert "\nfrom the editor\n" in chat.ask("/history")


def test_a_summary_is_shown_then_used_edited_or_dropped(folder: Path) -> None:
    editor = script(folder / "ed", 'printf "my summary" > "$1"')
    with Talk(*TINY, "--seed", "3", "--grammar-file", "three.gbnf", cwd=folder, env={"EDITOR": str(editor)}) as chat:
        chat.ready()
        for text in ("first", "second", "third"):
            chat.ask(text)
        chat.send("/compact 1")
        chat.choose("no", "Enter = yes")
        assert "6 model" in chat.ask("/history 1")
        chat.send("/compact 1")
        chat.choose("e", "Enter = yes")
        shown = chat.ask("/history")
        assert re.match(r"1 summary .*\nmy summary\n\n2 you .*\nthird\n", shown)
        chat.send("/compact 0")
        chat.choose("", "Enter = yes")
        assert re.match(r"1 summary ", shown := chat.ask("/history"))
        assert "third" not in shown
        assert chat.ask("/branch 1").startswith("5 you")


def test_copy_export_markdown_and_context_work_on_a_terminal(folder: Path) -> None:
    env = {"PATH": "/usr/bin:/bin"} | dict.fromkeys(
        ("DISPLAY", "WAYLAND_DISPLAY", "SSH_TTY", "SSH_CONNECTION", "TMUX"), ""
    )
    (folder / "t.md").write_text("old")
    with Talk(*TINY, "--grammar-file", "md.gbnf", cwd=folder, env=env) as chat:
        chat.ready().ask("hi")
        assert chat.ask("/copy code") == "copied 9 characters (the terminal puts them on the clipboard)"
        assert b"\x1b]52;c;cHJpbnQoMSkK\x07" in chat.raw
        chat.send("/export t.md")
        chat.choose("", "[y/N")
        assert "error: t.md already exists" in chat.text()
        chat.send("/export t.md")
        chat.choose("y", "[y/N")
        assert "print(1)" in (folder / "t.md").read_text()
        chat.ask("/markdown off")
        assert "\n- **b**\n" in chat.ask("/retry")
        bar, facts, *_ = chat.ask("/context").split("\n")
        assert re.fullmatch(r"\[[█▓]+·+\]", bar)
        assert re.match(r"\d+ of 1024 tokens, \d+ free", facts)


def test_a_full_context_asks_what_to_do_before_it_sends(folder: Path) -> None:
    fill = " and so on and on" * 3
    with Talk(*TINY, "-c", "256", "--grammar-file", "three.gbnf", cwd=folder) as chat:
        chat.ready().ask("a" + fill)
        chat.ask("b" + fill)
        chat.send("c" + fill)
        chat.wait_for("the conversation does not fit")
        chat.wait_line("Enter = back]")
        chat.keys(ENTER)
        chat.wait_line("c" + fill)  # taken back, and not lost
        assert "warning: the model no longer" not in chat.text()
        chat.keys(ENTER)
        chat.choose("o", "Enter = back")
        assert "warning: the model no longer reads messages 1 to 2" in chat.text()
        assert "not read" in chat.ask("/context")
        chat.ask("/overflow error")
        chat.keys("d" + fill, ENTER)  # which stands in the line again at once
        chat.wait_for("error: the conversation has 1")
        chat.wait_line("d" + fill)


def test_a_refused_megabyte_stays_in_the_line(folder: Path) -> None:
    with Talk(*TINY, "--overflow", "oldest", "--grammar-file", "three.gbnf", cwd=folder) as chat:
        chat.ready().keys(pasted("word " * 200_000))
        chat.wait_line("[pasted 1,000,000 characters]")
        chat.keys(ENTER)
        chat.wait_for("error: the message has more than")
        chat.wait_line("[pasted 1,000,000 characters]")
        chat.keys(CTRL_C)
        (folder / "x.bin").write_bytes(bytes(range(256)))
        chat.ready().keys("see @x.bin", ENTER)
        chat.wait_for("error: x.bin")
        chat.wait_line("> see @x.bin")
        chat.keys(CTRL_C)
        assert chat.ready().ask("hi").endswith("one two three.\n")


@pytest.mark.usefixtures("with_starter")
def test_the_window_can_be_resized_while_an_answer_streams(run: Run) -> None:
    flags = ("--temp", "0", "-n", "36", "-t", "1", "-c", "1024")
    answer = run("chat", *flags, "--no-save", stdin="What is a comet?\n").text
    with Talk(*flags, columns=40, rows=12) as chat:
        chat.ready().send("What is a comet?")
        chat.wait_for(" ".join(answer.split()[:3]))
        chat.resize(100, 24)
        chat.ready()
        shown = chat.text().partition("comet?")[2].partition("cut off")[0]
        assert shown.split() == answer.split()
        chat.ask("/undo")
        chat.send("What is a comet?")
        chat.until(lambda: " ".join(answer.split()[:3]) in chat.answer("comet?"), "the second answer")
        chat.resize(20, 5)
        chat.until(lambda: chat.line() == PROMPT, "the prompt")
        chat.resize(80, 24)
        chat.ready()
        assert " ".join(answer.split()[-5:]) in " ".join(chat.ask("/history 1").split())


def test_a_dumb_terminal_gets_plain_text(folder: Path) -> None:
    with Talk(*TINY, "--grammar-file", "md.gbnf", cwd=folder, env={"TERM": "dumb"}) as chat:
        chat.wait_line(">")
        chat.keys("hi\n")
        chat.wait_for("```\n> ".rstrip())
        chat.keys("/nope\n")
        chat.wait_for("error: unknown command '/nope'")
        chat.keys(CTRL_D)
        assert chat.wait_end() == 2
        assert b"\x1b" not in chat.raw
        assert "- **b**" in chat.text()


def test_no_color_renders_markdown_without_colors(folder: Path) -> None:
    with Talk(*TINY, "--grammar-file", "md.gbnf", cwd=folder, env={"NO_COLOR": "1"}) as chat:
        chat.ready().ask("hi")
        assert "• b" in chat.text()
        chat.keys("/te")
        chat.wait_for("/temp ")
        assert not COLOR.search(chat.raw)


@pytest.mark.usefixtures("with_starter")
def test_a_continued_chat_has_its_messages_and_settings(home: Path) -> None:
    with Talk(*GREEDY) as chat:
        chat.ready().ask("/top_k 7")
        chat.ask("What is a comet?")
        chat.ask("/save comets")
        chat.keys("/exit", ENTER)
        assert chat.wait_end() == 0
    lines = [json.loads(line) for line in (home / "data" / "sessions" / "comets.jsonl").read_text().splitlines()]
    assert [line.get("role") for line in lines if line["type"] == "message"] == ["user", "assistant"]
    with Talk("--continue", "-t", "1") as chat:
        chat.ready()
        assert chat.text().startswith("1 you")
        assert "session comets, 2 messages" in chat.text()
        assert chat.ask("/set top_k").startswith("top_k = 7")
