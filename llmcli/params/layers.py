"""Layered settings: several tables of values, the later one winning, each value remembering its layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.settings import Settings, fields
from llmcli.params.suggest import did_you_mean

# Not settings but switches of the program itself, which the environment may hold too.
_SWITCHES = ("LLMCLI_HOME", "LLMCLI_DEBUG")


@dataclass(frozen=True)
class Layer:
    """Typed values by key, and where they come from as the user knows it: `config`, `flag`, ..."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """The settings in force, and for each key the name of the layer it came from."""

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
    """The settings in `LLMCLI_*` variables; an empty one counts as not set.

    Raises:
        UsageError: for a value out of range or a variable that is no setting.
    """
    known = {field.env: field for field in fields().values()}
    order = {name: at for at, name in enumerate(known)}  # a policy file makes its name known before it is used
    values = {}
    for name in sorted(environ, key=lambda name: order.get(name, -1)):
        text = environ[name]
        if not name.startswith("LLMCLI_") or name in _SWITCHES or not text:
            continue
        if name not in known:
            raise UsageError(f"there is no setting behind the variable {name}", did_you_mean(name, known))
        try:
            values[known[name].key] = known[name].parse_text(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}", error.hint) from None
    return Layer("env", values)
