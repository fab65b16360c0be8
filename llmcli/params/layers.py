"""Configuration layers: tables of values in order of precedence; each value records its layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.settings import Settings, fields
from llmcli.text import did_you_mean

# Environment variables of the program that are not settings.
_SWITCHES = ("LLMCLI_HOME", "LLMCLI_DEBUG")


@dataclass(frozen=True)
class Layer:
    """Typed values by key, and the name of their source for users: `config`, `flag`, ..."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """The resolved settings, and for each key the name of the layer with its value."""

    settings: Settings
    origins: Mapping[str, str]


def resolve(layers: Iterable[Layer]) -> Resolved:
    """Merge the layers, lowest first, over the built-in defaults."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(fields(), "default")
    for layer in layers:
        values |= layer.values
        origins |= dict.fromkeys(layer.values, layer.name)
    return Resolved(Settings(**values), origins)


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """The settings in `LLMCLI_*` variables; an empty variable is ignored.

    Raises:
        UsageError: for an invalid value, or a variable without a setting.
    """
    known = {field.env: field for field in fields().values()}
    order = {name: i for i, name in enumerate(known)}  # temp_policy_file registers the name that temperature uses
    values = {}
    for name in sorted(environ, key=lambda name: order.get(name, -1)):
        text = environ[name]
        if not name.startswith("LLMCLI_") or name in _SWITCHES or not text:
            continue
        if name not in known:
            raise UsageError(f"unknown environment variable {name}", did_you_mean(name, known))
        try:
            values[known[name].key] = known[name].parse_text(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}", error.hint) from None
    return Layer("env", values)
