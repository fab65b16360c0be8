"""Pictures of conversations: what they show, and that they contain nothing but shapes and text."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llmcli.chat.conversation import Attachment, Message
from llmcli.chat.export import format_of
from llmcli.chat.sessions.session import Session
from llmcli.cli import sessions
from llmcli.errors import UsageError
from llmcli.ui.export_file import MOST_ROWS, conversation, draw

ROOT = Path(__file__).parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "</text><script>alert(1)</script>",
    '"><image href="https://example.org/a.png"/>',
    "![a](https://example.org/a.png) <https://example.org> [b](javascript:alert(1))",
    "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\ \x1b[31mred\x1b[2J",
    "&xxe; <!ENTITY xxe SYSTEM 'file:///etc/passwd'> ]]> <?x?> <!--",
    "nul \x00 none \ufffe \uffff half \ud800 mark \u202e",
    "{style} %s {0} \\",
    "```html\n<style>@import 'https://example.org'</style>\n```",
]


def parsed(svg: str) -> ElementTree.Element:
    """The picture, after a check for anything that could load or run something."""
    svg.encode()
    root = ElementTree.fromstring(svg)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {"svg", "title", "g", "rect", "circle", "text"}
    for one in root.iter():
        assert not [name for name in one.attrib if name.lower().startswith("on") or name.lower().endswith("href")]
        assert not [value for value in one.attrib.values() if "url" in value or ":" in value]
    return root


def rows(svg: str) -> list[str]:
    """The text of each row, from its left edge, without the window's title."""
    found: dict[int, str] = {}
    for one in list(parsed(svg).iter(f"{SVG}text"))[1:]:
        y, column = int(one.attrib["y"]), round((float(one.attrib["x"]) - 14) / 8.4)
        found[y] = found.get(y, "").ljust(column) + (one.text or "")
    first = min(found, default=0)
    return [found.get(y, "") for y in range(first, max(found, default=-1) + 1, 17)]


def message(role: str, text: str, **more: object) -> Message:
    return Message(1, None, role, text, **more)  # type: ignore[arg-type]


def test_a_conversation_looks_as_in_the_chat() -> None:
    talk = [
        message("user", "Tell me\n  about it", attachments=(Attachment("a.py", "x = 1\n"),)),
        message("assistant", "# It\n\n- a **b**\n\n| n | m |\n|---|---|\n| 1 | 2 |\n", finish_reason="length"),
        message("user", "And?"),
        message("assistant", "So."),
    ]
    assert rows(conversation(talk, "demo")) == [
        "> Tell me", "    about it", "+ a.py", "",
        "It", "", "• a b", "", "n │ m", "──┼──", "1 │ 2", "stopped at the token limit", "",
        "> And?", "", "So.",
    ]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_picture_of_hostile_text_contains_text_only(text: str) -> None:
    talk = [
        message("user", text, attachments=(Attachment(text, text),)),
        message("assistant", text, finish_reason=text),
        message("summary", text),
    ]
    parsed(conversation(talk, text))


def test_control_characters_are_shown_as_text() -> None:
    assert rows(conversation([message("user", "a\x1b[31mb\x07")], "demo")) == ["> a␛[31mb␇"]


def test_the_terminal_does_not_change_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(["\x1b[1;31mred\x1b[0m and \x1b[2mfaint\x1b[0m"], 40, "demo")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "10")):
        monkeypatch.setenv(name, value)
    assert draw(["\x1b[1;31mred\x1b[0m and \x1b[2mfaint\x1b[0m"], 40, "demo") == drawn
    red, plain, faint = list(parsed(drawn).iter(f"{SVG}text"))[1:]
    assert red.attrib["font-weight"] == "bold"
    assert "fill" not in plain.attrib
    assert len({red.attrib["fill"], faint.attrib["fill"]}) == 2


def test_a_background_color_covers_its_columns() -> None:
    _, ground = parsed(draw(["ab\x1b[48;2;1;2;3m cd \x1b[0m"], 20, "t")).iter(f"{SVG}rect")
    assert (ground.attrib["fill"], ground.attrib["x"], ground.attrib["width"]) == ("#010203", "30.8", "33.6")


def test_wide_characters_take_two_columns() -> None:
    _, wide, narrow = parsed(draw(["日本 ab"], 20, "t")).iter(f"{SVG}text")
    assert (wide.attrib["textLength"], narrow.attrib["x"]) == ("33.6", "56")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_picture_of_a_long_talk_is_cut_with_a_note(role: str) -> None:
    shown = rows(conversation([message(role, "word\n\n" * 200_000)], "demo"))
    assert len(shown) == MOST_ROWS + 1
    assert shown[-1] == "… the rest is too long for a picture"


def test_an_empty_conversation_is_an_empty_window() -> None:
    assert rows(conversation([], "demo")) == []


def test_the_suffix_svg_exports_a_session_as_a_picture(tmp_path: Path) -> None:
    session = Session("demo")
    session.add("user", "hi")
    session.close()
    sessions.export_session("demo", str(tmp_path / "talk.SVG"))
    assert rows((tmp_path / "talk.SVG").read_text(encoding="utf-8")) == ["> hi"]
    with pytest.raises(UsageError, match="already"):
        sessions.export_session("demo", str(tmp_path / "talk.SVG"))


def test_the_suffix_svg_asks_for_a_picture() -> None:
    assert format_of(Path("talk.svg")) == "svg"


def test_the_pictures_of_the_readme_exist_and_are_private() -> None:
    named = re.findall(
        r"(?m)^\[[a-z-]+\]: \S+/(docs/pictures/\S+\.svg)$", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert len(named) >= 2
    for path in named:
        text = "\n".join(rows((ROOT / path).read_text(encoding="utf-8")))
        assert text.startswith(("> ", "1. "))  # a chat, or a comparison
        assert not re.search(r"/tmp|/home|/work|/Users|20\d\d-\d\d", text)


def test_the_pictures_of_the_temperature_page_are_private() -> None:
    named = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", (ROOT / "docs" / "temperature.md").read_text(encoding="utf-8"))
    assert len(named) >= 5
    for _, path in named:
        text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        assert text.startswith("<svg ")
        assert not re.search(r"/tmp|/home|/work|/Users|20\d\d-\d\d", text)
