"""Where models are on this machine: the folders that a command searches, and what it finds there."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import ModelNotFoundError
from llmcli.files import cache_dir, data_dir
from llmcli.models.hub import environment

if TYPE_CHECKING:  # a model is loading while these are imported
    from llmcli.models.reference import RemoteReference
    from llmcli.params.settings import Settings

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)
Notify = Callable[[str], None]  # shows a message to the user
MOVE_HINT = "move the cache with LLMCLI_HOME"  # for `cache_dir`; the cache of the Hub has its own
STARTER = "starter"  # the model reference
LATEST = ":latest"  # the tag that Ollama adds to a name; for other models it says nothing
STARTER_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_SIZE = 98_362_432  # bytes
STARTER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class ModelLocations:
    """Where one command searches for models: it makes this value once, and passes it on."""

    cache_dir: Path
    data_dir: Path
    hub: Path = field(default_factory=environment.hub_cache)  # shared with other Hugging Face tools
    folders: tuple[Path, ...] = ()  # imported by the user, and only read
    aliases: Mapping[str, str] = field(default_factory=dict)
    offline: bool = False  # by --offline

    @property
    def is_offline(self) -> bool:
        """True when no request is allowed, by --offline or by the environment."""
        return self.offline or environment.is_offline()


def model_locations(settings: "Settings") -> ModelLocations:
    """The locations for these settings. Raises UsageError if the aliases of the configuration file are not valid."""
    from llmcli.config.config_file import aliases

    folders = tuple(Path(os.path.expanduser(folder)).absolute() for folder in settings.model_folders)
    return ModelLocations(cache_dir(), data_dir(), folders=folders, aliases=aliases(), offline=settings.offline)


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. `path` is the first of `parts`; `trusted` is True if llmcli downloaded and verified it.

    `ollama_template` is the chat template that Ollama's store has for it, a Go template, and `ollama_parameters` are
    its settings there, a JSON object; "" if there is none.
    """

    path: Path
    parts: tuple[Path, ...]
    name: str
    trusted: bool = False
    ollama_template: str = ""
    ollama_parameters: str = ""


class ModelNotDownloadedError(ModelNotFoundError):
    """The model is not on this machine, but `reference` can be downloaded."""

    def __init__(self, reference: "RemoteReference") -> None:
        super().__init__(f"model '{reference}' is not downloaded", f"download it with `llmcli pull {reference}`")
        self.reference = reference


def starter_path(cache_dir: Path) -> Path:
    """The path of the starter, whether it is downloaded or not."""
    return cache_dir / "starter" / STARTER_NAME


def is_starter_downloaded(cache_dir: Path) -> bool:
    """True when the starter is downloaded. Its checksum was verified then, so the size is enough."""
    try:
        return starter_path(cache_dir).stat().st_size == STARTER_SIZE
    except OSError:
        return False
