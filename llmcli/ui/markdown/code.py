"""Syntax colors of code, line by line and at once."""

from functools import lru_cache
from typing import Any

from rich.syntax import ANSISyntaxTheme
from rich.text import Text

_LONGEST_LINE = 600  # a longer line stays plain
_LONGEST_CODE = 40_000  # characters of finished code; more stays plain
_CONTEXT = 300  # characters kept before a line without an indent
_LONGEST_CONTEXT = 700  # characters kept before another line
_PROBE = "probe"  # text after the lines so far: its token tells whether a string or comment is open
_OPEN = {"/*": "*/", "<!--": "-->"}  # comments that some lexers recognize only when they are closed
_ALIASES = {"node": "js", "python2": "python", "py2": "python", "vue": "html", "svelte": "html", "jsonl": "json"}


class Highlighter:
    """Colors code; line by line, a string or comment over several lines keeps its color.

    The lexer reads each line together with the last few before it, and with the one that opened a string or comment
    that is still open, however far back. So the cost of a line does not grow.
    """

    def __init__(self, info: str, theme: ANSISyntaxTheme | None) -> None:
        """`info` is the text after the marks of a fence; without a theme the text has no color."""
        self._lexer = lexer_of(info) if theme else None
        self._theme = theme or ANSISyntaxTheme({})
        self._before: list[str] = []
        self._closer = ""  # what ends the comment that is open

    def colored(self, code: str) -> Text:
        """A whole program; a very long one stays plain."""
        if len(code) > _LONGEST_CODE:
            return Text(code)
        look = self._theme.get_style_for_token
        return Text().append_tokens((text, look(kind)) for kind, text in self._tokens(code))

    def peek(self, line: str) -> Text:
        """The next line, unfinished."""
        if self._lexer is None or len(line) > _LONGEST_LINE:
            return Text(line)
        head = "".join(f"{text}\n" for text in self._before)
        closer = self._closer_after(line)
        colored = self.colored(head + line + ("" if closer in line else closer))
        return colored[len(head) : len(head) + len(line)]

    def line(self, line: str) -> Text:
        """The next line, finished."""
        if self._lexer is None:
            return Text(line)
        longest = _CONTEXT if line[:1].strip() else _LONGEST_CONTEXT
        if sum(map(len, self._before)) + len(self._before) >= longest:
            # Drop the oldest lines, but do not begin within a string or comment.
            opened = self._open_since()
            self._before = [] if opened is None else [self._before[opened], self._before[-1]]
        colored = self.peek(line)
        self._before.append(line[:_LONGEST_LINE])
        self._closer = "" if self._closer and self._closer in line else self._closer_after(line)
        return colored

    def _closer_after(self, line: str) -> str:
        """The text that closes the comment that `line` opens, or that is open already."""
        if self._closer:
            return self._closer
        for opener, closer in _OPEN.items():
            if line.rfind(opener) > line.rfind(closer) and _is_string_or_comment(self._tokens(line + closer)[-1][0]):
                return closer
        return ""

    def _open_since(self) -> int | None:
        """The index of the line before that opened the string or comment that is still open."""
        text = "".join(f"{line}\n" for line in self._before)
        start = None
        at = len(text) + len(_PROBE) + len(self._closer)
        for kind, value in reversed(self._tokens(text + _PROBE + self._closer)):
            if value.strip() and not _is_string_or_comment(kind):
                break
            at -= len(value)
            start = at if value.strip() else start
        return None if start is None or start >= len(text) else text.count("\n", 0, start)

    def _tokens(self, text: str) -> list[tuple[Any, str]]:
        """The tokens that the lexer finds, or one without a kind."""
        try:
            tokens = list(self._lexer.get_tokens(text)) if self._lexer else []
        except Exception:  # an error in a lexer must not end the answer
            tokens = []
        return tokens if "".join(value for _, value in tokens) == text else [((), text)]


def language_of(info: str) -> str:
    """The language in the info text of a fence: its first word, as written; or empty."""
    return info.replace("{", " ").replace(",", " ").strip(" .}").split(" ")[0]


def _is_string_or_comment(kind: tuple[str, ...]) -> bool:
    return not {"String", "Comment"}.isdisjoint(kind)


@lru_cache(maxsize=32)
def lexer_of(info: str) -> Any:
    """The lexer for the language in the info text of a fence; None when there is none."""
    from pygments.lexers import get_all_lexers, get_lexer_by_name

    language = language_of(info).lower()
    name = _ALIASES.get(language, language)
    known = (aliases for _, aliases, _, _ in get_all_lexers(plugins=False))  # plugins take long to find
    if name == "text" or not any(name in aliases for aliases in known):
        return None
    options = {"startinline": True} if name == "php" else {}
    return get_lexer_by_name(name, stripnl=False, ensurenl=False, **options)
