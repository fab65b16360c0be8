"""Turns blocks of Markdown into rows with color sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from llmcli.text import sanitize
from llmcli.ui.markdown.code import Highlighter, Style, color_code, language_of
from llmcli.ui.markdown.splitter import Block, renumber_list
from llmcli.ui.terminal.cells import Runs, cells, fit, fold, styled, unstyled, wrap

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_NARROWEST = 8  # columns; no indent leaves fewer
_DEEPEST = 100  # columns of list and quote marks at the start of a line
_BULLETS = "•◦▪"
_RULE = 40  # columns
_INDENT = 4  # columns before code without a fence
_CODE_SIDE = "── "
_CODE = "code"  # in place of the language of a fence without one
_LONGEST_NAME = 24  # columns of a language
_UNBROKEN = 14  # columns; a column of a table is at least as wide as its longest word, up to this
_BETWEEN = " │ "


@dataclass(frozen=True)
class TableGrid:
    """A table's cells; every row has as many as the head."""

    head: list[Runs]
    body: list[list[Runs]]
    sides: list[str]  # left, right or center, by column


class Renderer:
    """Turns blocks into rows; in order, because a row may depend on the block before it."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._code = Highlighter("", style)
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

    def _spaced(self, block: Block, width: int, color: Callable[[str], Runs]) -> list[str]:
        self._gap_pending = self._gap_pending or block.gap
        rows = self._drawn(block, width, color)
        if not rows:
            return []
        rows = ["", *rows] if self._gap_pending and self._has_rows else rows
        self._has_rows, self._gap_pending = True, False
        return rows

    def _drawn(self, block: Block, width: int, color: Callable[[str], Runs]) -> list[str]:
        style = self._style
        match block.kind:
            case "code":
                return [styled(row) for row in fold(color(block.text), width)]
            case "fence":
                self._code = Highlighter(block.text, style)
                return [self._code_top(block.text, width)]
            case "fence_end":
                return [self._code_bottom(block.text, width)]
            case "indented":  # the indent distinguishes it from prose, and is copied as it was written
                return [styled(row) for row in fold([("", block.text)], width)]
            case "rule":
                return [self._rule(width)]
            case "heading":
                return self._heading(
                    block.level, inline_runs(block.text, style, self._heading_look(block.level)), width
                )
            case "paragraph":
                return [styled(row) for row in wrap(inline_runs(block.text.strip(" \n"), style), width)]
        if _too_deep(block.text):
            return [styled(row) for row in wrap([("", block.text.strip("\n"))], width)]
        return self._container(block, width)

    def _container(self, block: Block, width: int) -> list[str]:
        tokens = parser_for(block.text).parse(block.text)
        room = _room(width, block.level)
        rows = self._flow(tokens, room, 0, block.number)
        return _beside("", width - room, rows) if room < width else rows

    def _flow(self, tokens: Sequence["Token"], width: int, depth: int, number: int | None = None) -> list[str]:
        """The rows of block tokens, one below the other."""
        rows: list[str] = []
        at = 0
        above: Token | None = None
        while at < len(tokens):
            token = tokens[at]
            end = _end(tokens, at)
            part = self._element(token, tokens[at + 1 : end], width, depth, number)
            lists = token.type.endswith("list_open") and above is not None and above.type.endswith("list_open")
            if rows and part and not (above is not None and above.hidden) and not token.hidden and not lists:
                rows.append("")
            rows += part
            above, at = token, end + 1
        return rows

    def _element(
        self, token: "Token", inner: Sequence["Token"], width: int, depth: int, number: int | None
    ) -> list[str]:
        style = self._style
        match token.type:
            case "paragraph_open":
                return [styled(row) for row in wrap(self._text(inner), width)]
            case "heading_open":
                level = int(token.tag[1:])
                return self._heading(level, self._text(inner, self._heading_look(level)), width)
            case "bullet_list_open" | "ordered_list_open":
                return self._list(inner, width, depth, number)
            case "blockquote_open":
                room = _room(width, 2)
                rows = self._flow(inner, room, depth)
                bar = styled([(style.marker, "│ ")]) if room < width else ""
                return [bar + row for row in rows]
            case "fence":
                return [
                    self._code_top(token.info, width),
                    *self._code_lines(token, width),
                    self._code_bottom(token.info, width),
                ]
            case "code_block":
                room = _room(width, _INDENT)
                return _beside("", width - room, self._code_lines(token, room))
            case "table_open":
                return grid_rows(self._grid(inner), width, style)
            case "hr":
                return [self._rule(width)]
        return [styled(row) for row in wrap([("", token.content)], width)] if token.content.strip() else []

    def _list(self, tokens: Sequence["Token"], width: int, depth: int, number: int | None) -> list[str]:
        rows: list[str] = []
        at = 0
        count: tuple[int, int] | None = None
        while at < len(tokens):
            token = tokens[at]
            end = _end(tokens, at)
            inner = tokens[at + 1 : end]
            mark = _BULLETS[min(depth, 2)]
            if token.info:
                count = renumber_list(int(token.info), count)
                mark = f"{count[1] if number is None else number}{token.markup}"
            loose = any(
                child.type == "paragraph_open" and child.level == token.level + 1 and not child.hidden
                for child in inner
            )
            rows += [""] if rows and loose else []
            room = _room(width, cells(mark) + 1)
            part = self._flow(inner, room, depth + 1) or [""]
            look = self._style.marker
            label = [styled(row) for row in wrap([(look, mark)], width)]
            rows += _beside(f"{label[0]} ", width - room, part) if room < width else label + part
            at = end + 1
        return rows

    def _grid(self, tokens: Sequence["Token"]) -> TableGrid:
        style = self._style
        table: list[list[Runs]] = []
        sides: list[str] = []
        for token, inner in zip(tokens, islice(tokens, 1, None), strict=False):
            if token.type == "tr_open":
                table.append([])
            elif token.type in ("th_open", "td_open"):
                head = token.type == "th_open"
                table[-1].append(self._text([inner], style.strong if head else ""))
                if head:
                    sides.append(str(token.attrs.get("style", "left")).rpartition(":")[2])
        return TableGrid(table[0], table[1:], sides)

    def _text(self, tokens: Sequence["Token"], look: str = "") -> Runs:
        return token_runs([child for token in tokens for child in token.children or []], self._style, look)

    def _heading_look(self, level: int) -> str:
        return self._style.headings[min(level, 4) - 1]

    def _heading(self, level: int, runs: Runs, width: int) -> list[str]:
        # Without colors the marks distinguish a heading from a paragraph.
        marks: Runs = [] if self._style.color else [("", "#" * level + " ")]
        return [styled(row) for row in wrap([*marks, *runs], width)]

    def _code_top(self, info: str, width: int) -> str:
        return styled([(self._style.faint, _code_title(info, width))])

    def _code_bottom(self, info: str, width: int) -> str:
        return styled([(self._style.faint, "─" * cells(_code_title(info, width)))])

    def _code_lines(self, token: "Token", width: int) -> list[str]:
        """The rows of finished code."""
        if not token.content:
            return []
        lines = color_code(token.content.removesuffix("\n"), token.info.strip(), self._style)
        return [styled(row) for line in lines for row in fold(line, width)]

    def _rule(self, width: int) -> str:
        return styled([(self._style.faint, "─" * min(width, _RULE))])


def _end(tokens: Sequence["Token"], start: int) -> int:
    """Where the element that begins at `start` ends."""
    depth = 0
    for at in range(start, len(tokens)):
        depth += tokens[at].nesting
        if depth <= 0:
            return at
    return len(tokens)


def _room(width: int, less: int) -> int:
    """The part of `width` beside a mark or margin; all of it where the part is too small."""
    return width - less if width - less >= _NARROWEST else width


def _beside(mark: str, size: int, rows: list[str]) -> list[str]:
    """Rows indented by `size` columns, with the mark before the first."""
    blank = " " * size
    return [(mark or blank) + rows[0], *(blank + row if row else "" for row in rows[1:])] if rows else []


def _too_deep(text: str) -> bool:
    return any(len(line) - len(line.lstrip(" >*+-0123456789.)")) > _DEEPEST for line in text.split("\n"))


def _code_title(info: str, width: int) -> str:
    """The row above code: `── python ──`.

    There is nothing at the sides of code: a frame or an indent would be copied with it.
    """
    room = width - len(_CODE_SIDE) * 2
    if room < 1:
        return "─" * width
    name = one_line(language_of(info.strip())) or _CODE
    return f"{_CODE_SIDE}{name[: fit(name, 0, min(room, _LONGEST_NAME))]}{_CODE_SIDE[::-1]}"


def grid_rows(grid: TableGrid, width: int, style: Style) -> list[str]:
    """The rows: columns side by side, or in a narrow window `head: value` on a row for each cell."""
    widths = _widths(grid, width - len(_BETWEEN) * (len(grid.head) - 1))
    if not widths:
        return _listed(grid, width, style)
    bar = styled([(style.faint, _BETWEEN)])
    line = styled([(style.faint, "─┼─".join("─" * size for size in widths))])
    drawn = [_row_of_cells(row, widths, grid.sides, bar) for row in grid.body]
    rows = [*_row_of_cells(grid.head, widths, grid.sides, bar), line]
    ragged = any(len(lines) > 1 for lines in drawn)
    for at, lines in enumerate(drawn):
        rows += [line, *lines] if ragged and at else lines
    return rows


def _widths(grid: TableGrid, room: int) -> list[int]:
    """The widths of the columns in `room` columns; empty where they are too few for a readable table."""
    columns = [[unstyled(row[at]) for row in [grid.head, *grid.body]] for at in range(len(grid.head))]
    whole = [max(1, *(cells(text) for text in column)) for column in columns]
    least = [
        min(_UNBROKEN, max([1, *(cells(word) for text in column for word in text.split(" "))])) for column in columns
    ]
    if sum(least) > room:
        return []
    if sum(whole) <= room:
        return whole
    sizes = list(least)
    for limit in range(room, 0, -1):
        sizes = [max(low, min(full, limit)) for low, full in zip(least, whole, strict=True)]
        if sum(sizes) <= room:
            break
    return sizes


def _row_of_cells(row: list[Runs], widths: list[int], sides: list[str], bar: str) -> list[str]:
    """One row of the table: its cells wrapped, side by side."""
    columns = [wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    lines = []
    for at in range(max(len(column) for column in columns)):
        parts = []
        for column, size, side in zip(columns, widths, sides, strict=True):
            runs = column[at] if at < len(column) else []
            blank = max(0, size - cells(unstyled(runs)))
            left = blank if side == "right" else blank // 2 if side == "center" else 0
            parts.append(" " * left + styled(runs) + " " * (blank - left))
        lines.append(bar.join(parts).rstrip(" "))
    return lines


def _listed(grid: TableGrid, width: int, style: Style) -> list[str]:
    """`head: value` for each cell, with a blank row between the rows of the table."""
    rows: list[str] = []
    body: list[list[Runs]] = grid.body or [[[] for _ in grid.head]]
    for at, row in enumerate(body):
        rows += [""] if at else []
        for head, cell in zip(grid.head, row, strict=True):
            rows += [styled(line) for line in wrap([*head, (style.faint, ": "), *cell], width)]
    return rows


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
                runs += _address(url, unstyled(runs[start:]), style)
        else:
            runs += _leaf(token, style, ";".join(filter(None, stack)))
    return runs


def _leaf(token: "Token", style: Style, look: str) -> Runs:
    if token.type in ("softbreak", "hardbreak"):
        return [("", "\n")]
    if token.type == "image":
        label = unstyled(token_runs(token.children or [], style))
        return [(look, label), *_address(str(token.attrs.get("src", "")), label, style)]
    text = one_line(token.content)
    if token.type != "code_inline":
        return [(look, text)]
    if not style.color:
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
    return sanitize(text).replace("\n", " ").replace("\t", " ")


def parser_for(text: str) -> "MarkdownIt":
    """The parser, without links where many brackets never close: it would search each one to the end."""
    return parser(text.count("[") <= 50 + text.count("]"))


@cache
def parser(links: bool = True) -> "MarkdownIt":
    """CommonMark with tables and struck text; HTML and link definitions, which would be hidden, stay text."""
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 200})
    made.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])
    made.normalizeLink = made.normalizeLinkText = str  # type: ignore[method-assign,assignment]
    made.validateLink = bool  # type: ignore[method-assign,assignment]  # no link is opened, each is shown
    return made if links else made.disable(["link", "image"])
