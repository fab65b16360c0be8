"""`llmcli config`: the settings, the source of each, and the configuration file."""

from typing import Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.config import config_file as store
from llmcli.config.presets import base_layers, preset_layer, resolve_settings
from llmcli.errors import UsageError
from llmcli.files import config_path
from llmcli.params.policies.rules import Policy
from llmcli.params.settings import Layer, check_policy, fields, find, format_setting, resolve, to_data
from llmcli.ui.markdown.theme import ground_of
from llmcli.ui.terminal.console import console, open_in_editor
from llmcli.ui.terminal.output import print_facts, print_json, print_line

_NO_FLAGS = Layer("flag", {})


def _keys(incomplete: str) -> list[tuple[str, str]]:
    return [(key, field.help) for key, field in fields().items() if key.startswith(incomplete)]


Key = Annotated[str, Argument(help="Name of a setting, such as top_p.", autocompletion=_keys)]


def list_settings(
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
    everything: Annotated[bool, Option("--all", help="List the defaults too.")] = False,
    changed: Annotated[bool, Option("--changed", hidden=True)] = False,  # noqa: ARG001 -- the default now
) -> None:
    resolved = resolve(base_layers(_NO_FLAGS))
    is_set = [key for key, origin in resolved.origins.items() if origin != "default"]
    keys = list(fields()) if everything else is_set
    if as_json:
        data = to_data(resolved.settings)
        rows = {key: {"value": data[key], "from": resolved.origins[key]} for key in keys}
        print_json(rows, indent=None)
        return
    print_facts([(key, f"{format_setting(resolved.settings, key):<24} {resolved.origins[key]}") for key in keys])
    if not everything:
        what = "all other settings have" if is_set else "all settings have"
        console.note(f"{what} their defaults: `llmcli config list --all`")


def get_setting(key: Key) -> None:
    field = find(key)
    print_line(field.format(getattr(resolve_settings(_NO_FLAGS), field.key)))


def set_setting(key: Key, value: Annotated[list[str], Argument(help="Value, or the values of a list.")]) -> None:
    field = find(key)
    if len(value) > 1 and not field.repeated:
        raise UsageError(f"{field.key} takes one value, got {len(value)}", "put a value with spaces in quotes")
    parsed = field.parse_texts(value) if len(value) > 1 else field.parse_text(value[0])
    if isinstance(parsed, Policy):
        check_policy(parsed, None)
    if field.key == "theme":
        ground_of(str(parsed))  # raises an error for an unknown one
    if field.key == "preset" and parsed:
        preset_layer(str(parsed))  # raises an error for an unknown one
    store.set_value(field.key, parsed)


def unset_setting(
    keys: Annotated[list[str], Argument(metavar="KEY...", help="Names of settings.", autocompletion=_keys)],
) -> None:
    for key in keys:
        if not store.unset_value(key):
            console.note(f"{find(key).key} is not set in {config_path()}")


def show_path() -> None:
    print_line(str(config_path()))


def edit_file() -> None:
    path = store.ensure_file()
    open_in_editor(path)
    store.config_layer()
