"""Front matter: the table at the head of a Markdown file, in TOML or with one `key: value` a line."""

import json
import re
import tomllib
from typing import Any

from llmcli.errors import UsageError

_OWN = ("name", "purpose", "system", "greeting")  # every other key of the simple form is a setting
_TOML = re.compile(r"\s*(\[|[\w.\"'-]+\s*=)")


def split(text: str, source: str) -> tuple[dict[str, Any], str]:
    """The table and the text below it; an empty table and the whole text if the first line is not `---`.

    Raises:
        UsageError: that begins with `source` and names the line, if the table cannot be read.
    """
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == "---"), None)
    if end is None:
        raise UsageError(f"{source}: the front matter of line 1 is not closed", "add a line of --- below it")
    head = lines[1:end]
    first = next((line for line in head if line.strip() and not line.lstrip().startswith("#")), "")
    table = _toml(head, source) if _TOML.match(first) else _simple(head, source)
    return table, "\n".join(lines[end + 1 :])


def _toml(head: list[str], source: str) -> dict[str, Any]:
    try:
        # The empty line stands for `---`, so that errors have the line numbers of the file.
        return tomllib.loads("\n".join(["", *head, ""]))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not valid TOML: {' '.join(str(error).split())[:160]}") from None


def _simple(head: list[str], source: str) -> dict[str, Any]:
    table: dict[str, Any] = {"settings": {}}
    for number, line in enumerate(head, 2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not key:
            raise UsageError(f"{source}, line {number}: expected `key: value`")
        if key == "settings" and not value:
            continue  # the settings follow, indented or not
        if value in ("", "|", ">", "|-", ">-"):
            raise UsageError(
                f"{source}, line {number}: {key} has no value",
                'for text of several lines, write TOML: key = """text"""',
            )
        (table if key in _OWN else table["settings"])[key] = _value(value)
    return table


def _value(text: str) -> Any:
    """The value: a list, or text without its quotes."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
