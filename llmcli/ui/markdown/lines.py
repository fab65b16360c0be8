"""What a line of Markdown begins or ends."""

import re

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ ]+(.*))?$")
_RULE = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,}) *(.*)$")
_ITEM = re.compile(r"( {0,3})([-*+]|\d{1,9}[.)])( +(?=\S)|$| +$)")
_QUOTE = re.compile(r" {0,3}>")
_DELIMITERS = re.compile(r" {0,3}\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+) *$")
_PIPE = re.compile(r"(?<!\\)\|")
_UNDECIDED = re.compile(r"[-=*_+#>|`~: ]+|\d{1,9}[.)]?")


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


def item(line: str) -> tuple[int, str, int] | None:
    """Indent, marker and the column where the text begins of a line that opens a list item."""
    found = _ITEM.match(line)
    if not found or rule(line):
        return None
    gap = len(found[3]) if 1 <= len(found[3]) <= 4 and found.end() < len(line) else 1
    return len(found[1]), found[2], len(found[1]) + len(found[2]) + gap


def rule(line: str) -> bool:
    return bool(_RULE.match(line))


def quote(line: str) -> bool:
    return bool(_QUOTE.match(line))


def underline(line: str) -> int:
    """The level of the heading that this line makes of the paragraph above it; 0 for none."""
    found = _UNDERLINE.match(line)
    return 0 if not found else 1 if found[1][0] == "=" else 2


def begins_table(header: str, line: str) -> bool:
    """Whether `line` draws the columns of a table under `header`."""
    return "|" in header and bool(_DELIMITERS.match(line)) and _cells(header) == _cells(line)


def interrupts(line: str) -> bool:
    """Whether the line ends a paragraph without a blank line between them."""
    if indent(line) > 3:
        return False
    if heading(line) or rule(line) or fence(line) or quote(line):
        return True
    opened = item(line)
    return bool(opened and line.strip() != opened[1] and opened[1][:-1] in ("", "1"))


def undecided(line: str) -> bool:
    """Whether an unfinished line is still ambiguous: a list, a rule, the underline of a heading."""
    return bool(_UNDECIDED.fullmatch(line.strip(" ")))


def indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _cells(line: str) -> int:
    bare = line.strip().removeprefix("|")
    if bare.endswith("|") and not bare.endswith("\\|"):
        bare = bare[:-1]
    return len(_PIPE.findall(bare)) + 1
