"""The outline of a session file for a list; its messages are not parsed, because that is slow for many files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from llmcli.files import lines_of

_MESSAGE, _HEAD = b'"type":"message"', b'"type":"head"'
# As the journal writes them; a line of another program is read as JSON.
_MESSAGE_LINK = re.compile(rb'\{"type":"message","id":(\d{1,10}),"parent":(\d{1,10}|null)[,}]')


def read_outline(path: Path) -> tuple[str, int, int, int]:
    """Title, messages of the present branch, branches, and size in bytes.

    Raises:
        OSError: if the file cannot be read.
    """
    title, parents, head = "", dict[int, int | None](), None
    with path.open("rb") as file:
        for line in lines_of(file):
            link = _link(line)
            if link is None or link[0] in parents:
                continue
            number, parent = link
            if number is None:
                head = parent if parent in parents else None
                continue
            parents[number] = parent if parent is None or parent in parents else head
            head = number
            if not title and b'"role":"user"' in line:
                title = _title(line)
        n_branches = len(parents.keys() - parents.values())
        return title, _depth(parents, head), n_branches, file.tell()


def _link(line: bytes) -> tuple[int | None, int | None] | None:
    """The id and the parent of a message, or None and the new head; None for any other line."""
    if match := _MESSAGE_LINK.match(line):
        return int(match[1]), None if match[2] == b"null" else int(match[2])
    if _MESSAGE not in line and _HEAD not in line:
        return None
    try:
        event = json.loads(line)
        is_message = event.get("type") == "message"
        number, parent = (event["id"], event.get("parent")) if is_message else (None, event.get("id"))
    except (ValueError, RecursionError, AttributeError, KeyError):
        return None
    is_valid = isinstance(parent, int | None) and (isinstance(number, int) or not is_message)
    return (number, parent) if is_valid else None


def _depth(parents: Mapping[int, int | None], head: int | None) -> int:
    depth = 0
    while head is not None:
        depth, head = depth + 1, parents[head]
    return depth


def _title(line: bytes) -> str:
    try:
        content = json.loads(line).get("content")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return " ".join(content[:1000].split())[:200] if isinstance(content, str) else ""
