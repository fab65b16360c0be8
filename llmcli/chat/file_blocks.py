"""A file as a model reads it in a message: a fenced block under the name of the file."""

import re
from pathlib import Path

# Languages whose name in a fence differs from their suffix; models and Markdown renderers know the others by suffix.
_LANGUAGES = {
    "bash": "bash",
    "h": "c",
    "hpp": "cpp",
    "js": "javascript",
    "kt": "kotlin",
    "log": "",
    "md": "markdown",
    "mjs": "javascript",
    "ps1": "powershell",
    "py": "python",
    "pyi": "python",
    "rb": "ruby",
    "rs": "rust",
    "sh": "bash",
    "text": "",
    "ts": "typescript",
    "txt": "",
    "yml": "yaml",
}


def file_block(name: str, text: str) -> str:
    """The text of a file between fences, under its name; the fence is longer than any in the text."""
    runs = re.findall("`{3,}", text)
    fence = "`" * (max(map(len, runs), default=2) + 1)
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    end = "" if text.endswith("\n") or not text else "\n"
    return f"File {name}:\n{fence}{_language(name)}\n{text}{end}{fence}"


def _language(name: str) -> str:
    """The info string of the fence for a file of this name: python for x.py, "" where there is none."""
    path = Path(name)
    if path.name in ("Makefile", "Dockerfile"):
        return path.name.lower()
    suffix = path.suffix[1:].lower()
    known = _LANGUAGES.get(suffix)
    if known is not None:
        return known
    return suffix if suffix.isascii() and suffix.isalnum() and len(suffix) <= 10 else ""
