"""Is each file of a model what its publisher made? Its sha256 is computed and compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmcli.models import verified
from llmcli.models.inventory import Item
from llmcli.models.starter import Progress


@dataclass(frozen=True)
class Checked:
    """`state` is ok, damaged, or unknown where no publisher's checksum is known; `sha256` is the file's own."""

    name: str
    path: Path
    state: str
    sha256: str


def check(item: Item, data_dir: Path, bar: Callable[[str], Progress]) -> list[Checked]:
    """The state of each part, read whole from the disk; what was found is noted.

    Raises:
        DiskError: when a file cannot be read.
    """
    results = []
    for path, expected in zip(item.parts, item.digests, strict=True):
        digest = verified.sha256_of(path, bar(path.name))
        if expected:
            verified.remember(data_dir, path, digest)
        state = "unknown" if not expected else "ok" if digest == expected else "damaged"
        results.append(Checked(item.name, path, state, digest))
    return results
