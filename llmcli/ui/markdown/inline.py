"""The looks of text inside a paragraph: bold, code, links."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from llmcli.ui.markdown.style import Style
from llmcli.ui.terminal.cells import Runs, plain
from llmcli.ui.terminal.sanitize import safe

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


@cache
def parser(links: bool = True) -> "MarkdownIt":
    """CommonMark with tables and struck text; HTML and link definitions, which it would hide, stay text."""
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 200})
    made.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])
    made.normalizeLink = made.normalizeLinkText = str  # type: ignore[method-assign,assignment]
    made.validateLink = bool  # type: ignore[method-assign,assignment]  # nothing is opened, all is shown
    return made if links else made.disable(["link", "image"])


def parser_for(text: str) -> "MarkdownIt":
    """The parser, without links where many brackets never close: it would search each one to the end."""
    return parser(text.count("[") <= 50 + text.count("]"))


def inline_runs(text: str, style: Style, look: str = "") -> Runs:
    """The runs of the text of one block."""
    return [
        run for token in parser_for(text).parseInline(text) for run in token_runs(token.children or [], style, look)
    ]


def token_runs(tokens: Sequence["Token"], style: Style, look: str = "") -> Runs:
    """The runs of the parts of an inline token, each with the looks of all elements around it."""
    looks = {"strong": style.strong, "em": style.emphasis, "s": style.struck, "link": style.link}
    stack = [look]
    links: list[tuple[str, int]] = []  # address, where the link's runs begin
    runs: Runs = []
    for token in tokens:
        name = token.type.partition("_")[0]
        if token.nesting == 1:
            stack.append(looks.get(name, ""))
            if name == "link":
                links.append((str(token.attrs.get("href", "")), len(runs)))
        elif token.nesting == -1:
            stack.pop()
            if name == "link":
                url, start = links.pop()
                runs += _address(url, plain(runs[start:]), style)
        else:
            runs += _leaf(token, style, ";".join(filter(None, stack)))
    return runs


def _leaf(token: "Token", style: Style, look: str) -> Runs:
    if token.type in ("softbreak", "hardbreak"):
        return [("", "\n")]
    if token.type == "image":
        label = plain(token_runs(token.children or [], style))
        return [(look, label), *_address(str(token.attrs.get("src", "")), label, style)]
    text = one_line(token.content)
    if token.type != "code_inline":
        return [(look, text)]
    if not style.colour:
        return [("", f"`{text}`")]
    return [(f"{look};{style.code}" if look else style.code, text)]


def _address(url: str, label: str, style: Style) -> Runs:
    """The address of a link, unless it is the label."""
    url = one_line(url)
    if not url or label in (url, url.removeprefix("mailto:")):
        return []
    return [(style.faint, f" ({url})" if label else url)]


def one_line(text: str) -> str:
    """`text` in one line and safe: an entity such as `&#10;` may be a control character."""
    return safe(text).replace("\n", " ").replace("\t", " ")
