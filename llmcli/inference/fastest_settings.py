"""The fastest settings for a model on this machine, which `llmcli bench --save` keeps in the notes about its file."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcli.engine.llama import hardware
from llmcli.errors import DiskError, UsageError
from llmcli.models import notes
from llmcli.params.param import SettingValue
from llmcli.params.settings import Layer, Settings, fields

# What is searched and kept: it changes the speed of an answer and nothing else, apart from rounding.
KEYS = ("n_threads", "n_threads_batch", "flash_attn", "n_ubatch")
LAYER = "bench"  # the origin of these values
MEMORY = "memory"  # that of settings with which a model fits in memory: `sizing.fitting_layer`


def saved_layer(data_dir: Path, file: Path) -> Layer:
    """What is kept for a model file, as a layer; empty without any, of another machine, or if it is not valid."""
    note = notes.read(data_dir, file)
    text = note.get("fastest", "")
    if not text or note.get("machine") != _machine():
        return Layer(LAYER, {})
    values: dict[str, SettingValue] = {}
    for pair in text.split():
        key, _, value = pair.partition("=")
        if key in KEYS:
            with suppress(UsageError):
                values[key] = fields()[key].parse_text(value)
    return Layer(LAYER, values)


def is_kept(data_dir: Path, file: Path) -> bool:
    """Whether there is something to remove for a model file, of another machine too."""
    return bool(notes.read(data_dir, file).get("fastest"))


def save(data_dir: Path, file: Path, values: Mapping[str, SettingValue]) -> None:
    """Keep these settings for a model file; without any, remove what was kept. Raises DiskError."""
    text = " ".join(f"{key}={fields()[key].format(value)}" for key, value in values.items())
    notes.update(data_dir, file, fastest=text, machine=_machine())
    if notes.read(data_dir, file).get("fastest") != text:
        raise DiskError(f"cannot write the note about {file.name} in {data_dir}", "make the folder writable")


def with_choices(settings: Settings, layer: Layer) -> Settings:
    """The settings with what is kept, and with what the memory allows, where nobody set a value."""
    chosen: dict[str, Any] = {
        key: value
        for key, value in layer.values.items()
        if layer.origins[key] in (LAYER, MEMORY)
        and getattr(settings, key) == fields()[key].default
        and key not in settings.given
    }
    return replace(settings, **chosen) if chosen else settings


def remark(settings: Settings, layer: Layer) -> str:
    """What says that an engine with these settings uses what is kept; "" if it does not."""
    used = {
        key: value
        for key, value in layer.values.items()
        if layer.origins[key] == LAYER and getattr(settings, key) == value and key not in settings.given
    }
    return f"uses the fastest settings that `llmcli bench` found for this model: {describe(used)}" if used else ""


def describe(values: Mapping[str, SettingValue]) -> str:
    """The settings in one line: `n_threads 4, n_ubatch 256`."""
    return ", ".join(f"{key} {fields()[key].format(value)}" for key, value in values.items())


def _machine() -> str:
    """What the best settings depend on beside the model: another number of cores makes others best."""
    return f"{hardware.machine()}, {hardware.usable_cores()} cores"
