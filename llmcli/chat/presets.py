"""Presets: settings under one name, built in or the user's own in the configuration file, and nothing but settings."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmcli.chat import config
from llmcli.chat.excerpt import excerpt
from llmcli.chat.paths import config_file
from llmcli.errors import UsageError
from llmcli.params.layers import Layer
from llmcli.params.names import check_name
from llmcli.params.settings import find, parse_data, to_datum
from llmcli.params.suggest import did_you_mean

# What belongs to one request or to this machine, not to a way of answering; and no preset leads to another.
NEVER = ("prompt", "file", "preset", "character", "pull", "offline", "model_folders")
_BUILT_IN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # llama.cpp's own defaults, whatever the configuration says.
        "balanced": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        # Hot, with min_p alone as the guard: it cuts little where the model is unsure and much where it is not.
        "creative": {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.02},
        # As creative, and away from the likeliest words and from what was said already.
        "brainstorm": {
            "temperature": "0.8..1.6",
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.03,
            "xtc_probability": 0.5,
            "xtc_threshold": 0.1,
            "dry_multiplier": 0.8,
        },
        "precise": {"temperature": 0.3, "top_k": 40, "top_p": 0.9, "min_p": 0.1},
        # Code repeats itself rightly: nothing may punish that.
        "code": {
            "temperature": 0.2,
            "top_k": 40,
            "top_p": 0.95,
            "min_p": 0.05,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "dry_multiplier": 0.0,
            "xtc_probability": 0.0,
        },
        # Always the likeliest token: the same question gets the same answer.
        "deterministic": {"temperature": 0.0, "mirostat": 0, "xtc_probability": 0.0},
    }
)


def presets() -> dict[str, Mapping[str, Any]]:
    """Every preset with its typed values: the built-in ones and the user's, which win.

    Raises:
        UsageError: when one of the user's cannot be, naming the file and the preset.
    """
    return {name: _typed(name, raw) for name, raw in _tables().items()}


def preset_layer(name: str) -> Layer:
    """The settings of one preset.

    Raises:
        UsageError: when there is none of this name, with the nearest; or when it holds what cannot be.
    """
    tables = _tables()
    if name not in tables:
        hint = did_you_mean(name, tables) or "there are " + ", ".join(sorted(tables))
        raise UsageError(f"there is no preset {name[:80]!r}", hint)
    return Layer("preset", _typed(name, tables[name]))


def save_preset(name: str, values: Mapping[str, Any]) -> Path:
    """Keep typed values as a preset in the configuration file, in place of one of this name.

    Raises:
        UsageError: when that is no name, or a value does not belong into a preset.
    """
    data = {key: to_datum(find(key), value) for key, value in values.items()}
    data = {key: value for key, value in data.items() if value is not None}  # TOML has no word for nothing
    checked(data, f"preset {check_name(name, 'preset')}")
    if not data:
        raise UsageError("there is no setting to keep in a preset", "change one first, as in /temperature 1.2")
    _own()  # a broken file is refused here

    def change(document: Any) -> None:
        section = _section(document)
        if name not in section:
            section[name] = data
            return
        for spelling in [key for key in section[name] if key not in data]:
            del section[name][spelling]
        section[name].update(data)

    return config.edit(change)


def remove_preset(name: str) -> None:
    """Take one of the user's presets out of the configuration file.

    Raises:
        UsageError: when there is none of this name.
    """
    if name not in _own():
        if name in _BUILT_IN:
            raise UsageError(f"the preset {name} is built in and stays")
        raise UsageError(f"there is no preset {name[:80]!r}", did_you_mean(name, _own()))
    config.edit(lambda document: document[config.PRESETS].pop(name))


def describe(values: Mapping[str, Any]) -> str:
    """Typed values in one line: `temperature 1.2, min_p 0.02`."""
    return ", ".join(f"{key} {excerpt(find(key).format(value))}" for key, value in values.items())


def checked(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The typed values of a preset's table.

    Raises:
        UsageError: that begins with `source`, for a value that cannot be or does not belong there.
    """
    values = parse_data(table, source)
    for key in NEVER:
        if key in values:
            raise UsageError(f"{source}: {key} cannot be part of a preset", "take it out")
    return values


def _tables() -> dict[str, Mapping[str, Any]]:
    return {**_BUILT_IN, **_own()}


def _own() -> dict[str, Mapping[str, Any]]:
    return config.table(config.PRESETS, dict, "a table of settings")


def _typed(name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(checked(table, f"{config_file()}: [{config.PRESETS}.{name}]"))


def _section(document: Any) -> Any:
    """The table of all presets in the document, made without a line of its own."""
    import tomlkit

    if config.PRESETS not in document:
        document[config.PRESETS] = tomlkit.table(is_super_table=True)
    return document[config.PRESETS]
