"""The locations of models on this machine, and the user's aliases for models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmcli.models.hub.environment import hub_cache


@dataclass(frozen=True)
class Shelf:
    """`hub` is the cache shared with other Hugging Face tools; `folders` are imported folders, which are read-only."""

    cache_dir: Path
    data_dir: Path
    hub: Path = field(default_factory=hub_cache)
    folders: tuple[Path, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    offline: bool = False
