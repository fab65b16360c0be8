"""`llmcli models`: the group of all commands about models, one module per kind of command."""

from importlib import import_module

import typer

_COMMANDS = {
    "pull": "pull:pull",
    "list": "show:list_models",
    "show": "show:show_model",
    "files": "show:files",
    "search": "show:search",
    "rm": "manage:remove_model",
    "verify": "manage:verify_models",
    "partials": "manage:partials",
    "alias": "manage:alias",
    "import": "manage:import_folders",
    "recommend": "show:recommend",
}


def make_group(wanted: str) -> typer.Typer:
    """The group with the command `wanted`, or with all of them if it has no such command: one alone starts faster."""
    group = typer.Typer(help="Download, list, verify and remove models.", no_args_is_help=True, rich_markup_mode=None)
    for name, place in _COMMANDS.items():
        if name == wanted or wanted not in _COMMANDS:
            module, _, function = place.partition(":")
            group.command(name)(getattr(import_module(f"{__name__}.{module}"), function))
    return group
