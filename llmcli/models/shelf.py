"""Where models may lie on this machine, and which names of the user's own stand for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmcli.models.hub.environment import hub_cache


@dataclass(frozen=True)
class Shelf:
    """`hub` is the cache that the hub's tools share, `folders` are those a user imported; nothing is written there."""

    cache_dir: Path
    data_dir: Path
    hub: Path = field(default_factory=hub_cache)
    folders: tuple[Path, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    offline: bool = False
