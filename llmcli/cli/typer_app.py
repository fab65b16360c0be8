"""The Typer app, made from the table of commands."""

from importlib import import_module
from typing import Annotated, Any

import typer

from llmcli import __version__
from llmcli.cli.help_texts import ABOUT, COMMANDS, PROGRAM, VERSION_HELP, help_page
from llmcli.ui.terminal.output import print_line


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


class HelpGroup(_HelpMixin, typer.core.TyperGroup):
    """A group of commands whose `--help` shows each command's whole sentence."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmcli.cli.doctor import version_lines

        print_line("\n".join([f"{PROGRAM} {__version__}", *version_lines()]))
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help=VERSION_HELP)
    ] = False,
) -> None:
    """Run language models on this machine."""


def _show_all(ctx: Any, _option: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print_line(help_page(ctx, everything=True))
        raise typer.Exit
