"""The layers of settings in their order: configuration, preset, character, environment, options, session."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.config.file import config_layer
from llmcli.params.settings import Layer, Settings, environment_layer, resolve


@dataclass(frozen=True)
class Layers:
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
                layers.append(_preset(values["preset"]))
            layers.append(Layer(name, values))
        return layers

    def without(self, name: str) -> "Layers":
        """These layers without the layer and the setting of this name."""
        kept = [layer for layer in self.below if layer.name != name]
        return Layers([Layer(one.name, {key: one.values[key] for key in one.values if key != name}) for one in kept])


def layers_of(flags: Layer, *middle: Layer) -> Layers:
    """The layers of a command line; `middle` (a character) is above the preset.

    Raises:
        UsageError: for an unknown preset or a value that is not valid.
    """
    config, environment = config_layer(), environment_layer(os.environ)
    chosen = resolve([config, environment, flags]).settings.preset
    preset = [_preset(chosen)] if chosen else []
    return Layers([config, *preset, *middle, environment, flags])


def _preset(name: str) -> Layer:
    from llmcli.config.presets import preset_layer

    return preset_layer(name)


def resolve_settings(flags: Layer) -> Settings:
    """The settings from, lowest first, the defaults, the configuration file, the environment and `flags`.

    Raises:
        UsageError: for a value that is not valid, with its source.
    """
    return resolve([config_layer(), environment_layer(os.environ), flags]).settings
