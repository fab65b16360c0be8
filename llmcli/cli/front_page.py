"""The front page, and help with a wrong command line: what is shown without loading Typer.

`llmcli` and `llmcli --help` are shown at once. A word of another program, a wrong command and a wrong option get a
hint to what is meant.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from llmcli.cli import help_texts

Row = tuple[str, str]
_WIDEST = 80
_LONGEST_NAME = 26  # the help of a longer name starts on the next line
_HELP = ("-h", "--help")
_NEXT = f"{help_texts.PROGRAM} COMMAND --help shows the examples and options of a command."
_OPTIONS = (
    ("--version", "Show the versions and the devices and exit."),
    ("-h, --help", "Show this help and exit."),
    ("--help-all", "Show the commands of all groups and exit."),
)
# Commands of ollama, llm and others, and what to run instead. {model} is the next word, {text} all the next words.
_FOREIGN_COMMANDS = {
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
# Options with another meaning in other programs; shown if the value is missing.
_MEANINGS = {"-c": "`-c N` is the context size; `llmcli chat -C` continues the last session"}
_TEXT_COMMANDS = ("chat", "generate", "compare")  # a prompt without quotes arrives as several arguments


def page_of(arguments: Sequence[str]) -> str:
    """The page that this command line asks for, or an empty text."""
    if not arguments:
        return front_page()
    return root_help() if arguments[0] in _HELP else ""


def front_page() -> str:
    """What `llmcli` alone shows."""
    parts = [wrapped(help_texts.ABOUT), *examples("Start here", help_texts.START), *section("Commands", _commands())]
    return "\n\n".join([*parts, f"{wrapped(_NEXT)}\n{wrapped(help_texts.DOCUMENTATION)}"])


def root_help() -> str:
    """What `llmcli --help` shows."""
    parts = [f"Usage: {help_texts.PROGRAM} COMMAND [OPTIONS]", wrapped(help_texts.ABOUT, "  ")]
    parts += [*examples("Examples", help_texts.START), *section("Commands", _commands()), *section("Options", _OPTIONS)]
    return "\n\n".join([*parts, wrapped(_NEXT)])


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
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
    if name in help_texts.COMMANDS or name.startswith("-"):
        return
    from llmcli.errors import UsageError

    raise UsageError(f"no such command {_shortened(name)!r}", _suggest_command(name, arguments[1:]))


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


def explain_usage_error(error: Any) -> tuple[str, str]:
    """The message and the hint for an error of Typer's parser."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "llmcli"
    see = f"see `{path} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"no such option '{error.option_name}'", _option_hint(error.option_name, ctx, see)
    if kind == "BadOptionUsage":
        meaning = _MEANINGS.get(error.option_name, "")
        return _plain(error.message), f"{meaning}; {see}" if meaning else see
    if kind == "BadParameter" and error.param is not None:
        return _invalid_value(error.param, error.message), see
    text = _plain(error.format_message())
    if text.startswith("got unexpected extra argument"):
        extra = text.partition(" (")[2].removesuffix(")")
        quote = "put a text of several words in quotes; " if ctx and ctx.info_name in _TEXT_COMMANDS else ""
        return f"unexpected extra argument '{extra}'", quote + see
    if text.startswith("no such command"):
        return _unknown_command(error, ctx, see)
    return text, see


def _option_hint(name: str, ctx: Any, see: str) -> str:
    from llmcli.text import did_you_mean

    if ctx is None:
        return see
    word, known = name.partition("=")[0], [option for option in _options(ctx) if option.startswith("--")]
    if ctx.parent is None:  # `llmcli -m x chat`: an option of a command must not become --version
        near = did_you_mean(word, known, cutoff=0.85)
        return f"{near} {see}" if near else f"put options after the command, as in `llmcli chat {name} …`"
    return f"{did_you_mean(word, known)} {see}".lstrip()


def _invalid_value(parameter: Any, message: str) -> str:
    """The message for a value that does not fit a number range, a list of choices or a type."""
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.human_readable_name
    value, low, high = message.partition(" is not ")[0].strip("'"), *_range(parameter)
    choices = getattr(parameter.type, "choices", ())
    if choices:
        rule = "one of " + ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    elif "integer" in message or "range" in message:
        rule = f"an integer {_range_text(low, high)}".rstrip()
    else:
        return f"{name}: {_plain(message)}"
    return f"{name} must be {rule}, got '{value}'"


def _range(parameter: Any) -> tuple[Any, Any]:
    return getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)


def _range_text(low: Any, high: Any) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"of at least {low}" if low is not None else ""


def _unknown_command(error: Any, ctx: Any, see: str) -> tuple[str, str]:
    """Of a group, as in `llmcli models ls`."""
    from llmcli.text import did_you_mean

    name = error.message.partition("'")[2].rpartition("'")[0]
    habits = {"ls": "list", "remove": "rm", "delete": "rm", "download": "pull", "info": "show", "mv": "rename"}
    known = list(ctx.command.commands)
    meant = habits.get(name, "")
    near = f"did you mean '{meant}'?" if meant in known else did_you_mean(name, known)
    return f"no such command '{ctx.command_path.partition(' ')[2]} {name}'", f"{near} {see}".strip()


def _options(ctx: Any) -> Iterable[str]:
    for parameter in ctx.command.get_params(ctx):
        if parameter.param_type_name == "option" and not parameter.hidden:
            yield from (*parameter.opts, *parameter.secondary_opts)


def _plain(text: str) -> str:
    """One line, lower case at the beginning and no full stop at the end."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _suggest_command(name: str, rest: Sequence[str]) -> str:
    from llmcli.text import did_you_mean

    words = [word for word in rest if not word.startswith("-")]
    if name in _FOREIGN_COMMANDS:
        model, text = (_shortened(words[0]), _quoted(" ".join(words))) if words else ("MODEL", '"…"')
        return _FOREIGN_COMMANDS[name].replace("{model}", model).replace("{text}", text)
    if not words and name.isidentifier():
        near = did_you_mean(name, help_texts.COMMANDS)
        if near:
            return near
    text = _quoted(" ".join([name, *words]))
    return f"use `llmcli generate {text}` to ask, or `llmcli chat {text}` to talk"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _quoted(text: str) -> str:
    """A text in quotes for a shell; a long text is cut."""
    text = _shortened(text)
    if set(text).isdisjoint('"$`\\!'):
        return f'"{text}"'
    import shlex

    return shlex.quote(text)


def _commands() -> list[Row]:
    return [(name, command.summary) for name, command in help_texts.COMMANDS.items()]
