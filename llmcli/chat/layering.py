"""The layers of settings in their order: configuration, preset, character, environment, flags, session."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.chat.config import config_layer
from llmcli.params.layers import Layer, environment_layer, resolve


@dataclass(frozen=True)
class Layers:
    """The layers below a session, lowest first; the model's own defaults come under all of them."""

    below: Sequence[Layer]

    def above(self, overrides: Mapping[str, Any], once: Mapping[str, Any] | None = None) -> list[Layer]:
        """All of them with what was set in the session on top, and over it what counts for one answer only.

        A preset chosen in one of the two lies just under the rest of it, and takes the place of any other.
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
    """The layers of a command line; `middle` (a character) lies above its preset.

    Raises:
        UsageError: for a preset that does not exist, or a value that cannot be.
    """
    config, environment = config_layer(), environment_layer(os.environ)
    chosen = resolve([config, environment, flags]).settings.preset
    preset = [_preset(chosen)] if chosen else []
    return Layers([config, *preset, *middle, environment, flags])


def _preset(name: str) -> Layer:
    from llmcli.chat.presets import preset_layer

    return preset_layer(name)
