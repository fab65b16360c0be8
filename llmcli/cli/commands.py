"""The Typer app, made from the table of commands."""

from importlib import import_module
from typing import Annotated

import typer

from llmcli import __version__
from llmcli.cli.help import GroupedCommand, HelpGroup
from llmcli.cli.pages import ABOUT, COMMANDS, PROGRAM
from llmcli.ui.terminal.output import put_line


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
            _show_examples(target)
            app.add_typer(target, name=name, help=command.summary, cls=HelpGroup)
        else:
            text = f"{command.summary}\n\n{command.details}".strip()
            app.command(name, cls=GroupedCommand, help=text)(target)
    return app


def _show_examples(group: typer.Typer) -> None:
    """Let the commands of a group have the help that those of the program have."""
    for info in group.registered_commands:
        info.cls = GroupedCommand


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmcli.cli.doctor import version_lines

        put_line("\n".join([f"{PROGRAM} {__version__}", *version_lines()]))
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
