"""Presets, and the order of all layers of settings."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmcli.config import config_file
from llmcli.errors import UsageError
from llmcli.files import check_name, config_path
from llmcli.params.decision import DecisionParams
from llmcli.params.param import fields_of
from llmcli.params.result import ResultParams
from llmcli.params.settings import Layer, Settings, environment_layer, find, parse_data, resolve, to_datum
from llmcli.text import did_you_mean, ellipsize

# Settings of one request or of this machine, which a preset cannot set; a preset cannot name another preset.
NOT_IN_PRESETS = ("prompt", "file", "preset", "character", "pull", "offline", "model_folders", "endpoint")
_BUILT_IN = Path(__file__).parent / "built_in_presets.toml"
_PURPOSE = "purpose"  # what a preset is for: a key that is not a setting


@dataclass(frozen=True)
class LayerStack:
    """The layers below a session, lowest first; the defaults of the model are below all of them."""

    below: Sequence[Layer]

    def above(self, overrides: Mapping[str, Any], once: Mapping[str, Any] | None = None) -> list[Layer]:
        """All layers, then the settings of the session, then those of one answer (`once`).

        A preset in one of the two replaces the other presets, and is just below the rest of its layer.
        """
        layers = list(self.below)
        for name, values in {"session": overrides, **({"retry": once} if once else {})}.items():
            if "preset" in values:
                layers = [layer for layer in layers if layer.name != "preset"]
            if values.get("preset"):
                layers.append(preset_layer(values["preset"]))
            layers.append(Layer(name, values))
        # A chat and a comparison show whole texts, whatever a preset says.
        others = {*fields_of(DecisionParams), *fields_of(ResultParams)}
        return [replace(one, values={k: v for k, v in one.values.items() if k not in others}) for one in layers]

    def without(self, name: str) -> "LayerStack":
        """These layers without the layer and the setting of this name."""
        kept = [layer for layer in self.below if layer.name != name]
        return LayerStack([replace(one, values={k: v for k, v in one.values.items() if k != name}) for one in kept])


def layers_of(flags: Layer, *middle: Layer) -> LayerStack:
    """The layers of a command line; `middle` (a character) is above the preset. Raises UsageError if one is invalid."""
    config, environment, _ = common = base_layers(flags)
    chosen = resolve(common).settings.preset
    return LayerStack([config, *([preset_layer(chosen)] if chosen else []), *middle, environment, flags])


def resolve_settings(flags: Layer) -> Settings:
    """The settings of `base_layers`, for commands without presets. Raises UsageError for an invalid value."""
    return resolve(base_layers(flags)).settings


def base_layers(flags: Layer) -> list[Layer]:
    """The layers above the defaults, lowest first. Raises UsageError for an invalid value, with its source."""
    return [config_file.config_layer(), environment_layer(os.environ), flags]


def presets() -> dict[str, Mapping[str, Any]]:
    """Every preset with its typed values; the user's replace built-in ones. Raises UsageError if one is invalid."""
    return {name: _typed(name, raw) for name, raw in _tables().items()}


def preset_layer(name: str) -> Layer:
    """The settings of one preset. Raises UsageError for an unknown name, or a preset that is not valid."""
    tables = _tables()
    if name not in tables:
        hint = did_you_mean(name, tables) or "use one of " + ", ".join(sorted(tables))
        raise UsageError(f"unknown preset {name[:80]!r}", hint)
    return Layer("preset", _typed(name, tables[name]), _source(name))


def save_preset(name: str, values: Mapping[str, Any]) -> Path:
    """Write a preset into the configuration file, or replace it. Raises UsageError for an invalid name or setting."""
    data = {key: to_datum(find(key), value) for key, value in values.items() if value is not None}  # TOML has no null
    validate_preset(data, f"preset {check_name(name, 'preset')}")
    if not data:
        raise UsageError("no setting to save in a preset", "change a setting first, as in /temperature 1.2")
    _user_presets()  # refuses a file that is not valid

    def change(document: Any) -> None:
        import tomlkit

        if config_file.PRESETS not in document:
            document[config_file.PRESETS] = tomlkit.table(is_super_table=True)  # without a header line
        section = document[config_file.PRESETS]
        if name not in section:
            section[name] = data
            return
        for key in [key for key in section[name] if key not in data and key != _PURPOSE]:
            del section[name][key]
        section[name].update(data)

    return config_file.edit(change)


def remove_preset(name: str) -> None:
    """Delete one of the user's presets. Raises UsageError for an unknown name, or a built-in preset."""
    if name not in _user_presets():
        if name in _built_in():
            raise UsageError(f"cannot delete the built-in preset {name!r}")
        raise UsageError(f"unknown preset {name[:80]!r}", did_you_mean(name, _user_presets()))
    config_file.edit(lambda document: document[config_file.PRESETS].pop(name))


def describe_preset(values: Mapping[str, Any]) -> str:
    """Typed values in one line: `temperature 1.2, min_p 0.02`."""
    return ", ".join(f"{key} {ellipsize(find(key).format(value))}" for key, value in values.items())


def preset_purpose(name: str, values: Mapping[str, Any]) -> str:
    """A preset in one line: what it is for, if it says that, and its values."""
    purpose = _tables().get(name, {}).get(_PURPOSE)
    return f"{ellipsize(str(purpose), 80)} ({describe_preset(values)})" if purpose else describe_preset(values)


def validate_preset(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The typed values of a preset's table. Raises UsageError, which starts with `source`, for an invalid setting."""
    values = parse_data(table, source)
    for key in NOT_IN_PRESETS:
        if key in values:
            raise UsageError(f"{source}: {key} cannot be part of a preset", f"remove {key}")
    return values


def _tables() -> dict[str, Mapping[str, Any]]:
    return {**_built_in(), **_user_presets()}


@cache
def _built_in() -> Mapping[str, Mapping[str, Any]]:
    import tomllib  # takes 10 ms, and many users have no preset

    return tomllib.loads(_BUILT_IN.read_text(encoding="utf-8"))


def _user_presets() -> dict[str, Mapping[str, Any]]:
    return config_file.table(config_file.PRESETS, dict, "a table of settings")


def _typed(name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = {key: value for key, value in table.items() if key != _PURPOSE}
    return MappingProxyType(validate_preset(settings, _source(name)))


def _source(name: str) -> str:
    return f"{config_path()}: [{config_file.PRESETS}.{name}]"
