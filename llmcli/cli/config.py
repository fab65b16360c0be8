"""`llmcli config`: the settings in force, where each comes from, and the file they are kept in."""

import json
import os
from typing import Annotated

import typer

from llmcli.chat import config as store
from llmcli.chat.paths import config_file
from llmcli.errors import ExitStatus, UsageError
from llmcli.params.layers import Resolved, environment_layer, resolve
from llmcli.params.settings import fields, find, to_data
from llmcli.ui.console import console
from llmcli.ui.editor import open_in_editor
from llmcli.ui.output import put_line, put_table

app = typer.Typer(help="Show and change the settings that are kept.", no_args_is_help=True, rich_markup_mode=None)


def _keys(incomplete: str) -> list[tuple[str, str]]:
    return [(key, field.param.help) for key, field in fields().items() if key.startswith(incomplete)]


Key = Annotated[str, typer.Argument(metavar="KEY", help="A setting, such as top_p.", autocompletion=_keys)]


def _in_force() -> Resolved:
    return resolve([store.config_layer(), environment_layer(os.environ)])


@app.command("list")
def list_settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Leave the built-in defaults out.")] = False,
) -> int:
    """List every setting with its value and the layer it comes from."""
    resolved = _in_force()
    keys = [key for key in fields() if not changed or resolved.origins[key] != "default"]
    if as_json:
        data = to_data(resolved.settings)
        put_line(
            json.dumps({key: {"value": data[key], "from": resolved.origins[key]} for key in keys}, ensure_ascii=False)
        )
        return ExitStatus.OK
    put_table([(key, f"{_shown(resolved, key):<24} {resolved.origins[key]}") for key in keys])
    return ExitStatus.OK


def _shown(resolved: Resolved, key: str) -> str:
    return fields()[key].format(getattr(resolved.settings, key)) or "none"


@app.command("get")
def get_setting(key: Key) -> int:
    """Print the value of one setting."""
    put_line(fields()[find(key).key].format(getattr(_in_force().settings, find(key).key)))
    return ExitStatus.OK


@app.command("set")
def set_setting(
    key: Key, value: Annotated[list[str], typer.Argument(metavar="VALUE...", help="Its value; a list takes several.")]
) -> int:
    """Keep a value for one setting in the configuration file."""
    field = find(key)
    if field.repeated:
        parsed = field.parse_texts(value) if len(value) > 1 else field.parse_text(value[0])
    elif len(value) > 1:
        raise UsageError(f"{field.key} takes one value", "quote a value that has spaces")
    else:
        parsed = field.parse_text(value[0])
    store.set_value(field.key, parsed)
    return ExitStatus.OK


@app.command("unset")
def unset_setting(key: Key) -> int:
    """Take one setting out of the configuration file."""
    if not store.unset_value(key):
        console.note(f"{find(key).key} is not in {config_file()}")
    return ExitStatus.OK


@app.command("path")
def show_path() -> int:
    """Print where the configuration file is."""
    put_line(str(config_file()))
    return ExitStatus.OK


@app.command("edit")
def edit_file() -> int:
    """Edit the configuration file with $VISUAL or $EDITOR."""
    path = store.ensure_file()
    open_in_editor(path)
    store.config_layer()
    return ExitStatus.OK
