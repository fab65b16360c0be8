"""The looks of an answer: for a dark or a light terminal, or of a Pygments style or a theme file of rich."""

import os
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.files import read_text
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from pygments.style import StyleMeta
    from rich.style import Style
    from rich.syntax import ANSISyntaxTheme
    from rich.theme import Theme

# rich and Pygments are imported in the functions: the start of the chat asks only for the ground.
_BUILT_IN = ("auto", "dark", "light")


def theme_of(name: str) -> "Theme":
    """The theme "auto", "dark" or "light", of a Pygments style, or of a file as dark.theme is. Raises UsageError."""
    from rich.theme import Theme

    looks = _built_in_looks(ground_of(name))
    if name not in _BUILT_IN:
        style = _pygments_style(name)
        looks = looks | (_code_looks(style) if style else _read(name))
    return Theme(looks)


def ground_of(name: str) -> str:
    """ "dark" or "light": the ground of a theme; where it has none, that of COLORFGBG or dark. Raises UsageError."""
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
    return ANSISyntaxTheme({token: look for token, look in looks.items() if look is not None})


def _name(token: tuple[str, ...]) -> str:
    return f"code.{'.'.join(token)}".lower()


def _pygments_style(name: str) -> "StyleMeta | None":
    from pygments.styles import get_all_styles, get_style_by_name

    return get_style_by_name(name) if name in get_all_styles() else None


def _code_looks(style: "StyleMeta") -> "dict[str, Style]":
    """The looks of a Pygments style, without its background: the ground is that of the terminal."""
    from rich.style import Style

    looks = {}
    for token, look in style:
        words = [attribute for attribute in ("bold", "italic", "underline") if look[attribute]]
        words += [f"#{look['color']}"] if look["color"] else []
        looks[_name(token)] = Style.parse(" ".join(words))
    return looks


@cache
def _built_in_looks(ground: str) -> "dict[str, Style]":
    return _read(str(Path(__file__).with_name(f"{ground}.theme")))


def _read(name: str) -> "dict[str, Style]":
    """The looks in a file, without links: no text becomes one."""
    from configparser import Error, MissingSectionHeaderError

    from rich.errors import StyleSyntaxError
    from rich.theme import Theme

    if not os.path.exists(os.path.expanduser(name)):
        rule = "auto, dark, light, a Pygments style or a theme file of rich"
        raise UsageError(f"theme must be {rule}, got {name!r}", did_you_mean(name, theme_names()))
    try:
        styles = Theme.from_file(StringIO(read_text(name)), name, inherit=False).styles
    except MissingSectionHeaderError:
        raise UsageError(f"{name} is not a theme file: it does not begin with [styles]") from None
    except (Error, StyleSyntaxError) as error:
        raise UsageError(f"{name} is not a theme file: {' '.join(str(error).split())}") from None
    return {key: style.clear_meta_and_links() for key, style in styles.items()}
