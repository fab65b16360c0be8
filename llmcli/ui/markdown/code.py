"""Syntax colors of code, line by line."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from llmcli.ui.terminal.cells import Runs

_LONGEST_LINE = 600  # a longer line stays plain
_CONTEXT = 300  # characters kept before a line without an indent
_LONGEST_CONTEXT = 700  # characters kept before another line
_PROBE = "probe"  # text after the lines so far: its token tells whether a string or comment is open
_OPEN = {"/*": "*/", "<!--": "-->"}  # comments that some lexers recognize only when they are closed
_ALIASES = {"node": "js", "python2": "python", "py2": "python", "vue": "html", "svelte": "html", "jsonl": "json"}

# The look of a pygments token type on a dark and on a light ground.
_SYNTAX = {
    "Comment": ("2;3", "2;3"),
    "Comment.Preproc": ("35", "35"),
    "Keyword": ("95", "35"),
    "Keyword.Constant": ("33", "31"),
    "Operator.Word": ("95", "35"),
    "Literal.String": ("32", "32"),
    "Literal.String.Escape": ("93", "31"),
    "Literal.String.Interpol": ("93", "31"),
    "Literal.Number": ("33", "31"),
    "Name.Builtin": ("36", "34"),
    "Name.Function": ("94", "34"),
    "Name.Class": ("1;94", "1;34"),
    "Name.Decorator": ("93", "35"),
    "Name.Tag": ("94", "34"),
    "Name.Attribute": ("36", "35"),
    "Name.Exception": ("1;94", "1;34"),
    "Generic.Deleted": ("31", "31"),
    "Generic.Inserted": ("32", "32"),
    "Generic.Heading": ("1", "1"),
    "Generic.Subheading": ("36", "34"),
    "Generic.Prompt": ("2", "2"),
}


@dataclass(frozen=True)
class Style:
    """The looks of the elements, as parameters of a color sequence; empty without color."""

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


@cache
def style_of(name: str, color: bool) -> Style:
    """The style "dark" or "light", or one without looks where `color` is false."""
    if not color:
        return Style()
    light = name == "light"
    title, code, link, marker = ("34", "35", "4;34", "34") if light else ("96", "36", "4;94", "36")
    return Style(
        headings=(f"1;4;{title}", f"1;{title}", "1", "1;3"),
        strong="1",
        emphasis="3",
        struck="9",
        code=code,
        link=link,
        faint="2",
        marker=marker,
        syntax=tuple((token, looks[light]) for token, looks in _SYNTAX.items()),
    )


class Highlighter:
    """Colors line by line; a string or comment over several lines keeps its color.

    The lexer reads each line together with the last few before it, and with the one that opened a string or comment
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
        """The text that closes the comment that `line` opens, or that is open already."""
        if self._closer:
            return self._closer
        for opener, closer in _OPEN.items():
            if line.rfind(opener) > line.rfind(closer) and _within(_tokens(self._lexer, line + closer)[-1][0]):
                return closer
        return ""

    def _trim_context(self, line: str) -> None:
        """Drop the oldest lines, but do not begin within a string or comment."""
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
    """The lines of finished code, in color."""
    lexer = _lexer(language) if style.color and len(text) < 40_000 else None
    if lexer is None:
        return [[("", line)] for line in text.split("\n")]
    rows: list[Runs] = [[]]
    for look, part in _looks(_tokens(lexer, text), 0, len(text), style):
        head, *others = part.split("\n")
        rows[-1].append((look, head))
        rows += [[(look, other)] for other in others]
    return rows


def language_of(info: str) -> str:
    """The language in the info text of a fence: its first word, as written; or empty."""
    return info.replace("{", " ").replace(",", " ").strip(" .}").split(" ")[0]


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


def _within(kind: Any) -> bool:
    """Whether a token of this kind is part of a string or comment."""
    return kind is not None and not {"String", "Comment"}.isdisjoint(tuple(kind))


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


def _tokens(lexer: Any, text: str) -> list[tuple[Any, str]]:
    try:
        tokens = list(lexer.get_tokens(text))
    except Exception:  # an error in a lexer must not end the answer
        return [(None, text)]
    return tokens if "".join(value for _, value in tokens) == text else [(None, text)]


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


@cache
def _names() -> frozenset[str]:
    from pygments.lexers import get_all_lexers

    return frozenset(name for _, names, _, _ in get_all_lexers(plugins=False) for name in names)
