"""Splits a growing Markdown text into blocks that are final, so that they can be written once."""

import copy
import re
from dataclasses import dataclass, replace

# Characters. Longer lines and blocks are split, at places that depend on the text alone: the cost stays linear.
LONGEST_LINE = 2000
_LONGEST_BLOCK = {"paragraph": 4000, "item": 16000, "quote": 8000, "table": 8000}
_LAST_ROWS = 20  # of an unfinished table, which are drawn again
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ ]+(.*))?$")
_RULE = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,}) *(.*)$")
_ITEM = re.compile(r"( {0,3})([-*+]|\d{1,9}[.)])( +(?=\S)|$| +$)")
_QUOTE = re.compile(r" {0,3}>")
_DELIMITERS = re.compile(r" {0,3}\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+) *$")
_PIPE = re.compile(r"(?<!\\)\|")
_AMBIGUOUS = re.compile(r"[-=*_+#>|`~: ]+|\d{1,9}[.)]?")  # may still become an item, a rule or an underline


@dataclass(frozen=True, slots=True)
class Block:
    """A finished top-level block. Each item of a list and each line of code is a block."""

    kind: str  # paragraph heading rule fence code fence_end indented item more quote table, or plain
    text: str = ""
    gap: bool = True  # a blank row stands before it
    level: int = 0  # of a heading; the indent of an item; the column of the text that continues an item; 1 for dim text
    number: int | None = None


class Splitter:
    """Takes text in any pieces and returns the blocks that are final, which depend on the whole text alone."""

    def __init__(self) -> None:
        self._rest = ""  # the unfinished line
        self._fresh = True  # the next line is not the rest of one that was cut
        self._kind = ""  # of the open block
        self._lines: list[str] = []
        self._seed = 0  # lines at the start that repeat those of an earlier part of the block
        self._size = 0
        self._gap = True
        self._blank = False
        self._last = ""
        self._fence = (0, "", "")  # indent, marks, info
        self._item = (0, "", 0)  # indent, marker, column of the text
        self._number: tuple[int, int] | None = None  # written, shown
        self._more = False
        self._inner = ""  # the line that opened code within an item
        self._done: list[Block] = []

    def feed(self, text: str) -> list[Block]:
        """Add text; the blocks that it finishes."""
        self._rest += text
        start = 0
        while True:
            end = self._rest.find("\n", start, start + LONGEST_LINE)
            if end >= 0:
                self._take(self._rest[start:end], ended=True)
                start = end + 1
            elif len(self._rest) - start >= LONGEST_LINE:
                space = self._rest.rfind(" ", start + LONGEST_LINE // 2, start + LONGEST_LINE)
                end = space + 1 if space >= 0 else start + LONGEST_LINE
                self._take(self._rest[start:end], ended=False)
                start = end
            else:
                break
        self._rest = self._rest[start:]
        return self._drain()

    def tail(self) -> list[Block]:
        """The blocks of the unfinished rest, as if the text ended here."""
        twin = copy.copy(self)
        twin._lines = list(self._lines)
        twin._done = []
        if twin._fresh and _AMBIGUOUS.fullmatch(twin._rest.strip(" ")):
            twin._rest = ""
        if twin._kind == "table":
            del twin._lines[2:-_LAST_ROWS]
        blocks = twin.finish()
        if blocks and blocks[-1].kind in ("paragraph", "item", "more", "quote"):
            blocks[-1] = replace(blocks[-1], text=close_open_marks(blocks[-1].text))
        return blocks

    def finish(self) -> list[Block]:
        """The blocks that the end of the text finishes."""
        if self._rest:
            self._take(self._rest, ended=True)
            self._rest = ""
        self._close()
        return self._drain()

    def _drain(self) -> list[Block]:
        done, self._done = self._done, []
        return done

    def _take(self, line: str, ended: bool) -> None:
        line = line.expandtabs(4) if "\t" in line else line
        fresh, self._fresh = self._fresh, ended
        if not fresh and self._kind not in ("", "fence", "indented"):
            self._add(line)
            return
        # Each adds a line to the open block; False when that block has ended and the line is not part of it.
        adders = {
            "paragraph": self._in_paragraph,
            "fence": self._in_fence,
            "indented": self._in_indented,
            "item": self._in_item,
        }
        if self._kind and adders.get(self._kind, self._in_lines)(line):
            return
        self._close()
        if not line.strip():
            self._blank = True
        elif indent(line) > 3:
            self._open("indented")
            self._emit(Block("indented", line))
        elif found := heading(line):
            self._emit(Block("heading", found[1], level=found[0]))
        elif _RULE.match(line):
            self._emit(Block("rule"))
        elif opened := fence(line):
            self._open("fence")
            self._fence = opened
            self._emit(Block("fence", opened[2]))
        elif item := list_item(line):
            self._begin_item(line, item)
            self._add(line)
        else:
            self._open("quote" if _QUOTE.match(line) else "paragraph")
            self._add(line)

    def _begin_item(self, line: str, item: tuple[int, str, int]) -> None:
        self._open("item")
        self._gap = self._blank or self._last not in ("item", "more")
        number = int(item[1][:-1]) if item[1][:-1] else None
        alike = self._last in ("item", "more") and self._item[0] == item[0]
        self._number = None if number is None else renumber_list(number, self._number if alike else None)
        self._item = item
        self._follow_code(line[item[2] :])

    def _in_paragraph(self, line: str) -> bool:
        above = self._lines[-1].rstrip("\n") if self._lines else ""
        underline = _UNDERLINE.match(line)
        level = 1 if underline and underline[1][0] == "=" else 2
        # Under several lines, models mean a row of dashes as a rule.
        if underline and self._gap and (level == 1 or len(self._lines) == 1) and above:
            text = "".join(self._lines).strip()
            self._drop()
            self._emit(Block("heading", text, level=level))
            return True
        if "|" in above and _DELIMITERS.match(line) and _count_cells(above) == _count_cells(line):
            del self._lines[-1]
            self._close()
            self._open("table")
            self._lines.append(above + "\n")
            self._add(line)
            return True
        return self._in_lines(line)

    def _in_fence(self, line: str) -> bool:
        space, marks, _ = self._fence
        if closes(line, marks):
            self._close()
            return True
        self._emit(Block("code", line[min(space, indent(line)) :], gap=False))
        return True

    def _in_indented(self, line: str) -> bool:
        if not line.strip():
            self._lines.append("")
            return True
        if indent(line) < 4:
            self._drop()
            return False
        for blank in self._lines:
            self._emit(Block("indented", blank, gap=False))
        self._lines = []
        self._emit(Block("indented", line, gap=False))
        return True

    def _in_item(self, line: str) -> bool:
        if not line.strip():
            if self._inner or self._lines[-1:] != ["\n"]:
                self._lines.append("\n")
                self._size += 1
            self._blank = True
            return True
        inside = indent(line) >= self._item[2]
        if not inside and (self._inner or self._blank or list_item(line) or interrupts(line)):
            return False
        self._follow_code(line.strip() if inside else "")
        self._add(line)
        return True

    def _follow_code(self, line: str) -> None:
        if self._inner:
            self._inner = "" if closes(line, self._inner[:3]) else self._inner
        elif fence(line):
            self._inner = line

    def _in_lines(self, line: str) -> bool:
        """A paragraph, a table, or a quote, whose marks would end the others."""
        is_marked = self._kind == "quote" and _QUOTE.match(line)
        if not is_marked and (not line.strip() or interrupts(line)):
            return False
        self._add(line)
        return True

    def _open(self, kind: str) -> None:
        self._drop()
        self._kind, self._gap = kind, True

    def _add(self, line: str) -> None:
        self._blank = False
        self._lines.append(line + "\n" if self._fresh else line)
        self._size += len(line)
        if self._size < _LONGEST_BLOCK[self._kind]:
            return
        seed = {"item": [self._inner + "\n"] if self._inner else [], "table": self._lines[:2]}.get(self._kind, [])
        if self._kind == "quote" and not self._fresh:
            seed = ["> "]
        self._flush()
        self._lines, self._seed, self._size = seed, len(seed), 0
        self._gap = False
        self._more = self._kind == "item"

    def _close(self) -> None:
        self._flush()
        self._drop()

    def _drop(self) -> None:
        self._kind, self._lines, self._seed, self._size = "", [], 0, 0
        self._more, self._inner = False, ""

    def _flush(self) -> None:
        text = "".join(self._lines)
        if self._kind == "fence":
            self._emit(Block("fence_end", self._fence[2], gap=False))
            return
        if self._kind in ("", "indented") or len(self._lines) <= self._seed or not text.strip():
            return
        space, _, column = self._item
        if self._more:
            text = re.sub(rf"(?m)^ {{0,{column}}}", "", text)
            self._emit(Block("more", text, self._gap, column))
        elif self._kind == "item":
            self._emit(Block("item", text, self._gap, space, self._number[1] if self._number else None))
        else:
            self._emit(Block(self._kind, text, self._gap))

    def _emit(self, block: Block) -> None:
        self._last = block.kind
        if block.kind not in ("item", "more"):
            self._blank = False
        self._done.append(block)


def close_open_marks(text: str) -> str:
    """`text` with its open marks closed, so that an unfinished block looks as it will when it is finished."""
    if "```" in text or "~~~" in text:
        return text
    last = text.rstrip("\n").rpartition("\n\n")[2]
    for mark in ("`", "**"):
        if last.count(mark) % 2 and not last.endswith(mark):
            return text.rstrip("\n") + mark
    return text


def renumber_list(written: int, before: tuple[int, int] | None) -> tuple[int, int]:
    """The number of a list item as written and as shown: `1. 1. 1.` counts, other numbers are kept."""
    return written, before[1] + 1 if before and before[0] == written else written


def heading(line: str) -> tuple[int, str] | None:
    """The level and the text of `## text`."""
    found = _HEADING.match(line)
    if not found:
        return None
    text = (found[2] or "").strip()
    bare = text.rstrip("#")
    return len(found[1]), (bare.rstrip() if not bare or bare.endswith(" ") else text)


def fence(line: str) -> tuple[int, str, str] | None:
    """Indent, marks and info of a line that opens fenced code."""
    found = _FENCE.match(line)
    if not found or (found[2][0] == "`" and "`" in found[3]):
        return None
    return len(found[1]), found[2], found[3].strip()


def closes(line: str, marks: str) -> bool:
    """Whether the line closes a fence that `marks` opened."""
    bare = line.strip()
    return indent(line) < 4 and len(bare) >= len(marks) and bare == marks[0] * len(bare)


def list_item(line: str) -> tuple[int, str, int] | None:
    """Indent, marker and the column where the text begins of a line that begins a list item."""
    found = _ITEM.match(line)
    if not found or _RULE.match(line):
        return None
    gap = len(found[3]) if 1 <= len(found[3]) <= 4 and found.end() < len(line) else 1
    return len(found[1]), found[2], len(found[1]) + len(found[2]) + gap


def _count_cells(line: str) -> int:
    bare = line.strip().removeprefix("|")
    if bare.endswith("|") and not bare.endswith("\\|"):
        bare = bare[:-1]
    return len(_PIPE.findall(bare)) + 1


def interrupts(line: str) -> bool:
    """Whether the line ends a paragraph without a blank line between them."""
    if indent(line) > 3:
        return False
    if heading(line) or _RULE.match(line) or fence(line) or _QUOTE.match(line):
        return True
    opened = list_item(line)
    return bool(opened and line.strip() != opened[1] and opened[1][:-1] in ("", "1"))


def indent(line: str) -> int:
    """The number of blanks at the start."""
    return len(line) - len(line.lstrip(" "))
