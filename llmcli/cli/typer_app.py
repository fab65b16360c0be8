"""The Typer app, made from the table of commands; what is wrong with a command line, and which one was meant."""

import shlex
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from llmcli import __version__
from llmcli.cli.help_texts import ABOUT, COMMANDS, EXAMPLES, PROGRAM, Row, examples, root_help, section, wrapped
from llmcli.errors import UsageError
from llmcli.params.param import format_value, range_text
from llmcli.text import did_you_mean, ellipsize, foreign_hint, nearest
from llmcli.ui.terminal.output import print_line

# Commands of ollama, llm and others, and what to run instead. {model} is the next word, {text} all the next words.
_FOREIGN_COMMANDS = {
    name: hint
    for names, hint in {
        "run": 'use `llmcli chat -m {model}` to chat, or `llmcli generate -m {model} "…"` for one answer',
        "ls list": "use `llmcli models list`",
        "show info": "use `llmcli models show {model}`",
        "rm remove": "use `llmcli models rm {model}`",
        "search": "use `llmcli models search {model}`",
        "download install": "use `llmcli pull {model}`",
        "aliases": "use `llmcli models alias`",
        "logs history": "use `llmcli sessions list`",
        "ask prompt complete": "use `llmcli generate {text}`",
        "ps": "use `llmcli models list` for the models on this machine; none stays loaded after its command",
        "stop": "end the command that uses the model; none stays loaded after it",
        "serve": "use `llmcli generate` in scripts; llmcli has no server",
    }.items()
    for name in names.split()
}
# The same in a group, as in `llmcli models ls`.
_SUBCOMMANDS = {"ls": "list", "remove": "rm", "delete": "rm", "download": "pull", "info": "show", "mv": "rename"}
_TEXT_COMMANDS = ("chat", "generate", "compare")  # a prompt without quotes arrives as several arguments


def make_app(wanted: str = "", subcommand: str = "") -> typer.Typer:
    """The Typer app with the command `wanted` (and its `subcommand`), or with all of them; one alone starts faster."""
    app = typer.Typer(
        name=PROGRAM,
        cls=HelpGroup,
        help=ABOUT,
        suggest_commands=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, command in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        module, _, attribute = command.place.partition(":")
        target = getattr(import_module(module), attribute)
        target = target(subcommand) if attribute == "make_group" else target
        if isinstance(target, typer.Typer):
            for info in target.registered_commands:
                info.cls = HelpCommand
            app.add_typer(target, name=name, help=command.summary, cls=HelpGroup)
        else:
            text = f"{command.summary}\n\n{command.details}".strip()
            app.command(name, cls=HelpCommand, help=text)(target)
    return app


class _HelpMixin:
    """Mixed into Typer's classes: a short `--help` with examples, `--help-all`, and errors that name their command."""

    def __init__(self, *args: Any, **details: Any) -> None:
        super().__init__(*args, **details)
        self.params: list[Any]
        self.params.append(
            typer.core.TyperOption(
                param_decls=["--help-all"],
                type=bool,
                is_flag=True,
                is_eager=True,
                expose_value=False,
                default=False,
                callback=_show_all,
                help="Show all options and exit.",
            )
        )

    def get_help(self, ctx: Any) -> str:
        """The text of `--help`."""
        return help_page(ctx, everything=False)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an error gets the context that Typer leaves out when a value is missing."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise


class HelpCommand(_HelpMixin, typer.core.TyperCommand):
    """A command whose `--help` shows the most common options, and whose `--help-all` shows all."""


class HelpGroup(_HelpMixin, typer.core.TyperGroup):
    """A group of commands whose `--help` shows each command's whole sentence."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmcli.cli.doctor import version_lines

        print_line("\n".join([f"{PROGRAM} {__version__}", *version_lines()]))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the versions and the devices and exit."
        ),
    ] = False,
) -> None:
    """Run language models on this machine."""


def _show_all(ctx: Any, _option: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print_line(help_page(ctx, everything=True))
        raise typer.Exit


def help_page(ctx: Any, everything: bool) -> str:
    """The text of `--help`, or with `everything` of `--help-all`, of the command or group of this context.

    Usage, sentence, examples, commands, arguments, options: the common ones, those of a group not at all, or all.
    """
    command, is_group = ctx.command, isinstance(ctx.command, HelpGroup)
    path = ctx.command_path.removeprefix(PROGRAM).strip()  # as in `models pull`
    if not path and not everything:
        return root_help()
    entry = COMMANDS.get(path)
    parameters = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [(one.make_metavar(ctx), one.help or "") for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    usage = " ".join(piece.strip("{}") for piece in command.collect_usage_pieces(ctx))
    texts = (command.help or "").strip().split("\n\n") if everything else [_first_sentence(command.help)]
    parts = [wrapped(f"Usage: {ctx.command_path} {usage}")]
    parts += [wrapped(" ".join(text.split()), "  ") for text in texts]
    parts += examples("Examples", EXAMPLES.get(path, ""))
    if is_group:
        parts += section("Commands", list(_commands(command, "", everything)))
    parts += section("Arguments", arguments)
    common = [] if is_group else _common(entry.common if entry else (), options)
    rows: dict[str, list[Row]] = {}
    for option in options if everything else common:
        heading = getattr(option, "rich_help_panel", None) if everything else None
        rows.setdefault(heading or "Options", []).append(_option_row(option, ctx, everything))
    for heading, group in rows.items():
        parts += section(heading, group)
    if entry and entry.shows_statuses:
        parts += _statuses(everything)
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
        if everything and isinstance(command, HelpGroup):
            yield from _commands(command, f"{prefix}{name} ", everything)


def _common(names: Sequence[str], options: Sequence[Any]) -> list[Any]:
    """The options with these names, in this order; without names, all but those of every command."""
    if not names:
        return [one for one in options if not {"--help", "--help-all", "--quiet", "--verbose", "--debug"} & {*one.opts}]
    by_flag = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
    return [by_flag[name] for name in names]


def _option_row(option: Any, ctx: Any, everything: bool) -> Row:
    """The names of an option (all, or the short and the first long one) and its help."""
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
    if "--help" in option.opts:
        is_group = isinstance(ctx.command, HelpGroup)
        return label, "Show this help and exit." if is_group else "Show the most common options and exit."
    if "--help-all" in option.opts and isinstance(ctx.command, HelpGroup):
        return label, "Show the commands of all groups and exit."
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


def _statuses(everything: bool) -> list[str]:
    from llmcli.errors import ExitStatus

    rows = [(str(status.value), status.meaning) for status in ExitStatus]
    if everything:
        return section("Exit status", rows)
    text = wrapped("; ".join(f"{number}\N{NO-BREAK SPACE}{meaning}" for number, meaning in rows), "  ")
    return ["Exit status:\n" + text.replace("\N{NO-BREAK SPACE}", " ")]


def check_command(arguments: Sequence[str]) -> None:
    """Let only a known command or an option through.

    Raises:
        UsageError: with the command that is meant.
    """
    name, *rest = arguments
    if name in ("--install-completion", "--show-completion") and rest:
        hint = f"remove it: {name} is for the current shell"
        raise UsageError(f"unexpected extra argument '{ellipsize(rest[0])}'", hint)
    for word in rest if name in _TEXT_COMMANDS else ():
        if word in ("-cnv", "-no-cnv"):  # which the parser would read as -c nv and -n o-cnv
            raise UsageError(f"no such option '{word}'", foreign_hint(word))
    if name not in COMMANDS and not name.startswith("-"):
        raise UsageError(f"no such command {ellipsize(name, 60)!r}", _suggest_command(name, rest))


def _suggest_command(name: str, rest: Sequence[str]) -> str:
    words = [word for word in rest if not word.startswith("-")]
    if name in _FOREIGN_COMMANDS:
        model, text = (ellipsize(words[0], 60), _quoted(" ".join(words))) if words else ("MODEL", '"…"')
        return _FOREIGN_COMMANDS[name].replace("{model}", model).replace("{text}", text)
    near = did_you_mean(name, COMMANDS, cutoff=0.8 if words else 0.7) if name.isidentifier() else ""
    text = _quoted(" ".join([name, *words]))
    return near or f"use `llmcli generate {text}` to ask, or `llmcli chat {text}` to talk"


def _quoted(text: str) -> str:
    """A text in quotes for a shell; a long text is cut."""
    text = ellipsize(text, 60)
    return f'"{text}"' if set(text).isdisjoint('"$`\\!') else shlex.quote(text)


def explain_usage_error(error: Any) -> tuple[str, str]:
    """The message and the hint for an error of Typer's parser, whose classes Typer does not export."""
    ctx: Any = getattr(error, "ctx", None)
    see = f"see `{ctx.command_path if ctx else 'llmcli'} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"no such option '{error.option_name}'", _option_hint(error.option_name, ctx, see)
    if kind == "BadOptionUsage":
        text = _plain(error.message)
        if error.option_name == "-c":  # which has another meaning in other programs
            return text, f"`-c N` is the context size; `llmcli chat -C` continues the last session; {see}"
        return text, see
    if kind == "BadParameter" and error.param is not None:
        return _invalid_value(error.param, error.message), see
    text = _plain(error.format_message())
    if ctx and "=" in (ctx.params.get("key") or ""):
        return text, f"put a space between name and value, no `=`; {see}"
    if text.startswith("got unexpected extra argument"):
        extra = text.partition(" (")[2].removesuffix(")")
        quote = "put a text of several words in quotes; " if ctx and ctx.info_name in _TEXT_COMMANDS else ""
        return f"unexpected extra argument '{extra}'", quote + see
    if ctx and text.startswith("no such command"):  # of a group
        name, known = error.message.partition("'")[2].rpartition("'")[0], ctx.command.commands
        meant = _SUBCOMMANDS.get(name, "")
        near = f"did you mean '{meant}'?" if meant in known else did_you_mean(name, known)
        return f"no such command '{ctx.command_path.partition(' ')[2]} {name}'", f"{near} {see}".strip()
    return text, see


def _option_hint(name: str, ctx: Any, see: str) -> str:
    from llmcli.params.settings import fields  # only after a mistake

    if ctx is None:
        return see
    options = (one for one in ctx.command.get_params(ctx) if one.param_type_name == "option" and not one.hidden)
    flags = [flag for option in options for flag in (*option.opts, *option.secondary_opts) if flag.startswith("--")]
    word = name.partition("=")[0]
    if ctx.parent is None:  # `llmcli -m x chat`: an option of a command must not become --version
        near = did_you_mean(word, flags, cutoff=0.85)
        return f"{near} {see}" if near else f"put options after the command, as in `llmcli chat {name} …`"
    # The names of other programs are aliases of settings.
    known = {"--" + name.replace("_", "-"): field.flags[0] for field in fields().values() for name in field.param.keys}
    known = {alias: flag for alias, flag in known.items() if flag in flags} | dict(zip(flags, flags, strict=True))
    names = nearest(word, known, 1)
    if foreign := foreign_hint(word):
        return f"{foreign}; {see}"
    return f"did you mean '{known[names[0]]}'? {see}" if names else see


def _invalid_value(parameter: Any, message: str) -> str:
    """The message for a value that does not fit a number range, a list of choices or a type."""
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.human_readable_name
    choices = getattr(parameter.type, "choices", ())
    if choices:
        rule = "one of " + ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    elif "integer" in message or "range" in message:
        low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
        rule = "an integer"
        if low is not None:
            rule += f" {'of ' if high is None else ''}{range_text(low, high, None)}"
    else:
        return f"{name}: {_plain(message)}"
    value = message.partition(" is not ")[0].strip("'")
    return f"{name} must be {rule}, got '{value}'"


def _plain(text: str) -> str:
    """One line, lower case at the beginning and no full stop at the end."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
