"""The settings in force for a command that has no prompt: configuration file, environment and its own flags."""

import os

from llmcli.chat.config import config_layer
from llmcli.params.layers import Layer, environment_layer, resolve
from llmcli.params.settings import Settings


def in_force(flags: Layer) -> Settings:
    """Lowest layer first: defaults, file, environment, `flags`.

    Raises:
        UsageError: for a value that cannot be, naming where it stands.
    """
    return resolve([config_layer(), environment_layer(os.environ), flags]).settings
