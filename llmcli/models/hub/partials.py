"""Which downloads were interrupted, and what were they to become?

A partial file is named after its checksum; what it belongs to is noted beside the records when it is begun.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from llmcli.models.hub import layout
from llmcli.models.hub.cached import models_of
from llmcli.models.hub.lock import if_free
from llmcli.models.hub.partial import NOTES, bytes_here
from llmcli.models.private_files import replace_private


@dataclass(frozen=True)
class Unfinished:
    """`name` is the reference to pull again; `size` is 0 where another program began it and it is not known."""

    name: str
    path: Path
    here: int
    size: int
    time: float

    @property
    def is_ours(self) -> bool:
        return ".llmcli." in self.path.name


def note(data_dir: Path, partial: Path, reference: str, size: int) -> None:
    """Note what a download that begins now will become; without the note it has no name, nothing else."""
    with contextlib.suppress(OSError):
        replace_private(_note(data_dir, partial), json.dumps({"reference": reference, "size": size}).encode())


def forget(data_dir: Path, partial: Path) -> None:
    """Remove the note of a download that has ended."""
    with contextlib.suppress(OSError):
        _note(data_dir, partial).unlink(missing_ok=True)


def partials(hub: Path, cache_dir: Path, data_dir: Path) -> list[Unfinished]:
    """All of them, the last one first; those of the hub's other tools too."""
    places = [*hub.glob("models--*/blobs/*.incomplete"), *(cache_dir / "urls").glob("*/*" + layout.PARTIAL)]
    found = [_unfinished(path, data_dir) for path in places if path.is_file() and not path.is_symlink()]
    return sorted((one for one in found if one.here), key=lambda one: -one.time)


def remove(one: Unfinished, data_dir: Path) -> bool:
    """Throw away one of ours; False for another program's, and for one that is being downloaded. Raises OSError."""
    if not one.is_ours:
        return False
    with if_free(_lock(one.path)) as free:
        if free:
            one.path.unlink(missing_ok=True)
            one.path.with_name(one.path.name + NOTES).unlink(missing_ok=True)
            forget(data_dir, one.path)
    return free


def has_whole_parts(one: Unfinished) -> bool:
    """Whether an interrupted pull left whole parts of a split model as well."""
    folder = one.path.parent.parent
    repo = layout.repo_of(folder.name)
    return bool(repo and models_of(folder.parent, repo, whole=False))


def _lock(partial: Path) -> Path:
    """The lock that a download of this file holds."""
    place = partial.with_name(partial.name.removesuffix(layout.PARTIAL))
    if place.parent.name == "blobs":
        folder = place.parent.parent
        return folder.parent / ".locks" / folder.name / f"{place.name}.lock"
    return place.with_suffix(".lock")


def _unfinished(path: Path, data_dir: Path) -> Unfinished:
    info = path.stat()
    try:
        data = json.loads(_note(data_dir, path).read_bytes()[: 1 << 16])
        reference, size = str(data["reference"]), int(data["size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        reference, size = layout.repo_of(path.parent.parent.name) or path.name, 0
    here = bytes_here(path, size) if size else info.st_size
    return Unfinished(reference, path, here, size, info.st_mtime)


def _note(data_dir: Path, partial: Path) -> Path:
    return data_dir / "unfinished" / f"{partial.name.removesuffix(layout.PARTIAL)[:80]}.json"
