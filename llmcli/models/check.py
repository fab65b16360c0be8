"""Compare the sha256 of each file of a model with the checksum that its publisher gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmcli.models import notes
from llmcli.models.inventory import Item
from llmcli.models.starter import Progress


@dataclass(frozen=True)
class Checked:
    """The result for one file. `state` is ok, damaged, or unknown (no published checksum); `sha256` is the file's."""

    name: str
    path: Path
    state: str
    sha256: str


def check(item: Item, data_dir: Path, bar: Callable[[str], Progress]) -> list[Checked]:
    """Hash each part completely and compare it; record each sha256 that has a published value.

    Raises:
        DiskError: a file cannot be read.
    """
    results = []
    for path, expected in zip(item.parts, item.digests, strict=True):
        digest = notes.sha256_of(path, bar(path.name))
        if expected:
            notes.remember(data_dir, path, digest)
        state = "unknown" if not expected else "ok" if digest == expected else "damaged"
        results.append(Checked(item.name, path, state, digest))
    return results
