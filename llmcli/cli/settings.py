"""The settings of a command without a prompt, and what `--verbose` shows of the settings of any command."""

import os
from typing import TYPE_CHECKING

from llmcli.config.file import config_layer
from llmcli.files import config_file
from llmcli.params.settings import Layer, Resolved, Settings, environment_layer, fields, resolve
from llmcli.text import excerpt
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:
    from llmcli.inference.local import LocalModel


def in_force(flags: Layer) -> Settings:
    """The settings from, lowest first, the defaults, the configuration file, the environment and `flags`.

    Raises:
        UsageError: for a value that is not valid, with its source.
    """
    return resolve([config_layer(), environment_layer(os.environ), flags]).settings


def show_settings(resolved: Resolved) -> None:
    """With `--verbose`: the configuration file, and each setting that is not a default, with its layer."""
    if not console.verbose:
        return
    file = config_file()
    console.detail(f"configuration file: {file}{'' if file.exists() else ' (not present)'}")
    for key, origin in resolved.origins.items():
        if origin != "default":
            value = fields()[key].format(getattr(resolved.settings, key)) or "none"
            console.detail(f"{key} = {excerpt(value, 60)} (from {origin})")


def show_model(local: "LocalModel") -> None:
    """With `--verbose`: the file of the model, what its header says, and how long the load took."""
    if not console.verbose:
        return
    header, shape = local.target.header, local.shape
    console.detail(f"model: {local.name}, {local.target.file.path}")
    facts = f"{header.architecture}, {shape.n_layers} layers, {shape.weights / 2**20:.0f} MiB of weights"
    console.detail(f"{facts}, trained context {shape.n_ctx_train} tokens, layers on the GPU {local.gpu_layers}")
    console.detail(f"loaded in {local.load_ms / 1e3:.2f} s")
