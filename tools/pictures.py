"""Takes the README's pictures: the real chat in a pseudo-terminal, with the starter, whatever it answers.

`python -m tools.pictures [NAME...]` writes docs/pictures/NAME.svg. The tests do not run it: answers take their time,
and another processor may round them into other words.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from pyte.graphics import FG_AIXTERM, FG_ANSI
from pyte.screens import Char

from llmcli.models.locations import starter_path
from llmcli.models.sources.starter import ensure_starter
from llmcli.ui.export_file import draw
from tests.cli import chat_terminal
from tests.cli.chat_terminal import ENTER, TAB, UP, Talk
from tools.docs import ROOT

COLUMNS, ROWS = 90, 30
FLAGS = ("--session", "demo", "--temp", "0", "-c", "2048", "-t", "2")
_FOREGROUND = {name: str(code) for code, name in (FG_ANSI | FG_AIXTERM).items()}


class _Window(chat_terminal.ChatScreen):
    """pyte knows no dimmed text: it becomes gray."""

    def select_graphic_rendition(self, *codes: int, **more: Any) -> None:
        if not {38, 48} & set(codes):
            codes = tuple(90 if code == 2 else code for code in codes)
        super().select_graphic_rendition(*codes, **more)


def chat(talk: Talk) -> None:
    talk.ask("Write a Python function that reverses a string.")
    talk.ask("Give three tips for learning Python.")


def completion(talk: Talk) -> None:
    talk.ask("/set top_k 30")
    talk.type("/set t")
    talk.keys(TAB)
    talk.wait_for("top_p")


def context(talk: Talk) -> None:
    talk.ask("/set max_tokens 40")
    talk.ask("What is a comet?")
    talk.ask("And a star?")
    talk.ask("/context")
    talk.ask("/temp 0.3..1.3")
    talk.ask("/samplers")


def branches(talk: Talk) -> None:
    talk.ask("/set max_tokens 40")
    talk.ask("Name a color and a fruit.")
    talk.ask("/retry temperature=1.2 seed=7")
    talk.ask("/branches")


def tokens(talk: Talk) -> None:
    talk.ask("/temp 0.3..1.3")
    talk.ask("/seed 4")
    talk.ask("/set max_tokens 70")
    talk.ask("Write a short poem about the sea.")
    talk.ask("/tokens entropy")
    talk.ask("/temp")


def why(talk: Talk) -> None:
    talk.ask("/temp 0.3..1.3")
    talk.ask("/seed 4")
    talk.ask("/set max_tokens 40")
    talk.ask("Describe an old harbor.")
    talk.ask("/why")


def live(talk: Talk) -> None:
    talk.ask("/temp 0.3..1.0")
    talk.ask("/seed 4")
    talk.type("Tell a story about a fox.")
    talk.keys(ENTER)
    talk.until(lambda: len(talk.text()) > 500, "some lines")
    talk.keys(UP, UP, UP)
    talk.wait_for("+0.3")


SCENES: dict[str, Callable[[Talk], None]] = {
    scene.__name__: scene for scene in (chat, completion, context, branches, tokens, why, live)
}


def picture(scene: Callable[[Talk], None], home: Path) -> str:
    """The window and the rows above it when the scene is over, without the notes before the first message."""
    with _open(home, *FLAGS) as talk:
        talk.until(lambda: "/2.0k" in talk.status(), "the model")
        scene(talk)
        rows = _rows(talk.window)
        return draw(rows[next(at for at, row in enumerate(rows) if "> " in row) :], COLUMNS, "llmcli chat")


def compare(home: Path) -> str:
    """Three variants of one answer in a wide window."""
    policies = "temp=0.2;0.3..1.3;sentence:1.2,0.6"
    words = ("Begin a story about a lighthouse.", "--vary", policies, "-n", "60", "--seed", "4")
    with _open(home, *words, columns=110, command=(sys.executable, "-m", "llmcli", "compare")) as talk:
        talk.wait_end()
        return draw(_rows(talk.window), 110, f"llmcli compare ... --vary '{policies}'")


def trace(home: Path) -> str:
    """The plot of an answer under a policy by sentence."""
    words = ("generate", "Tell a short story about a sailor.", "--temp", "sentence:1.2,0.7,0.4", "--seed", "11")
    for arguments in (
        (*words, "-n", "120", "-c", "1024", "--trace", "story.jsonl"),
        ("trace", "plot", "story.jsonl", "-o", "story.svg"),
    ):
        command = [sys.executable, "-m", "llmcli", *arguments]
        subprocess.run(command, cwd=home, env={**os.environ, **_around(home)}, check=True, capture_output=True)
    return (home / "story.svg").read_text(encoding="utf-8")


def _open(home: Path, *words: str, columns: int = COLUMNS, **more: Any) -> Talk:
    talk = Talk(*words, columns=columns, rows=ROWS, env=_around(home), cwd=home, **more)
    talk.window = _Window(columns, ROWS, history=1000, ratio=1)
    talk.stream = pyte.ByteStream(talk.window)
    return talk


def _around(home: Path) -> dict[str, str]:
    return {"LLMCLI_HOME": str(home), "HOME": str(home), "NO_COLOR": "", "COLORFGBG": "", "COLORTERM": ""}


def _rows(window: pyte.HistoryScreen) -> list[str]:
    """The rows with color sequences, without the blank ones at the end."""
    buffer = [*window.history.top, *(window.buffer[at] for at in range(window.lines))]
    here = len(window.history.top) + window.cursor.y
    cursor = buffer[here][window.cursor.x]
    buffer[here][window.cursor.x] = cursor._replace(reverse=not cursor.reverse)
    rows = [_row([row[at] for at in range(window.columns)]) for row in buffer]
    while rows and not rows[-1].strip():
        rows.pop()
    return rows


def _row(chars: list[Char]) -> str:
    parts = ((look, "".join(char.data for char in group)) for look, group in groupby(chars, key=_look))
    return "".join(f"\x1b[{look}m{text}\x1b[0m" if look else text for look, text in parts).rstrip()


def _look(char: Char) -> str:
    """The parameters of the color sequence that paints it."""
    on = {"1": char.bold, "3": char.italics, "4": char.underscore, "7": char.reverse, "9": char.strikethrough}
    looks = [code for code, wanted in on.items() if wanted]
    for color, extended in ((char.fg, "38"), (char.bg, "48")):
        if color == "default":
            continue
        if color in _FOREGROUND:
            looks.append(str(int(_FOREGROUND[color]) + (10 if extended == "48" else 0)))
        else:
            looks.append(";".join([extended, "2", *(str(part) for part in bytes.fromhex(color))]))
    return ";".join(looks)


def main(names: list[str]) -> int:
    for name in [name for name in os.environ if name.startswith("LLMCLI_")]:
        del os.environ[name]
    chat_terminal.PATIENCE = 90.0
    starter = ensure_starter(ROOT / ".cache")
    others = {"compare": compare, "trace": trace}
    for name in names or [*SCENES, *others]:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            there = starter_path(home / "cache")
            there.parent.mkdir(parents=True)
            shutil.copy(starter, there)
            (home / "data").mkdir()
            (home / "data" / "welcomed").touch()  # the first run is over
            text = others[name](home) if name in others else picture(SCENES[name], home)
        target = ROOT / "docs" / "pictures" / f"{name}.svg"
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
        print(f"written: {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
