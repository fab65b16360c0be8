"""The looks of an answer: for a dark or a light terminal, or of a Pygments style or a theme file of rich."""

import os
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.files import read_text
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from pygments.style import StyleMeta
    from rich.style import Style
    from rich.syntax import ANSISyntaxTheme
    from rich.theme import Theme

# rich is imported in the functions: the start of the chat asks only for the ground.
_BUILT_IN = ("auto", "dark", "light")
# The looks of elements, by rich's names, and of Pygments' tokens; on a dark and on a light ground.
_LOOKS = {
    "markdown.h1": ("bold underline bright_cyan", "bold underline blue"),
    "markdown.h2": ("bold bright_cyan", "bold blue"),
    "markdown.h3": ("bold", "bold"),
    "markdown.h4": ("bold italic", "bold italic"),
    "markdown.h5": ("bold italic", "bold italic"),
    "markdown.h6": ("bold italic", "bold italic"),
    "markdown.code": ("cyan", "magenta"),
    "markdown.link": ("underline bright_blue", "underline blue"),
    "markdown.block_quote": ("cyan", "blue"),
    "markdown.item.bullet": ("cyan", "blue"),
    "markdown.item.number": ("cyan", "blue"),
    "markdown.hr": ("dim", "dim"),
    "markdown.table.border": ("dim", "dim"),
    "markdown.table.header": ("bold", "bold"),
    "code.comment": ("dim italic", "dim italic"),
    "code.comment.preproc": ("magenta", "magenta"),
    "code.keyword": ("bright_magenta", "magenta"),
    "code.keyword.constant": ("yellow", "red"),
    "code.operator.word": ("bright_magenta", "magenta"),
    "code.literal.string": ("green", "green"),
    "code.literal.string.escape": ("bright_yellow", "red"),
    "code.literal.string.interpol": ("bright_yellow", "red"),
    "code.literal.number": ("yellow", "red"),
    "code.name.builtin": ("cyan", "blue"),
    "code.name.function": ("bright_blue", "blue"),
    "code.name.class": ("bold bright_blue", "bold blue"),
    "code.name.decorator": ("bright_yellow", "magenta"),
    "code.name.tag": ("bright_blue", "blue"),
    "code.name.attribute": ("cyan", "magenta"),
    "code.name.exception": ("bold bright_blue", "bold blue"),
    "code.generic.deleted": ("red", "red"),
    "code.generic.inserted": ("green", "green"),
    "code.generic.heading": ("bold", "bold"),
    "code.generic.subheading": ("cyan", "blue"),
    "code.generic.prompt": ("dim", "dim"),
}
# An address looks the same everywhere, also in a heading or in struck text.
_ADDRESS = {"markdown.link_url": "dim not bold not italic not underline not strike default"}


def theme_of(name: str) -> "Theme":
    """The theme with the name: "auto", "dark", "light", a Pygments style, which colors code, or a file.

    A file has lines such as `markdown.h1 = bold red` and `code.keyword = blue` under `[styles]`.

    Raises:
        UsageError: if there is none, or the file is not valid.
    """
    from rich.theme import Theme

    is_light = ground_of(name) == "light"
    theme = Theme(_ADDRESS | {key: looks[is_light] for key, looks in _LOOKS.items()})
    if name in _BUILT_IN:
        return theme
    style = _pygments_style(name)
    theme.styles |= _code_looks(style) if style else _read(name)
    return theme


def ground_of(name: str) -> str:
    """ "dark" or "light": the ground that a theme is for; where it does not say, that of COLORFGBG, or else dark.

    Raises:
        UsageError: as `theme_of` does.
    """
    if name in ("dark", "light"):
        return name
    if name not in _BUILT_IN:
        if style := _pygments_style(name):
            return "light" if sum(bytes.fromhex(style.background_color[1:7])) > 3 * 127 else "dark"
        _read(name)
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if background in ("7", "15") else "dark"


@cache
def theme_names() -> list[str]:
    """The names of all themes but files."""
    from pygments.styles import get_all_styles

    return [*_BUILT_IN, *sorted(get_all_styles())]


def syntax_of(theme: "Theme") -> "ANSISyntaxTheme":
    """The looks of code in a theme, by token."""
    from pygments.token import STANDARD_TYPES
    from rich.syntax import ANSISyntaxTheme

    looks = {token: theme.styles.get(_name(token)) for token in STANDARD_TYPES}
    return ANSISyntaxTheme({token: look for token, look in looks.items() if look})


def _name(token: tuple[str, ...]) -> str:
    return f"code.{'.'.join(token)}".lower()


def _pygments_style(name: str) -> "StyleMeta | None":
    from pygments.styles import get_all_styles, get_style_by_name

    return get_style_by_name(name) if name in get_all_styles() else None


def _code_looks(style: "StyleMeta") -> "dict[str, Style]":
    """The looks of a Pygments style, without its background: the ground is that of the terminal."""
    from rich.style import Style

    return {
        _name(token): Style(
            color=f"#{look['color']}" if look["color"] else None,
            bold=look["bold"] or None,
            italic=look["italic"] or None,
            underline=look["underline"] or None,
        )
        for token, look in style
    }


def _read(name: str) -> "dict[str, Style]":
    """The looks in a file, without links: no text becomes one."""
    from configparser import Error

    from rich.errors import StyleSyntaxError
    from rich.theme import Theme

    if not os.path.exists(os.path.expanduser(name)):
        rule = "auto, dark, light, a Pygments style or a theme file of rich"
        raise UsageError(f"theme must be {rule}, got {name!r}", did_you_mean(name, theme_names()))
    try:
        styles = Theme.from_file(StringIO(read_text(name)), name, inherit=False).styles
    except (Error, StyleSyntaxError) as error:
        raise UsageError(f"{name} is not a theme file: {' '.join(str(error).split())}") from None
    return {key: style.clear_meta_and_links() for key, style in styles.items()}
