"""Hints of the chat: in an empty line, in the row below an answer, and in the note about a loop."""

import sys
from pathlib import Path

import pytest

from tests.cli.chat_terminal import CTRL_C, CTRL_D, ENTER, PROMPT, TINY, Talk, tiny_home
from tests.conftest import Run

LOOP = r'"I am not sure what you mean by that.\n"*'
NOTE = "the answer repeats itself; /retry repeat_penalty=1.1 may help"
ENDLESS = ("-m", "tiny.gguf", "-t", "1", "-c", "4096", "-n", "1400", "--ignore-eos", "--grammar-file", "loop.gbnf")
UNTIL_CTRL_C = ("-c", "100000", "-n", "-1", "--ignore-eos")  # some minutes
terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a tiny model."""
    made = tiny_home(tmp_path / "folder", loop=LOOP, yes='"yes"', story='"Once upon a time. "*')
    monkeypatch.chdir(made)
    return made


@terminal
@pytest.mark.parametrize(
    ("columns", "hint"),
    [(80, "Ask anything · / for commands · Ctrl-C stops · Ctrl-D leaves"), (40, "Ask anything · / for commands")],
)
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_an_empty_chat_has_a_hint_until_the_first_answer(
    folder: Path, columns: int, hint: str, env: dict[str, str]
) -> None:
    with Talk(*TINY, "--grammar-file", "yes.gbnf", columns=columns, cwd=folder, env=env) as chat:
        chat.ready()
        assert chat.screen()[0] == f"{PROMPT} {hint}"
        chat.keys("/he")
        chat.until(lambda: chat.line() == f"{PROMPT} /he", "the typed text alone")
        chat.keys(CTRL_C)
        chat.until(lambda: chat.screen()[chat.window.cursor.y] == f"{PROMPT} {hint}", "the hint again")
        chat.ask("hi")
        assert chat.screen()[chat.window.cursor.y] == PROMPT
        chat.ask("/clear")
        assert chat.screen()[chat.window.cursor.y] == PROMPT
        chat.keys(CTRL_D)
        assert chat.wait_end() == 0
        assert hint not in chat.text()


@terminal
@pytest.mark.parametrize("columns", [80, 40])
def test_a_row_below_the_answer_shows_how_to_stop(folder: Path, columns: int) -> None:
    with Talk(*TINY, *UNTIL_CTRL_C, "--grammar-file", "story.gbnf", columns=columns, cwd=folder) as chat:
        chat.ready().send("hi")
        row = "Ctrl-C stops · ↑↓ warmer, colder"
        chat.until(lambda: chat.foot().startswith(row), "the row")
        assert ("token" in chat.foot()) == (columns == 80)
        chat.keys(CTRL_C)
        chat.ready()
        assert row not in chat.text()
        assert "stopped; /continue resumes, /retry" in chat.text()


@terminal
def test_question_and_answer_stand_apart(folder: Path) -> None:
    with Talk(*TINY, "--grammar-file", "yes.gbnf", columns=40, cwd=folder) as chat:
        chat.ready()
        chat.ask("hi")  # after which the model has nothing more to say about itself
        wrapped = ["> a question that is longer than the win", "  dow is wide"]
        chat.keys("a question that is longer than the window is wide")
        chat.until(lambda: chat.line() == wrapped[1], "the question")
        chat.keys(ENTER)
        chat.ready()
        rows = chat.text().split("\n")
        assert rows[rows.index(wrapped[0]) :][:6] == [*wrapped, "", "yes", "", PROMPT]


@terminal
def test_a_loop_is_reported_while_it_streams_and_afterwards(folder: Path) -> None:
    with Talk(*ENDLESS, *UNTIL_CTRL_C, cwd=folder) as chat:
        chat.ready().send("hi")
        chat.wait_for("the answer repeats itself: Ctrl-C stops")
        chat.keys(CTRL_C)
        chat.ready()
        assert chat.text().count("repeats itself") == 1
        assert NOTE in chat.text()


def test_a_pipe_gets_the_note_on_stderr_and_nothing_else(folder: Path, run: Run) -> None:
    ran = run("chat", *ENDLESS, "--no-save", stdin="hi\n/repeat_penalty 1.2\nhi\n/clear\n/dry_multiplier 0.5\nhi\n")
    assert set(ran.text.split("\n")[:20]) == {"I am not sure what you mean by that."}
    assert [line for line in ran.stderr.splitlines() if "repeats" in line] == [
        NOTE,
        "the answer repeats itself; /retry dry_multiplier=0.8 may help",
        "the answer repeats itself",
    ]
    for text in ("Ctrl-C", "Ask anything", "warmer"):
        assert text not in ran.text + ran.stderr
