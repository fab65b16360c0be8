"""Turns blocks of Markdown into rows with color sequences: rich walks over the tokens and paints, with our elements."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import COLOR_SYSTEMS, Console
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from llmcli.ui.markdown import elements
from llmcli.ui.markdown.code import Highlighter
from llmcli.ui.markdown.elements import code_title, drawn, folded, one_line, room, ruled, wrapped
from llmcli.ui.markdown.splitter import Block
from llmcli.ui.markdown.theme import syntax_of
from llmcli.ui.terminal.cells import cells

if TYPE_CHECKING:
    from markdown_it.rules_inline import StateInline
    from rich.syntax import ANSISyntaxTheme
    from rich.theme import Theme

_DEEPEST = 60  # columns of list and quote marks at the start of a line; each takes some frames of Python's stack
# LaTeX: \(…\), \[…\], $$…$$, and $…$ that has a sign of LaTeX, and no blank next to its dollars (as in
# pandoc, where a price is text). Also a bracket alone, such as the first one of a formula of several paragraphs.
_MATH = re.compile(
    r"\\\(.{1,1000}?\\\)|\\\[.{1,1000}?\\\]|\\[][()]|\$\$[^$`]{1,1000}\$\$"
    r"|\$(?=[^$`\n]{0,1000}[\\^_{])(?![\s$])[^$`\n]{1,1000}(?<!\s)\$(?!\d)",
    re.DOTALL,
)


class AnswerMarkdown(Markdown):
    """rich's walk over the tokens of a block, which are set as `parsed`: the parser of rich is not used."""

    elements = Markdown.elements | {
        "flow_open": elements.Flow,
        "paragraph_open": elements.Paragraph,
        "heading_open": elements.Heading,
        "fence": elements.Code,
        "code_block": elements.Code,
        "hr": elements.Rule,
        "blockquote_open": elements.Quote,
        "bullet_list_open": elements.List,
        "ordered_list_open": elements.List,
        "list_item_open": elements.Item,
        "table_open": elements.Table,
    }
    inlines = Markdown.inlines | {"link", "link_url"}

    def __init__(self, syntax: "ANSISyntaxTheme | None") -> None:
        super().__init__("", hyperlinks=False)
        self.syntax = syntax


class Renderer:
    """Turns blocks into rows; in order, because a row may depend on the block before it."""

    def __init__(self, theme: "Theme", color: bool) -> None:
        # The console draws and never writes; rich takes what a dumb terminal has for no color.
        system = "standard" if os.environ.get("TERM") in ("dumb", "unknown") else "auto"
        self._console = Console(
            file=StringIO(),
            force_terminal=True,
            color_system=system if color else None,  # type: ignore[arg-type]
            width=80,
            legacy_windows=False,
            theme=theme,
        )
        self._options = self._console.options
        self._system = COLOR_SYSTEMS[self._console.color_system] if self._console.color_system else None
        self._syntax = syntax_of(theme) if color else None
        self._markdown = AnswerMarkdown(self._syntax)
        self._code = Highlighter("", None)
        self._has_rows = False
        self._gap_pending = False  # a blank row before the next block

    def rows(self, blocks: Sequence[Block], width: int) -> list[str]:
        """The rows of finished blocks."""
        return [row for block in blocks for row in self._spaced(block, width, self._code.line)]

    def preview(self, blocks: Sequence[Block], width: int) -> list[str]:
        """The rows of blocks that may still change."""
        before = self._code, self._has_rows, self._gap_pending
        rows = [row for block in blocks for row in self._spaced(block, width, self._code.peek)]
        self._code, self._has_rows, self._gap_pending = before
        return rows

    def join(self) -> None:
        """Continue rows that are on the screen: no blank row before the next block."""
        self._has_rows = self._gap_pending = False

    def apart(self) -> list[str]:
        """The blank row before a line that is not part of the answer; another one follows that line."""
        rows = [""] if self._has_rows else []
        self._has_rows = self._gap_pending = True
        return rows

    def _spaced(self, block: Block, width: int, color: Callable[[str], Text]) -> list[str]:
        self._gap_pending = self._gap_pending or block.gap
        indent = width - room(width, block.level) if block.kind in ("item", "more") else 0
        rows = [" " * indent + row if row else "" for row in self._drawn(block, width - indent, color)]
        if not rows:
            return []
        rows = ["", *rows] if self._gap_pending and self._has_rows else rows
        self._has_rows, self._gap_pending = True, False
        return rows

    def _drawn(self, block: Block, width: int, color: Callable[[str], Text]) -> list[str]:
        match block.kind:
            case "code":
                rows = folded(color(block.text), width)
            case "indented":  # the indent distinguishes it from prose, and is copied as it was written
                rows = folded(Text(block.text), width)
            case "plain":
                rows = wrapped(Text.styled(block.text, "dim" if block.level else ""), width)
            case "fence":
                self._code = Highlighter(block.text, self._syntax)
                rows = [ruled(code_title(block.text, width))]
            case "fence_end":
                rows = [ruled("─" * cells(code_title(block.text, width)))]
            case _:
                self._markdown.parsed = _element("flow", "", _tokens(block))
                for token in self._markdown.parsed:
                    token.children = shown(token.children, self._syntax is not None) if token.children else None
                return self._painted(self._console.render(self._markdown, self._options.update_width(width)))
        return self._painted(drawn(rows, self._console))

    def _painted(self, segments: Iterable[Segment]) -> list[str]:
        lines = map(Segment.simplify, Segment.split_lines(segments))
        return [
            "".join(style.render(text, color_system=self._system) if style else text for text, style, _ in line)
            for line in lines
        ]


def _tokens(block: Block) -> list[Token]:
    """The tokens of a block; a text with too many marks at the start of a line stays as it is."""
    if block.kind == "rule":
        return [Token("hr", "hr", 0)]
    text = block.text.strip(" \n")
    if block.kind in ("heading", "paragraph"):
        tag = f"h{block.level}" if block.level else "p"
        return _element(block.kind, tag, _parser(has_links(text)).parseInline(text))
    if any(len(line) - len(line.lstrip(" >*+-0123456789.)")) > _DEEPEST for line in block.text.split("\n")):
        return _element("paragraph", "p", [Token("text", "", 0, content=block.text.strip("\n"))])
    tokens = _parser(has_links(block.text)).parse(block.text)
    if block.number is not None and len(tokens) > 1:
        tokens[1].info = str(block.number)
    return tokens


def _element(name: str, tag: str, inside: Iterable[Token]) -> list[Token]:
    return [Token(f"{name}_open", tag, 1), *inside, Token(f"{name}_close", tag, -1)]


def shown(tokens: Sequence[Token], color: bool) -> list[Token]:
    """The tokens of a text for rich, with all that it would hide, join or encode as text."""
    result: list[Token] = []
    links: list[tuple[Token, int]] = []  # the opening token, and where the label begins
    for token in tokens:
        if token.type == "image":
            label = shown(token.children or [], color)
            result += [*label, *_address(token.attrs.get("src"), label)]
            continue
        result.append(token)
        if token.type == "math":
            token.type = "text"
            continue
        token.content = one_line(token.content)
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "code_inline" and not color:
            token.type, token.content = "text", f"`{token.content}`"
        elif token.type == "link_open":
            token.type, token.tag = "label_open", "link"
            links.append((token, len(result)))
        elif token.type == "link_close":
            token.type, token.tag = "label_close", "link"
            opened, start = links.pop()
            result += _address(opened.attrs.get("href"), result[start:])
    return result


def _address(url: object, label: Sequence[Token]) -> list[Token]:
    """The address of a link or an image, unless it is the label."""
    url, text = one_line(str(url or "")), "".join(token.content for token in label)
    if not url or text in (url, url.removeprefix("mailto:")):
        return []
    return [Token("address", "link_url", 0, content=f" ({url})" if text else url)]


def has_links(text: str) -> bool:
    """Whether a parser should look for links: many brackets that never close take long, each is searched to the end."""
    return text.count("[") <= 50 + text.count("]")


def markdown_parser(links: bool) -> MarkdownIt:
    """CommonMark with tables, struck text and LaTeX as it is written; HTML stays text."""
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 200}).enable(["table", "strikethrough"])
    made.inline.ruler.before("escape", "math", _math)
    return made if links else made.disable(["link", "image"])


@cache
def _parser(links: bool) -> MarkdownIt:
    made = markdown_parser(links).disable(["reference", "html_block", "html_inline"])  # all that would be hidden
    made.normalizeLink = made.normalizeLinkText = str  # type: ignore[method-assign,assignment]
    made.validateLink = bool  # type: ignore[method-assign,assignment]  # no link is opened, each is shown
    return made


def _math(state: "StateInline", silent: bool) -> bool:
    r"""A rule of the parser: LaTeX stays as it is written."""
    found = _MATH.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True
