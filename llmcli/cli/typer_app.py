"""The Typer app, made from the table of commands."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, get_args

import typer

from llmcli.cli.command_line import HELP_FLAGS, Option, with_left_out_values
from llmcli.cli.help_texts import COMMANDS, PROGRAM, VERSION_HELP, help_page
from llmcli.ui.terminal.output import print_line


def make_app(wanted: str = "", subcommand: str = "") -> typer.Typer:
    """The Typer app with the command `wanted` (and its `subcommand`), or with all of them; one alone starts faster."""
    app = typer.Typer(
        name=PROGRAM,
        cls=HelpGroup,
        suggest_commands=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    selected = next((path for path in (f"{wanted} {subcommand}", wanted) if path in COMMANDS), "").split()
    # The help of a group needs the table of commands, and none of their modules.
    is_group_help = wanted in HELP_FLAGS
    is_group_help |= subcommand in HELP_FLAGS and bool(selected) and not COMMANDS[wanted].place
    groups = {"": app}
    for path, command in COMMANDS.items():
        if not path or any(a != b for a, b in zip(path.split(), selected, strict=False)):
            continue  # neither above nor below the selected one
        group, _, name = path.rpartition(" ")
        if not command.place:
            groups[path] = typer.Typer(no_args_is_help=not command.default)
            groups[group].add_typer(groups[path], name=name, help=command.summary, cls=HelpGroup)
            continue
        module, _, function = command.place.partition(":")
        add = groups[group].command(
            name,
            cls=HelpCommand,
            help=command.summary,
            context_settings={"ignore_unknown_options": path == "config set"},  # a value may be negative
        )
        add(_not_imported if is_group_help else _for_typer(getattr(import_module(module), function)))
    return app


def _for_typer(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with Typer's own declarations of its parameters."""

    def command(**values: Any) -> Any:
        return function(**values)

    parameters = []
    for one in inspect.signature(function, eval_str=True).parameters.values():
        kind, declaration = get_args(one.annotation)
        make = typer.Option if isinstance(declaration, Option) else typer.Argument
        made = make(*declaration.names, **declaration.details)
        parameters.append(one.replace(annotation=Annotated[kind, made], kind=inspect.Parameter.KEYWORD_ONLY))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _not_imported() -> None:
    """The place of a command whose name is enough."""


class _HelpMixin:
    """Mixed into Typer's classes: a short `--help` with examples, `--help-all`, and errors that name their command."""

    def __init__(self, *args: Any, **details: Any) -> None:
        super().__init__(*args, **details)
        self.params: list[Any]
        for one in self.params:
            if one.param_type_name == "argument" and not one.metavar:  # as in [MODEL] or FOLDER...
                name = one.name.upper()
                one.metavar = (name if one.required else f"[{name}]") + ("..." if one.nargs < 0 else "")
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
        return help_page(ctx, everything=False)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:  # Typer leaves the context out when a value is missing
                error.ctx = ctx  # type: ignore[attr-defined]
            raise


class HelpCommand(_HelpMixin, typer.core.TyperCommand):
    """A command whose `--help` shows the most common options, and whose `--help-all` shows all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = with_left_out_values(args, {name for one in self.params for name in one.opts})
        return super().parse_args(ctx, args)


class HelpGroup(_HelpMixin, typer.core.TyperGroup):
    """A group of commands whose `--help` shows each command's whole sentence; one of them can be the default."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = COMMANDS[ctx.command_path.removeprefix(PROGRAM).strip()].default
        is_named = args[:1] and args[0] in (*self.commands, *HELP_FLAGS)
        if default and not is_named and (args or not ctx.resilient_parsing):  # which offers the names of all
            args = [default, *args]
        return super().parse_args(ctx, args)


def _root(version: Annotated[bool, typer.Option("--version", help=VERSION_HELP)] = False) -> None:
    """The options of llmcli itself; `app` shows the version."""


def _show_all(ctx: Any, _option: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print_line(help_page(ctx, everything=True))
        raise typer.Exit
