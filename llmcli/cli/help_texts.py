"""Help: the commands with their sentences, examples and common options (in commands.txt), and the pages of `--help`.

It imports nothing of the program at its start, so that `llmcli` and `llmcli --help` are shown at once.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = "llmcli"
ABOUT = "Run language models on this machine: chat, generate, compare."
DOCUMENTATION = "Manual: README.md and the folder docs/ of the project."
Row = tuple[str, str]


class Command(NamedTuple):
    """Where a command is (module:function, app or make_group), and the texts of its help; commands.txt has them all."""

    place: str  # empty for the command of a group, which its app knows
    summary: str
    details: str  # what `--help-all` adds to the summary
    common: Sequence[str]  # the options that `--help` shows, in this order; without any it shows all of them
    examples: str  # three lines of shell


def _read_commands() -> Iterator[tuple[str, Command]]:
    """Each command with its path ("" is llmcli itself)."""
    for block in Path(__file__).with_name("commands.txt").read_text(encoding="utf-8").strip().split("\n\n"):
        title, *lines = block.split("\n")
        path, _, place = title.removeprefix(f"[{PROGRAM}").partition("]")
        shell = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        options = [line.removeprefix("options: ") for line in lines if line.startswith("options: ")]
        summary, *details = [line for line in lines if not line.startswith(("$ ", "options: "))] or [""]
        common = " ".join(options).split()
        yield path.strip(), Command(place.strip(), summary, " ".join(details), common, "\n".join(shell))


ALL_COMMANDS: Mapping[str, Command] = dict(_read_commands())
COMMANDS: Mapping[str, Command] = {path: command for path, command in ALL_COMMANDS.items() if command.place}
_NEXT = f"{PROGRAM} COMMAND --help shows the examples and options of a command."
_HELP, _HELP_ALL = "Show this help and exit.", "Show the commands of all groups and exit."
VERSION_HELP = "Show versions and devices, then exit."
_OPTIONS = (("--version", VERSION_HELP), ("-h, --help", _HELP), ("--help-all", _HELP_ALL))
_COMMANDS = [(name, command.summary) for name, command in COMMANDS.items()]


def front_page() -> str:
    """What `llmcli` alone shows."""
    parts = [wrapped(ABOUT), *examples("Start here", ALL_COMMANDS[""].examples), *section("Commands", _COMMANDS)]
    return "\n\n".join([*parts, f"{wrapped(_NEXT)}\n{wrapped(DOCUMENTATION)}"])


def root_help() -> str:
    """What `llmcli --help` shows."""
    parts = [
        f"Usage: {PROGRAM} COMMAND [OPTIONS]",
        wrapped(ABOUT, "  "),
        *examples("Examples", ALL_COMMANDS[""].examples),
    ]
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
        lines = "\n".join(f"#{comment}\n{command.rstrip()}" if comment else command for command, comment in pairs)
        block = lines.split("\n")
    return ["\n".join([f"{heading}:", *(f"  {line}" for line in block)])]


def section(heading: str, rows: Sequence[Row]) -> list[str]:
    """Rows in two columns under a heading; nothing without rows."""
    if not rows:
        return []
    column = 4 + max((len(name) for name, _ in rows if len(name) <= 26), default=0)  # a longer one is above its help
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
    return max(min(shutil.get_terminal_size().columns, 80), 40)


def help_page(ctx: Any, everything: bool) -> str:
    """The text of `--help`, or with `everything` of `--help-all`, of the command or group of this context.

    Usage, sentence, examples, commands, arguments, options: the common ones, those of a group not at all, or all.
    """
    command, is_group = ctx.command, hasattr(ctx.command, "commands")
    path = ctx.command_path.removeprefix(PROGRAM).strip()  # as in `models pull`
    if not path and not everything:
        return root_help()
    entry = ALL_COMMANDS[path]
    parameters = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [(one.make_metavar(ctx), one.help or "") for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    usage = " ".join(piece.strip("{}") for piece in command.collect_usage_pieces(ctx))
    texts = (command.help or "").strip().split("\n\n") if everything else [_first_sentence(command.help)]
    parts = [wrapped(f"Usage: {ctx.command_path} {usage}")]
    parts += [wrapped(" ".join(text.split()), "  ") for text in texts]
    parts += examples("Examples", entry.examples)
    if is_group:
        parts += section("Commands", list(_commands(command, "", everything)))
    parts += section("Arguments", arguments)
    common = [] if is_group else _common(entry.common, options)
    rows: dict[str, list[Row]] = {}
    for option in options if everything else common:
        heading = getattr(option, "rich_help_panel", None) if everything else None
        rows.setdefault(heading or "Options", []).append(_option_row(option, ctx, everything))
    for heading, group in rows.items():
        parts += section(heading, group)
    if path == "generate":
        from llmcli.errors import ExitStatus

        meanings = [(str(status.value), status.meaning) for status in ExitStatus]
        brief = wrapped("; ".join("\N{NO-BREAK SPACE}".join(pair) for pair in meanings), "  ")
        short = ["Exit status:\n" + brief.replace("\N{NO-BREAK SPACE}", " ")]
        parts += section("Exit status", meanings) if everything else short
    if is_group:
        parts.append(wrapped(f"{ctx.command_path} COMMAND --help shows the examples and options of a command."))
    elif not everything:
        parts.append(wrapped(f"{ctx.command_path} --help-all shows all {len(options)} options."))
    return "\n\n".join(parts)


def _first_sentence(text: str | None) -> str:
    """The first sentence of a help text, in one line."""
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()


def _commands(group: Any, prefix: str, everything: bool) -> Iterator[Row]:
    order = list(group.commands) if prefix or COMMANDS.keys() - group.commands else list(COMMANDS)
    for name in order:
        command = group.commands[name]
        yield prefix + name, _first_sentence(command.help)
        if everything and hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ", everything)


def _common(names: Sequence[str], options: Sequence[Any]) -> list[Any]:
    """The options with these names, in this order; without names, all but those of every command."""
    if not names:
        return [one for one in options if not {"--help", "--help-all", "--quiet", "--verbose", "--debug"} & {*one.opts}]
    by_flag = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
    return [by_flag[name] for name in names]


def _option_row(option: Any, ctx: Any, everything: bool) -> Row:
    """The names of an option (all, or the short and the first long one) and its help."""
    from llmcli.params.param import format_value, range_text

    names = list(option.opts)
    if not everything:
        short = [name for name in names if not name.startswith("--")]
        names = short[:1] + [name for name in names if name.startswith("--")][:1]
    names.sort(key=lambda name: name.startswith("--"))
    label = ", ".join(names)
    if option.secondary_opts:
        label += "/" + option.secondary_opts[0]
    if not option.is_flag and not option.count:
        is_number = option.metavar is None and hasattr(option.type, "min")
        label += " N" if is_number else " " + option.make_metavar(ctx).strip("<>")
    is_group = hasattr(ctx.command, "commands")
    if "--help" in option.opts:
        return label, _HELP if is_group else "Show the most common options and exit."
    if "--help-all" in option.opts and is_group:
        return label, _HELP_ALL
    # Range, default and need of an option that a command declares itself; those of settings are in the help.
    low, high = getattr(option.type, "min", None), getattr(option.type, "max", None)
    facts = [range_text(low, high, None)] if (low, high) != (None, None) and not option.count else []
    if option.show_default and option.default not in (None, False, "", ()) and not option.required:
        facts.append(f"default {format_value(option.default)}")
    if option.required:
        facts.append("required")
    text = f"{option.help or ''} [{', '.join(facts)}]" if facts else option.help or ""
    if everything:
        return label, text
    text, bracket, end = text.rpartition(" [") if text.endswith("]") else (text, "", "")
    return label, _first_sentence(text) + bracket + end  # the facts in brackets stay
