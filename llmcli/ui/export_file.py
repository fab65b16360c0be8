"""Exports a conversation to a file, in a format by its suffix; two are drawn here: a picture (SVG) and a page (HTML).

The parser of Markdown and the lexers of code are those of the chat. A picture has the rows of the terminal; a page has
elements, so that its text flows in every window.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.conversation import Message
from llmcli.chat.export import ENDINGS, SPEAKERS, export, iso_time
from llmcli.errors import DiskError, error_text
from llmcli.text import ellipsize, sanitize, xml_text
from llmcli.ui.terminal.cells import cells, painted

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from rich.color_triplet import ColorTriplet
    from rich.style import Style
    from rich.terminal_theme import TerminalTheme

MOST_ROWS, _COLUMNS = 300, 80  # of a picture of a conversation
_MAX_CHARACTERS = 50_000  # of one message
_MARK = "\x1b[1;36m> \x1b[0m"
# Wide characters are drawn separately: in a font of another width they must not stretch the letters beside them.
_WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff01-\uff60\U0001f000-\U0003fffd\u200d\ufe0f"
_PIECE = re.compile(f"[{_WIDE}]+|[^{_WIDE}]+")
_LINK = re.compile(r"(?i)(https?://|mailto:)")
_MAX_MARKDOWN = 200_000  # characters; a longer text is not rendered on a page
# Background and foreground, then the 16 colors of a terminal.
_COLORS = """17191e d5d9e0  3f444d e5737d 8fc27a dcb56b 6fa8f0 c08adf 5fbfc4 c9ced8
             757c88 f28b93 a8d694 ecca86 8fbcff d3a4f0 7fd6da f3f5f8"""


def draw(rows: Sequence[str], columns: int, title: str) -> str:
    """A picture (SVG) of rows with color sequences, in a window with a title; the same rows give the same bytes."""
    from rich.ansi import AnsiDecoder
    from rich.color import parse_rgb_hex
    from rich.console import Console
    from rich.style import Style
    from rich.terminal_theme import TerminalTheme

    background, foreground, *colors = map(parse_rgb_hex, _COLORS.split())
    theme = TerminalTheme(background, foreground, list(colors[:8]), list(colors[8:]))
    decoder, console = AnsiDecoder(), Console(file=StringIO())
    runs = []
    for number, row in enumerate(rows):
        column = 0
        for text, style, _ in decoder.decode_line(row).render(console):
            style = style or Style.null()
            ink, ground = _colors(style, theme)
            for piece in _PIECE.findall(text):
                run = {"text": piece, "row": number, "column": column, "style": style, "ink": ink, "ground": ground}
                runs.append(run)
                column += cells(piece)
    values = {"title": " ".join(title.split()), "columns": columns, "n_rows": len(rows), "theme": theme, "runs": runs}
    return fill_template(Path(__file__).with_name("export.svg"), **values, cells=cells)


def conversation(messages: Sequence[Message], title: str) -> str:
    """A picture of messages as the chat shows them; its last row tells when the rest is too long."""
    rows = list(islice(_message_rows(messages), MOST_ROWS + 1))
    if len(rows) > MOST_ROWS:
        rows[-1] = painted("… the rest is too long for a picture", "2")
    return draw(rows, _COLUMNS, title)


def _message_rows(messages: Sequence[Message]) -> Iterator[str]:
    """The rows of a conversation with color sequences, a blank one between two messages."""
    from llmcli.ui.markdown.render import Renderer
    from llmcli.ui.markdown.splitter import Block, Splitter
    from llmcli.ui.markdown.theme import theme_of

    theme = theme_of("dark")
    for number, message in enumerate(messages):
        renderer = Renderer(theme, True)
        if number:
            yield ""
        text = sanitize(message.content[:_MAX_CHARACTERS].strip("\n"))
        if len(message.content) > _MAX_CHARACTERS:
            text += " …"
        if message.role == "user":
            lines = [Block("plain", line, gap=False) for line in text.expandtabs(4).split("\n")]
            first, *others = renderer.rows(lines, _COLUMNS - 2)
            yield from (_MARK + first, *("  " + row for row in others))
        else:
            splitter = Splitter()
            yield from renderer.rows(splitter.feed(text) + splitter.finish(), _COLUMNS - 1)
        notes = [f"+ {attachment.name}" for attachment in message.attachments]
        if message.role == "summary":
            notes.append("a summary of the earlier messages")
        notes.append(ENDINGS.get(message.finish_reason, ""))
        for note in filter(None, notes):
            yield from renderer.rows([Block("plain", sanitize(" ".join(note.split())), False, level=1)], _COLUMNS - 1)


def _colors(style: "Style", theme: "TerminalTheme") -> "tuple[ColorTriplet, ColorTriplet]":
    """The colors of the letters and of the ground of a style."""
    from rich.color import blend_rgb
    from rich.color_triplet import ColorTriplet

    ink = style.color.get_truecolor(theme) if style.color else theme.foreground_color
    ground = style.bgcolor.get_truecolor(theme, foreground=False) if style.bgcolor else theme.background_color
    if style.reverse:
        ink, ground = ground, ink
    return ColorTriplet(*blend_rgb(ink, ground, 0.4)) if style.dim else ink, ground


def page(messages: Sequence[Message], title: str, system: str | None) -> str:
    """The page: rendered Markdown, everything else escaped, and a Content-Security-Policy as the second barrier."""
    import base64
    import hashlib

    style = Path(__file__).with_name("export.css").read_text(encoding="utf-8") + _code_style()
    text = fill_template(
        Path(__file__).with_name("export.html"),
        digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        style=style,
        title=title,
        system=system,
        messages=messages,
        speakers=SPEAKERS,
        iso_time=iso_time,
        facts=_facts,
    )
    return text.encode("utf-8", "replace").decode()  # a lone surrogate, from a name or a model, is not UTF-8


def fill_template(path: Path, **values: object) -> str:
    """A template of a page or a picture with its values, all of them escaped; `xml` also makes them safe."""
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    templates.filters |= {"markdown": _page_elements, "xml": lambda text: Markup(xml_text(text))}
    return templates.from_string(path.read_text(encoding="utf-8")).render(values)


def _facts(message: Message) -> str:
    """Why the answer ended, its speed, and its settings that are not defaults."""
    speed = message.timings.get("predicted_per_second", 0)
    settings = (f"{key} {value}" for key, value in message.params.items())
    facts = (ENDINGS.get(message.finish_reason, ""), f"{speed:.1f} tokens/s" if speed else "", *settings)
    return " · ".join(ellipsize(fact, 80) for fact in facts if fact)


def _page_elements(text: str) -> str:
    from markupsafe import Markup

    from llmcli.ui.markdown.render import has_links

    if len(text) > _MAX_MARKDOWN:
        return Markup('<div class="plain">{}</div>').format(text)
    parser = _page_parser(has_links(text))
    tokens = parser.parse(text)
    for token in tokens:
        if style := token.attrs.pop("style", ""):  # the alignment of a column: the policy refuses inline styles
            token.attrSet("class", str(style).rpartition(":")[2])
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer")
            elif child.type == "math":
                child.type = "text"
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # raw HTML is off in the parser


@cache
def _page_parser(links: bool) -> "MarkdownIt":
    """Without images; links to web and mail addresses only."""
    from llmcli.ui.markdown.render import markdown_parser

    parser = markdown_parser(links).disable("image")
    parser.options["highlight"] = _highlight
    # A relative link has no target in a single page.
    parser.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    return parser


def _highlight(code: str, language: str, _attributes: str) -> str:
    """The code with colors; "" leaves it as it is."""
    from pygments import formatters, highlight

    from llmcli.ui.markdown.code import lexer_of

    lexer = lexer_of(language)
    return str(highlight(code, lexer, formatters.HtmlFormatter(nowrap=True))) if lexer else ""


def _code_style() -> str:
    from pygments import formatters

    styles = [formatters.HtmlFormatter(style=name).get_token_style_defs("pre") for name in ("default", "github-dark")]
    light, dark = (re.sub(r" /\*.*?\*/", "", "\n".join(lines)) for lines in styles)
    errors = "pre .err { border: 0; background: none; }"
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{errors}\n"


def document(
    messages: Sequence[Message],
    title: str,
    system: str | None,
    form: str,
    everything: Mapping[int, Message] | None = None,
) -> str:
    """The text of the file in the format `form`; see `chat.export.export`. A picture shows only the messages."""
    if form == "svg":
        return conversation(messages, title)
    if form == "html":
        return page(messages, title, system)
    return export(messages, title, system, form, everything)


def write(text: str, path: Path) -> None:
    """Write the document to its file. Raises DiskError."""
    try:
        path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):  # an empty file of a full disk
            path.unlink() if not path.stat().st_size else None
        raise DiskError(f"cannot write {path}: {error_text(error)}") from None
