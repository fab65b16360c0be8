"""The front page, which is shown at once, without loading Typer; and the layout of every help text."""

import re
import shutil
import textwrap
from collections.abc import Sequence

from llmcli.cli.help_texts import ABOUT, COMMANDS, DOCUMENTATION, EXAMPLES, PROGRAM

Row = tuple[str, str]
_WIDEST = 80
_LONGEST_NAME = 26  # the help of a longer name starts on the next line
_NEXT = f"{PROGRAM} COMMAND --help shows the examples and options of a command."
_COMMANDS = [(name, command.summary) for name, command in COMMANDS.items()]
_OPTIONS = (
    ("--version", "Show the versions and the devices and exit."),
    ("-h, --help", "Show this help and exit."),
    ("--help-all", "Show the commands of all groups and exit."),
)


def page_of(arguments: Sequence[str]) -> str:
    """The page that this command line asks for, or an empty text."""
    if not arguments:
        return front_page()
    return root_help() if arguments[0] in ("-h", "--help") else ""


def front_page() -> str:
    """What `llmcli` alone shows."""
    parts = [wrapped(ABOUT), *examples("Start here", EXAMPLES[""]), *section("Commands", _COMMANDS)]
    return "\n\n".join([*parts, f"{wrapped(_NEXT)}\n{wrapped(DOCUMENTATION)}"])


def root_help() -> str:
    """What `llmcli --help` shows."""
    parts = [f"Usage: {PROGRAM} COMMAND [OPTIONS]", wrapped(ABOUT, "  "), *examples("Examples", EXAMPLES[""])]
    return "\n\n".join([*parts, *section("Commands", _COMMANDS), *section("Options", _OPTIONS), wrapped(_NEXT)])


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with `help [COMMAND]` and `version` as the options that they mean."""
    if arguments[:1] == ["help"]:
        words = [word for word in arguments[1:] if not word.startswith("-")]
        return [*words, "--help"]
    return ["--version"] if list(arguments) == ["version"] else list(arguments)


def examples(heading: str, lines: str) -> list[str]:
    """Command lines under a heading; nothing without any. In a narrow terminal, each comment is above its command."""
    if not lines:
        return []
    block = lines.split("\n")
    if max(map(len, block)) + 2 > width():
        pairs = [line.partition("  #")[::2] for line in block]
        block = [
            part for command, comment in pairs for part in (f"#{comment}" if comment else "", command.rstrip()) if part
        ]
    return ["\n".join([f"{heading}:", *(f"  {line}" for line in block)])]


def section(heading: str, rows: Sequence[Row]) -> list[str]:
    """Rows in two columns under a heading; nothing without rows."""
    if not rows:
        return []
    column = 4 + max((len(name) for name, _ in rows if len(name) <= _LONGEST_NAME), default=0)
    lines = [f"{heading}:"]
    for name, text in rows:
        text = re.sub(r"\S{40,}", lambda word: word[0].replace(",", ", "), text)  # a long list breaks at its commas
        wrapped_text = textwrap.wrap(text, max(width() - column, 20), break_on_hyphens=False) or [""]
        if len(name) + 4 > column:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{column - 2}}{wrapped_text.pop(0)}".rstrip())
        lines += [" " * column + line for line in wrapped_text]
    return ["\n".join(lines)]


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph as wide as the terminal, at most 80 columns."""
    return textwrap.fill(
        text, width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def width() -> int:
    """The columns of the terminal, at least 40 and at most 80."""
    return max(min(shutil.get_terminal_size().columns, _WIDEST), 40)
