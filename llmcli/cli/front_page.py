"""What `llmcli` and `llmcli --help` show, and the command that is meant by a word of another program; without Typer."""

import shutil
import textwrap
from collections.abc import Sequence

from llmcli.cli import pages

Row = tuple[str, str]
_WIDEST = 80
_LONGEST_NAME = 26  # the help of a longer name starts on the next line
_HELP = ("-h", "--help")
_NEXT = f"{pages.PROGRAM} COMMAND --help shows the examples and options of a command."
_OPTIONS = (
    ("--version", "Show the versions and the devices and exit."),
    ("-h, --help", "Show this help and exit."),
    ("--help-all", "Show the commands of all groups and exit."),
)
# Commands of ollama, llm and others, and what to run instead. {model} is the next word, {text} all the next words.
_HABITS = {
    "run": 'use `llmcli chat -m {model}` to chat, or `llmcli generate -m {model} "…"` for one answer',
    "ls": "use `llmcli models list`",
    "list": "use `llmcli models list`",
    "show": "use `llmcli models show {model}`",
    "info": "use `llmcli models show {model}`",
    "rm": "use `llmcli models rm {model}`",
    "remove": "use `llmcli models rm {model}`",
    "search": "use `llmcli models search {model}`",
    "download": "use `llmcli pull {model}`",
    "install": "use `llmcli pull {model}`",
    "aliases": "use `llmcli models alias`",
    "logs": "use `llmcli sessions list`",
    "history": "use `llmcli sessions list`",
    "ask": "use `llmcli generate {text}`",
    "prompt": "use `llmcli generate {text}`",
    "complete": "use `llmcli generate {text}`",
    "ps": "use `llmcli models list` for the models on this machine; none stays loaded after its command",
    "stop": "end the command that uses the model; none stays loaded after it",
    "serve": "use `llmcli generate` in scripts; llmcli has no server",
}


def page_of(arguments: Sequence[str]) -> str:
    """The page that this command line asks for, or an empty text."""
    if not arguments:
        return front_page()
    return root_help() if arguments[0] in _HELP else ""


def front_page() -> str:
    """What `llmcli` alone shows."""
    parts = [wrapped(pages.ABOUT), *examples("Start here", pages.START), *section("Commands", _commands())]
    return "\n\n".join([*parts, f"{wrapped(_NEXT)}\n{wrapped(pages.DOCUMENTATION)}"])


def root_help() -> str:
    """What `llmcli --help` shows."""
    parts = [f"Usage: {pages.PROGRAM} COMMAND [OPTIONS]", wrapped(pages.ABOUT, "  ")]
    parts += [*examples("Examples", pages.START), *section("Commands", _commands()), *section("Options", _OPTIONS)]
    return "\n\n".join([*parts, wrapped(_NEXT)])


def without_habits(arguments: Sequence[str]) -> list[str]:
    """The command line with `help [COMMAND]` and `version` as the options that they mean."""
    if arguments[:1] == ["help"]:
        words = [word for word in arguments[1:] if not word.startswith("-")]
        return [*words, "--help"]
    return ["--version"] if list(arguments) == ["version"] else list(arguments)


def check_command(arguments: Sequence[str]) -> None:
    """Let only a known command through.

    Raises:
        UsageError: with the command that is meant.
    """
    name = arguments[0]
    if name in pages.COMMANDS or name.startswith("-"):
        return
    from llmcli.errors import UsageError

    raise UsageError(f"no such command {_shortened(name)!r}", _meant(name, arguments[1:]))


def _meant(name: str, rest: Sequence[str]) -> str:
    from llmcli.text import did_you_mean

    words = [word for word in rest if not word.startswith("-")]
    if name in _HABITS:
        model, text = (_shortened(words[0]), _quoted(" ".join(words))) if words else ("MODEL", '"…"')
        return _HABITS[name].replace("{model}", model).replace("{text}", text)
    if not words and name.isidentifier():
        near = did_you_mean(name, pages.COMMANDS)
        if near:
            return near
    text = _quoted(" ".join([name, *words]))
    return f"use `llmcli generate {text}` to ask, or `llmcli chat {text}` to talk"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _quoted(text: str) -> str:
    """A text as a shell takes it, cut where it is long."""
    text = _shortened(text)
    if set(text).isdisjoint('"$`\\!'):
        return f'"{text}"'
    import shlex

    return shlex.quote(text)


def _commands() -> list[Row]:
    return [(name, command.summary) for name, command in pages.COMMANDS.items()]


def examples(heading: str, lines: str) -> list[str]:
    """Command lines under a heading; nothing without any. In a narrow terminal, each comment is above its command."""
    block = textwrap.dedent(lines).strip().split("\n")
    if not block[0]:
        return []
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
