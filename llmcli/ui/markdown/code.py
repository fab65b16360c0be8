"""Syntax colors of code, line by line."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from llmcli.ui.terminal.cells import Runs

_LONGEST_LINE = 600  # a longer line stays plain
_CONTEXT = 300  # characters kept before a line that begins at the margin
_LONGEST_CONTEXT = 700  # characters kept before any other line
_PROBE = "probe"
_OPEN = {"/*": "*/", "<!--": "-->"}  # comments that some lexers see only once they are closed
_ALIASES = {"node": "js", "python2": "python", "py2": "python", "vue": "html", "svelte": "html", "jsonl": "json"}


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
    def color(self) -> bool:
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


def style_of(name: str, color: bool) -> Style:
    """The style `dark` or `light`; without looks where `color` is false."""
    if not color:
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


def language_of(info: str) -> str:
    """The language that a fence's info text names (its first word, as written); empty where it names none."""
    return info.replace("{", " ").replace(",", " ").strip(" .}").split(" ")[0]


class Highlighter:
    """Colors line by line; a string or comment over several lines keeps its color.

    The lexer reads each line after some lines before it: the last few, and the one that opened a string or comment
    that is still open, however far back. So the cost of a line does not grow.
    """

    def __init__(self, language: str, style: Style) -> None:
        self._style = style
        self._lexer = _lexer(language) if style.color else None
        self._before: list[str] = []
        self._closer = ""  # what ends the comment that is open

    def peek(self, line: str) -> Runs:
        """The next line, unfinished."""
        if self._lexer is None or len(line) > _LONGEST_LINE:
            return [("", line)]
        head = "".join(f"{text}\n" for text in self._before)
        closer = self._closer_after(line)
        tokens = _tokens(self._lexer, head + line + ("" if closer in line else closer))
        return _looks(tokens, len(head), len(head) + len(line), self._style)

    def line(self, line: str) -> Runs:
        """The next line, finished."""
        if self._lexer is None:
            return [("", line)]
        self._trim_context(line)
        runs = self.peek(line)
        self._before.append(line[:_LONGEST_LINE])
        self._closer = "" if self._closer and self._closer in line else self._closer_after(line)
        return runs

    def _closer_after(self, line: str) -> str:
        """The text that would close the comment that `line` opens."""
        if self._closer:
            return self._closer
        for opener, closer in _OPEN.items():
            if line.rfind(opener) > line.rfind(closer) and _within(_tokens(self._lexer, line + closer)[-1][0]):
                return closer
        return ""

    def _trim_context(self, line: str) -> None:
        """Keep few lines before, and never begin them within a string or comment."""
        at_margin = line[:1].strip() != ""
        if sum(map(len, self._before)) + len(self._before) < (_CONTEXT if at_margin else _LONGEST_CONTEXT):
            return
        opened = self._open_since()
        self._before = [] if opened is None else [self._before[opened], self._before[-1]]

    def _open_since(self) -> int | None:
        """The index of the line before that opened the string or comment that is still open."""
        text = "".join(f"{line}\n" for line in self._before)
        start = None
        at = len(text) + len(_PROBE) + len(self._closer)
        for kind, value in reversed(_tokens(self._lexer, text + _PROBE + self._closer)):
            if value.strip() and not _within(kind):
                break
            at -= len(value)
            start = at if value.strip() else start
        return None if start is None or start >= len(text) else text.count("\n", 0, start)


def color_code(text: str, language: str, style: Style) -> list[Runs]:
    """All lines of a finished program."""
    lexer = _lexer(language) if style.color and len(text) < 40_000 else None
    if lexer is None:
        return [[("", line)] for line in text.split("\n")]
    rows: list[Runs] = [[]]
    for look, part in _looks(_tokens(lexer, text), 0, len(text), style):
        head, *others = part.split("\n")
        rows[-1].append((look, head))
        rows += [[(look, other)] for other in others]
    return rows


def _within(kind: Any) -> bool:
    """Whether a token of this kind is part of a string or comment."""
    return kind is not None and not {"String", "Comment"}.isdisjoint(tuple(kind))


@cache
def _names() -> frozenset[str]:
    from pygments.lexers import get_all_lexers

    return frozenset(name for _, names, _, _ in get_all_lexers(plugins=False) for name in names)


@lru_cache(maxsize=32)
def _lexer(language: str) -> Any:
    """The lexer for a fence's info text; None when there is none."""
    from pygments.lexers import get_lexer_by_name

    name = language_of(language).lower()
    name = _ALIASES.get(name, name)
    if name not in _names() or name == "text":
        return None
    options = {"startinline": True} if name == "php" else {}
    return get_lexer_by_name(name, stripnl=False, ensurenl=False, **options)


def _tokens(lexer: Any, text: str) -> list[tuple[Any, str]]:
    try:
        tokens = list(lexer.get_tokens(text))
    except Exception:  # a fault in a lexer must not end the answer
        return [(None, text)]
    return tokens if "".join(value for _, value in tokens) == text else [(None, text)]


def _looks(tokens: list[tuple[Any, str]], start: int, end: int, style: Style) -> Runs:
    """The tokens between two places of the text, with their looks."""
    runs: Runs = []
    at = 0
    for kind, value in tokens:
        part = value[max(start - at, 0) : max(end - at, 0)]
        at += len(value)
        look = syntax_look(style, kind) if kind is not None else ""
        if part and runs and runs[-1][0] == look:
            runs[-1] = (look, runs[-1][1] + part)
        elif part:
            runs.append((look, part))
    return runs
