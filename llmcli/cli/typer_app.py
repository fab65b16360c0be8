"""The Typer app, made from the table of commands."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from llmcli import __version__
from llmcli.cli.help_texts import ABOUT, COMMANDS, EXAMPLES, PROGRAM, Row, examples, root_help, section, wrapped
from llmcli.params import param
from llmcli.ui.terminal.output import print_line


def make_app(wanted: str = "") -> typer.Typer:
    """The Typer app with the command `wanted`, or with all of them; one alone starts faster."""
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
    facts = [param.range_text(low, high, None)] if (low, high) != (None, None) and not option.count else []
    if option.show_default and option.default not in (None, False, "", ()) and not option.required:
        facts.append(f"default {param.format_value(option.default)}")
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
