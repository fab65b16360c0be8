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
Row = tuple[str, str]


class Command(NamedTuple):
    """Where a command is, and the texts of its help."""

    place: str  # module:function; empty for a group of commands
    summary: str
    details: str  # what `--help-all` adds to the summary
    common: Sequence[str]  # the options that `--help` shows, in this order; without any it shows all of them
    examples: Sequence[str]  # three lines of shell
    default: str = ""  # of a group: the command that is meant where none is named


def _read_commands() -> Iterator[tuple[str, Command]]:
    """Each command with its path ("" is llmcli itself)."""
    for block in Path(__file__).with_name("commands.txt").read_text(encoding="utf-8").strip().split("\n\n"):
        title, *lines = block.split("\n")
        path, _, place = title.removeprefix(f"[{PROGRAM}").partition("]")
        shell = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        options = [line.removeprefix("options: ") for line in lines if line.startswith("options: ")]
        default = "".join(line.removeprefix("default: ") for line in lines if line.startswith("default: "))
        summary, *details = [line for line in lines if not line.startswith(("$ ", "options: ", "default: "))]
        common = " ".join(options).split()
        yield path.strip(), Command(place.strip(), summary, " ".join(details), common, shell, default)


COMMANDS: Mapping[str, Command] = dict(_read_commands())
_MEANINGS = {"version": ["--version"], "sessions": ["sessions", "list"]}  # of a word alone
_MANUAL = "Manual: README.md and the folder docs/ of the project."
_NEXT = f"{PROGRAM} COMMAND --help shows the examples and options of a command."
_HELP, _HELP_ALL = "Show this help and exit.", "Show the commands of all groups and exit."
VERSION_HELP = "Show versions and devices, then exit."
_OPTIONS = (("--version", VERSION_HELP), ("-h, --help", _HELP), ("--help-all", _HELP_ALL))


def front_page() -> str:
    """What `llmcli` alone shows."""
    root, manual = COMMANDS[""], f"{wrapped(_NEXT)}\n{wrapped(_MANUAL)}"
    return _page(wrapped(root.summary), examples("Start here", root), section("Commands", commands_below("")), manual)


def root_help() -> str:
    """What `llmcli --help` shows."""
    root = COMMANDS[""]
    return _page(
        f"Usage: {PROGRAM} COMMAND [OPTIONS]",
        wrapped(root.summary, "  "),
        examples("Examples", root),
        section("Commands", commands_below("")),
        section("Options", _OPTIONS),
        wrapped(_NEXT),
    )


def _page(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def commands_below(group: str, everything: bool = False) -> list[Row]:
    """The commands of a group ("" is llmcli itself) with their sentences; with `everything` also those below them."""
    prefix = f"{group} ".lstrip()
    below = {path.removeprefix(prefix): one.summary for path, one in COMMANDS.items() if path.startswith(prefix)}
    return [(name, text) for name, text in below.items() if name and (everything or " " not in name)]


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with `help [COMMAND]`, `version` and `sessions` as what they mean."""
    if arguments[:1] == ["help"]:
        words = [word for word in arguments[1:] if not word.startswith("-")]
        return [*words, "--help"]
    return [*_MEANINGS.get(" ".join(arguments), arguments)]


def examples(heading: str, command: Command) -> str:
    """The examples of a command under a heading. In a narrow terminal, each comment is above its line."""
    lines = command.examples
    if max(map(len, lines)) + 2 > width():
        pairs = [line.partition("  #")[::2] for line in lines]
        lines = [line for code, comment in pairs for line in (f"#{comment}" if comment else "", code.rstrip()) if line]
    return "\n".join([f"{heading}:", *(f"  {line}" for line in lines)])


def section(heading: str, rows: Sequence[Row]) -> str:
    """Rows in two columns under a heading; nothing without rows."""
    if not rows:
        return ""
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
    return "\n".join(lines)


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
    command, path = ctx.command, ctx.command_path.removeprefix(PROGRAM).strip()  # as in `models pull`
    if not path and not everything:
        return root_help()
    entry = COMMANDS[path]
    is_group = not entry.place
    parameters = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [(one.metavar, one.help or "") for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    usage = " ".join(piece.strip("{}") for piece in command.collect_usage_pieces(ctx))
    rows: dict[str, list[Row]] = {}
    for option in options if everything else _common(entry, options):
        heading = getattr(option, "rich_help_panel", None) if everything else None
        rows.setdefault(heading or "Options", []).append(_option_row(option, ctx, everything))
    last = f"{ctx.command_path} --help-all shows all {len(options)} options."
    if is_group:
        last = f"{ctx.command_path} COMMAND --help shows the examples and options of a command."
    return _page(
        wrapped(f"Usage: {ctx.command_path} {usage}"),
        wrapped(entry.summary, "  "),
        wrapped(entry.details, "  ") if everything else "",
        examples("Examples", entry),
        section("Commands", commands_below(path, everything)),
        section("Arguments", arguments),
        *(section(heading, group) for heading, group in rows.items()),
        _exit_statuses(everything) if path == "generate" else "",
        wrapped(last) if is_group or not everything else "",
    )


def _exit_statuses(everything: bool) -> str:
    from llmcli.errors import ExitStatus

    meanings = [(str(status.value), status.meaning) for status in ExitStatus]
    if everything:
        return section("Exit status", meanings)
    text = wrapped("; ".join("\N{NO-BREAK SPACE}".join(pair) for pair in meanings), "  ")
    return "Exit status:\n" + text.replace("\N{NO-BREAK SPACE}", " ")


def _common(command: Command, options: Sequence[Any]) -> list[Any]:
    """The common options of a command in its order, or all but those of every command; a group has none."""
    if not command.place:
        return []
    if not command.common:
        return [one for one in options if not {"--help", "--help-all", "--quiet", "--verbose", "--debug"} & {*one.opts}]
    by_flag = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
    return [by_flag[name] for name in command.common]


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
    sentence, stop, _ = text.partition(". ")
    return label, sentence + stop.strip() + bracket + end  # the facts in brackets stay
