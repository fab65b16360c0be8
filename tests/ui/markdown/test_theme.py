"""Themes: the two built-in ones, Pygments styles, and theme files of rich."""

import re
from pathlib import Path

import pytest

from llmcli.cli import config
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import config_path
from llmcli.ui.markdown.theme import ground_of, theme_names, theme_of
from llmcli.ui.markdown.view import AnswerView
from tests.ui.markdown.emulator import Clock, Terminal

TEXT = "# Title\n\nSome `code` and [a link](https://example.org).\n\n```python\nreturn 'a'\n```\n"
FILE = "[styles]\nmarkdown.h1 = bold red\nmarkdown.link = link https://example.org green\ncode.keyword = blue\n"


def written(theme: str, text: str = TEXT) -> str:
    terminal = Terminal()  # which refuses other sequences than those of colors
    view = AnswerView(terminal.write, terminal.size, theme, True, Clock())
    view.push(text)
    view.finish()
    return terminal.written


@pytest.mark.parametrize(("colorfgbg", "ground"), [("", "dark"), ("15;0", "dark"), ("0;15", "light"), ("0;7", "light")])
def test_auto_is_the_ground_that_the_terminal_reports(
    monkeypatch: pytest.MonkeyPatch, colorfgbg: str, ground: str
) -> None:
    monkeypatch.setenv("COLORFGBG", colorfgbg)
    assert ground_of("auto") == ground
    assert theme_of("auto").styles == theme_of(ground).styles


def test_dark_and_light_have_different_looks() -> None:
    assert written("dark") != written("light")


@pytest.mark.parametrize(
    ("style", "system", "keyword", "ground"),
    [
        ("monokai", {"COLORTERM": "truecolor"}, "38;2;102;217;239", "dark"),
        ("dracula", {"COLORTERM": "", "TERM": "xterm-256color"}, "38;5;", "dark"),
        ("vs", {"COLORTERM": "", "TERM": "xterm"}, "34", "light"),
    ],
)
def test_a_pygments_style_colors_code(
    monkeypatch: pytest.MonkeyPatch, style: str, system: dict[str, str], keyword: str, ground: str
) -> None:
    for name, value in system.items():
        monkeypatch.setenv(name, value)
    text = written(style)
    assert re.search(rf"\x1b\[(1;)?{keyword}\d*mreturn\x1b", text)
    assert not re.search(r"\x1b\[[0-9;]*\b48;", text)  # the ground stays that of the terminal
    assert ground_of(style) == ground
    assert text.partition("return")[0].startswith(written(ground).partition("Title")[0])


def test_a_theme_file_changes_looks_and_makes_no_link(tmp_path: Path) -> None:
    path = tmp_path / "my.theme"
    path.write_text(FILE)
    text = written(str(path))
    assert "\x1b[1;31mTitle\x1b[0m" in text
    assert "\x1b[32ma link\x1b[0m" in text
    assert "\x1b[34mreturn\x1b[0m" in text
    assert "\x1b]" not in text
    assert "\x1b[36mcode\x1b[0m" in text  # as in the theme for a dark ground


@pytest.mark.parametrize("text", ["[a](https://e.org)", "<https://e.org>", "![a](b.png)", "https://e.org", "# [a](b)"])
@pytest.mark.parametrize("theme", ["dark", "light", "monokai"])
def test_an_address_is_text_and_no_link_of_the_terminal(text: str, theme: str) -> None:
    assert "\x1b]" not in written(theme, text)


@pytest.mark.parametrize(
    ("name", "hint"), [("drak", "did you mean 'dark'?"), ("monokay", "did you mean 'monokai'?"), ("no such", "")]
)
def test_an_unknown_theme_is_an_error_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"a theme file of rich, got '{name}'") as raised:
        theme_of(name)
    assert raised.value.hint == hint
    with pytest.raises(UsageError):
        ground_of(name)


@pytest.mark.parametrize(
    "text", ["", "markdown.h1 = red\n", "[styles]\nmarkdown.h1 = no such color\n", "[other]\na = b\n", "\0", "%(a)s"]
)
def test_a_file_that_is_not_a_theme_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my.theme"
    path.write_text(text)
    with pytest.raises(LlmcliError, match=r"my\.theme is not a t"):
        ground_of(str(path))


def test_a_theme_file_without_a_section_is_described_in_words(tmp_path: Path) -> None:
    path = tmp_path / "my.theme"
    path.write_text('heading="x"\n')
    with pytest.raises(UsageError, match=r"is not a theme file: it does not begin with \[styles\]$"):
        ground_of(str(path))


def test_the_names_of_themes_have_the_built_in_ones_first() -> None:
    names = theme_names()
    assert names[:3] == ["auto", "dark", "light"]
    assert "monokai" in names


def test_config_set_writes_no_unknown_theme() -> None:
    with pytest.raises(UsageError, match="theme must be"):
        config.set_setting("theme", ["drak"])
    config.set_setting("theme", ["monokai"])
    assert config_path().read_text(encoding="utf-8") == 'theme = "monokai"\n'
