"""The command line as a table of contents: which command lives where."""

from importlib import import_module
from typing import Annotated

import typer

from llmcli import __version__
from llmcli.cli.help import GroupedCommand
from llmcli.ui.output import put_line

PROGRAM = "llmcli"
# name -> module and function or app of the command
COMMANDS = {
    "chat": "llmcli.cli.chat:chat",
    "generate": "llmcli.cli.generate:generate",
    "compare": "llmcli.cli.compare:compare",
    "tokenize": "llmcli.cli.tokenize:tokenize",
    "pull": "llmcli.cli.models_hub:pull",
    "models": "llmcli.cli.models:app",
    "sessions": "llmcli.cli.sessions:app",
    "trace": "llmcli.cli.trace:app",
    "replay": "llmcli.cli.replay:replay",
    "config": "llmcli.cli.config:app",
    "doctor": "llmcli.cli.doctor:doctor",
}


def make_app(wanted: str = "") -> typer.Typer:
    """The Typer app with the command `wanted`, or with all of them; one alone starts faster."""
    app = typer.Typer(
        name=PROGRAM,
        help="Talk to a local model from a terminal.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, place in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, cls=GroupedCommand)(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmcli.cli.doctor import version_lines

        put_line("\n".join([f"{PROGRAM} {__version__}", *version_lines()]))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and devices, and stop."),
    ] = False,
) -> None:
    """Talk to a local model from a terminal."""
