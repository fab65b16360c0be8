"""The looks of the parts of an answer on a dark and on a light terminal.

A look is the parameters of a color sequence. Only the 16 colors of the terminal are used, so that the palette of the
user is respected, and of these only colors that are readable on that background.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Style:
    """All looks; empty ones mean no color."""

    headings: tuple[str, ...] = ("", "", "", "")
    strong: str = ""
    emphasis: str = ""
    struck: str = ""
    code: str = ""
    link: str = ""
    faint: str = ""
    marker: str = ""
    syntax: tuple[tuple[str, str], ...] = ()

    @property
    def colour(self) -> bool:
        return bool(self.strong)


def _syntax(**looks: str) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", "."), look) for name, look in looks.items())


_DARK = Style(
    headings=("1;4;96", "1;96", "1", "1;3"),
    strong="1",
    emphasis="3",
    struck="9",
    code="36",
    link="4;94",
    faint="2",
    marker="36",
    syntax=_syntax(
        Comment="2;3",
        Comment_Preproc="35",
        Keyword="95",
        Keyword_Constant="33",
        Operator_Word="95",
        Literal_String="32",
        Literal_String_Escape="93",
        Literal_String_Interpol="93",
        Literal_Number="33",
        Name_Builtin="36",
        Name_Function="94",
        Name_Class="1;94",
        Name_Decorator="93",
        Name_Tag="94",
        Name_Attribute="36",
        Name_Exception="1;94",
        Generic_Deleted="31",
        Generic_Inserted="32",
        Generic_Heading="1",
        Generic_Subheading="36",
        Generic_Prompt="2",
    ),
)
_LIGHT = Style(
    headings=("1;4;34", "1;34", "1", "1;3"),
    strong="1",
    emphasis="3",
    struck="9",
    code="35",
    link="4;34",
    faint="2",
    marker="34",
    syntax=_syntax(
        Comment="2;3",
        Comment_Preproc="35",
        Keyword="35",
        Keyword_Constant="31",
        Operator_Word="35",
        Literal_String="32",
        Literal_String_Escape="31",
        Literal_String_Interpol="31",
        Literal_Number="31",
        Name_Builtin="34",
        Name_Function="34",
        Name_Class="1;34",
        Name_Decorator="35",
        Name_Tag="34",
        Name_Attribute="35",
        Name_Exception="1;34",
        Generic_Deleted="31",
        Generic_Inserted="32",
        Generic_Heading="1",
        Generic_Subheading="34",
        Generic_Prompt="2",
    ),
)


def style_of(name: str, colour: bool) -> Style:
    """The style `dark` or `light`; without looks where `colour` is false."""
    if not colour:
        return Style()
    return _LIGHT if name == "light" else _DARK


@lru_cache(maxsize=1024)
def syntax_look(style: Style, token: Any) -> str:
    """The look of a pygments token type: its own, or that of the nearest type above it."""
    looks = dict(style.syntax)
    while token:
        look = looks.get(".".join(token))
        if look is not None:
            return look
        token = token.parent
    return ""
