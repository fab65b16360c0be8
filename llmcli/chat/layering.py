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

        A preset chosen in one of the two lies just under the rest of it.
        """
        layers = list(self.below)
        for name, values in (("session", overrides), ("retry", once)):
            if values and values.get("preset"):
                layers.append(_preset(values["preset"]))
            if values is not None:
                layers.append(Layer(name, values))
        return layers


def layers_of(flags: Layer, chat: bool = False) -> Layers:
    """The layers of a command line; a character counts in a `chat` only.

    Raises:
        UsageError: for a preset or a character that does not exist, or a value that cannot be.
        DiskError: for a character's file that cannot be read.
    """
    config, environment = config_layer(), environment_layer(os.environ)
    chosen = resolve([config, environment, flags]).settings
    middle = []
    if chosen.preset:
        middle.append(_preset(chosen.preset))
    if chat and chosen.character:
        from llmcli.chat.characters import layer, load_character

        middle.append(layer(load_character(chosen.character)))
    return Layers([config, *middle, environment, flags])


def _preset(name: str) -> Layer:
    from llmcli.chat.presets import preset_layer

    return preset_layer(name)
