"""The commands: where each one is, its one sentence, its examples (in examples.txt) and its most common options.

It imports nothing of the program, so that `llmcli` and `llmcli --help` are shown at once.
"""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAM = "llmcli"
ABOUT = "Run language models on this machine: chat, generate, compare."
DOCUMENTATION = "Manual: README.md and the folder docs/ of the project."
_REQUEST = ("--model", "--system", "--file", "--preset")
Row = tuple[str, str]
_WIDEST = 80
_LONGEST_NAME = 26  # the help of a longer name starts on the next line


class Command(NamedTuple):
    """Where a command is (module:function, app or make_group), and the texts of its help."""

    place: str
    summary: str
    details: str = ""  # what `--help-all` adds to the summary
    common: tuple[str, ...] = ()  # the options that `--help` shows, in this order; without any it shows all of them
    shows_statuses: bool = False  # whether the help ends with the exit statuses


COMMANDS: Mapping[str, Command] = {
    "chat": Command(
        "llmcli.cli.chat:chat",
        "Chat with a model in the terminal.",
        "If stdin is not a terminal, each line of stdin is one message. Put a message of several lines between "
        'two lines of """.',
        common=(
            *("--model", "--continue", "--session", "--no-save", "--character", "--system"),
            *("--preset", "--temperature", "--file", "--ctx-size"),
        ),
    ),
    "generate": Command(
        "llmcli.cli.generate:generate",
        "Generate one answer and print it to stdout.",
        "The prompt is PROMPT, stdin, or both. stdout contains the answer only. In a shell loop, use --no-stdin: "
        "otherwise the first run reads the input of the loop. Each --file follows PROMPT as a block under its "
        "name; a single file without PROMPT is the prompt itself. A note on stderr says when --max-tokens or the "
        "context ends the answer (status 0). If --timeout ends it, the status is 124 and the text so far is "
        "printed.",
        common=(*_REQUEST, "--temperature", "--max-tokens", "--seed", "--json-schema", "--json", "--no-stdin"),
        shows_statuses=True,
    ),
    "compare": Command(
        "llmcli.cli.compare:compare",
        "Answer one prompt with several settings, side by side.",
        "The table below the answers shows for each: its TOKENS and WORDS; DISTINCT-1, -2 and -3, the share of its "
        "sequences of 1, 2 or 3 tokens that are different (1.00: nothing occurs twice); MEAN P, the mean "
        "probability of its tokens; REPEATED, the share of its sequences of 4 tokens that occurred before; and "
        "END, its finish reason (stop, length, timeout, interrupt or error).",
        common=("--vary", "--answers", *_REQUEST, "--temperature", "--max-tokens", "--seed", "--json"),
    ),
    "tokenize": Command(
        "llmcli.cli.tokenize:tokenize", "Show the tokens of a text.", "One token on each line: its id and its text."
    ),
    "pull": Command(
        "llmcli.cli.models.pull:pull",
        "Download a model, or resume its download.",
        "A file from the Hub is verified by its sha256. The path of the model is printed to stdout.",
    ),
    "models": Command("llmcli.cli.models:make_group", "List, find, download, check and delete models."),
    "sessions": Command("llmcli.cli.sessions:app", "List, show, search, export and delete saved chats."),
    "trace": Command("llmcli.cli.trace:app", "Show how each token of an answer was sampled."),
    "replay": Command(
        "llmcli.cli.replay:replay",
        "Generate an earlier answer again and check that it is the same.",
        "If the answer differs, replay shows the first token that differs and the reason. The status is 1 then.",
    ),
    "config": Command("llmcli.cli.config:app", "Show and change the settings in the configuration file."),
    "doctor": Command(
        "llmcli.cli.doctor:doctor", "Check the installation and the configuration.", "The status is 1 on a problem."
    ),
}
_BLOCKS = Path(__file__).with_name("examples.txt").read_text(encoding="utf-8").strip().split("\n\n")
# Three lines of shell for each command, by its path ("" is llmcli itself).
EXAMPLES: Mapping[str, str] = {
    title.strip("[]").removeprefix(PROGRAM).strip(): lines
    for title, _, lines in (block.partition("\n") for block in _BLOCKS)
}
_NEXT = f"{PROGRAM} COMMAND --help shows the examples and options of a command."
_COMMANDS = [(name, command.summary) for name, command in COMMANDS.items()]
_OPTIONS = (
    ("--version", "Show the versions and the devices and exit."),
    ("-h, --help", "Show this help and exit."),
    ("--help-all", "Show the commands of all groups and exit."),
)


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
