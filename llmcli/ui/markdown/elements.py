"""The elements of an answer as rich's walk over its tokens meets them.

Those of rich center, fold, omit or pad: here each draws its own rows, and the text breaks where `cells` says.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich import markdown
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import MarkdownContext, MarkdownElement, TextElement
from rich.segment import Segment
from rich.text import Text

from llmcli.text import sanitize
from llmcli.ui.markdown.code import Highlighter, language_of
from llmcli.ui.markdown.splitter import renumber_list
from llmcli.ui.terminal.cells import cells, fit, folds, line_breaks

if TYPE_CHECKING:
    from typing import Self

    from markdown_it.token import Token

_NARROWEST = 8  # columns; no indent leaves fewer
_BULLETS = "•◦▪"
_RULE, _LONGEST_NAME = 40, 24  # columns: of a horizontal rule, and of the name of a language
_INDENT = 4  # columns before code without a fence
_CODE_SIDE = "── "
_UNBROKEN = 14  # columns; a column of a table is at least as wide as its longest word, up to this
_BETWEEN = " │ "


def room(width: int, less: int) -> int:
    """The part of `width` beside a mark or margin; all of it where the part is too small."""
    return width - less if width - less >= _NARROWEST else width


def one_line(text: str) -> str:
    """`text` in one line and safe: an entity such as `&#10;` may be a control character."""
    return sanitize(text).replace("\n", " ").replace("\t", " ")


def wrapped(text: Text, width: int) -> list[Text]:
    """Rows of at most `width` columns, broken between words where possible."""
    return text.divide([place for span in line_breaks(text.plain, width) for place in span])[1::2]


def folded(text: Text, width: int) -> Iterable[Text]:
    """Rows of at most `width` columns with every blank kept, for code."""
    return text.divide([end for _, end in folds(text.plain, width)[:-1]])


def drawn(rows: Iterable[Text], console: Console) -> Iterator[Segment]:
    """The segments of rows."""
    for row in rows:
        yield from row.render(console)
        yield Segment.line()


def code_title(info: str, width: int) -> str:
    """The row above code: `── python ──`.

    There is nothing at the sides of code: a frame or an indent would be copied with it.
    """
    most = width - len(_CODE_SIDE) * 2
    if most < 1:
        return "─" * width
    name = one_line(language_of(info.strip())) or "code"
    return f"{_CODE_SIDE}{name[: fit(name, 0, min(most, _LONGEST_NAME))]}{_CODE_SIDE[::-1]}"


def ruled(text: str) -> Text:
    """A row of lines: a rule, or the one above or below code."""
    return Text.styled(text, "markdown.hr")


def beside(margins: tuple[str, str], look: str, rows: Iterable[Segment], console: Console) -> Iterator[Segment]:
    """Rows behind a margin, which is another one for the first row; on an empty row only a visible one."""
    style = console.get_style(look)
    for number, row in enumerate(Segment.split_lines(rows)):
        margin = margins[number > 0]
        if margin and (row or not margin.isspace()):
            yield Segment(margin, None if margin.isspace() else style)
        yield from row
        yield Segment.line()


class Element(TextElement):
    """An element that keeps its token."""

    new_line = False
    markdown: Any  # that it is part of, which knows the colors of code
    token: "Token"

    @classmethod
    def create(cls, markdown: Any, token: "Token") -> "Self":
        made = cls()
        made.markdown, made.token = markdown, token
        return made


class Paragraph(Element):
    """A paragraph; one that is hidden is in a tight list, without blank rows."""

    style_name = "markdown.paragraph"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return drawn(wrapped(self.text, options.max_width), console)


class Heading(markdown.Heading):
    """A heading."""

    new_line = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Without colors the marks distinguish a heading from a paragraph.
        marks = "" if console.color_system else "#" * int(self.tag[1]) + " "
        return drawn(wrapped(Text(marks).append_text(self.text), options.max_width), console)


class Rule(Element):
    """A horizontal rule."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return drawn([ruled("─" * min(options.max_width, _RULE))], console)


class Code(Element):
    """Finished code, with or without a fence."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        info, is_fenced = self.token.info, self.token.type == "fence"
        code = self.text.plain
        text = Highlighter(info, self.markdown.syntax).colored(code.removesuffix("\n"))
        lines: Iterable[Text] = text.split("\n", allow_blank=True) if code else ()
        width = options.max_width if is_fenced else room(options.max_width, _INDENT)
        rows = [row for line in lines for row in folded(line, width)]
        if is_fenced:
            title = code_title(info, width)
            return drawn([ruled(title), *rows, ruled("─" * cells(title))], console)
        margin = " " * (options.max_width - width)
        return beside((margin, margin), "none", drawn(rows, console), console)


class Flow(Element):
    """Elements one below the other, in a tight list without blank rows between them, behind a margin."""

    margins = "", ""  # of the first row, and of the others
    look = "none"

    def __init__(self) -> None:
        self.elements: list[MarkdownElement] = []

    def on_child_close(self, _context: MarkdownContext, child: MarkdownElement) -> bool:
        self.elements.append(child)
        return False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = room(options.max_width, cells(self.margins[0]))
        rows = self._stacked(console, options.update_width(width))
        return beside(self.margins if width < options.max_width else ("", ""), self.look, rows, console)

    def _stacked(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        above: MarkdownElement | None = None
        for element in self.elements:
            rows = [*console.render(element, options)]
            is_tight = any(isinstance(one, Paragraph) and one.token.hidden for one in (above, element))
            are_lists = isinstance(above, List) and isinstance(element, List)
            if above and rows and not is_tight and not are_lists:
                yield Segment.line()
            yield from rows
            above = element


class Quote(Flow):
    """A quote behind a bar."""

    margins = "│ ", "│ "
    look = "markdown.block_quote"


class Item(Flow):
    """An item of a list behind its mark, or below it in a narrow window."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        mark = self.margins[0]
        if room(options.max_width, cells(mark)) < options.max_width:
            return super().__rich_console__(console, options)
        marks = wrapped(Text.styled(mark, self.look), options.max_width)
        return [*drawn(marks, console), *self._stacked(console, options)]

    def _stacked(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield from [*super()._stacked(console, options)] or [Segment.line()]


class List(Flow):
    """A list, whose bullets tell how deep it is; `1. 1. 1.` counts."""

    depth = 0

    def on_enter(self, context: MarkdownContext) -> None:
        super().on_enter(context)
        self.depth = sum(isinstance(one, List) for one in context.stack[:-1])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count: tuple[int, int] | None = None
        for at, item in enumerate(self.elements):
            assert isinstance(item, Item)
            mark, item.look = _BULLETS[min(self.depth, len(_BULLETS) - 1)], "markdown.item.bullet"
            if item.token.info:
                count = renumber_list(int(item.token.info), count)
                mark, item.look = f"{count[1]}{item.token.markup}", "markdown.item.number"
            item.margins = f"{mark} ", " " * (cells(mark) + 1)
            if at and any(isinstance(one, Paragraph) and not one.token.hidden for one in item.elements):
                yield Segment.line()
            yield from console.render(item, options)


class Table(markdown.TableElement):
    """Columns side by side, or `head: value` for each cell: the table of rich cuts words and leaves out columns."""

    new_line = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [self.header.row if self.header else None, *(self.body.rows if self.body else [])]
        head, *body = [[cell.content for cell in row.cells] for row in rows if row]
        for cell in head:
            cell.stylize_before("markdown.table.header")
        widths = _widths([head, *body], options.max_width - len(_BETWEEN) * (len(head) - 1))
        return drawn(_columns([head, *body], widths) if widths else _listed(head, body, options.max_width), console)


def _widths(table: Sequence[Sequence[Text]], most: int) -> list[int]:
    """The widths of the columns, `most` together; empty where that is too narrow for a readable table."""
    columns = [[cell.plain for cell in column] for column in zip(*table, strict=True)]
    whole = [max(1, *map(cells, column)) for column in columns]
    longest = [max(cells(word) for text in column for word in text.split(" ")) for column in columns]
    least = [min(_UNBROKEN, max(1, size)) for size in longest]
    if sum(least) > most:
        return []
    for limit in range(max(whole), 0, -1):
        widths = [max(low, min(full, limit)) for low, full in zip(least, whole, strict=True)]
        if sum(widths) <= most:
            return widths
    return least


def _columns(table: Sequence[Sequence[Text]], widths: Sequence[int]) -> Iterator[Text]:
    """The rows of a table: a line below the head, and between the others if one of them is wrapped."""
    broken = [[wrapped(cell, width) for cell, width in zip(row, widths, strict=True)] for row in table]
    is_ragged = any(len(cell) > 1 for row in broken[1:] for cell in row)
    bar = Text().append(_BETWEEN, "markdown.table.border")
    ruler = Text.styled("─┼─".join("─" * width for width in widths), "markdown.table.border")
    for number, row in enumerate(broken):
        if number > 1 and is_ragged:
            yield ruler
        for texts in zip_longest(*row):
            line = bar.join(_padded(text or Text(), width) for text, width in zip(texts, widths, strict=True))
            line.rstrip()
            yield line
        if not number:
            yield ruler


def _padded(text: Text, width: int) -> Text:
    blank = max(width - cells(text.plain), 0)
    left = {"right": blank, "center": blank // 2}.get(text.justify or "", 0)
    text.pad_left(left)
    text.pad_right(blank - left)
    return text


def _listed(head: Sequence[Text], body: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    """`head: value` for each cell, with a blank row between the rows of the table."""
    for number, row in enumerate(body or [[Text()] * len(head)]):
        if number:
            yield Text()
        for name, cell in zip(head, row, strict=True):
            yield from wrapped(Text().append_text(name).append(": ", "markdown.table.border").append_text(cell), width)
