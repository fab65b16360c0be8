"""List, resume and remove interrupted downloads.

A partial file is named after its checksum; a record in the data folder has the model reference of the download.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from llmcli.files import replace_private
from llmcli.models.download.partial_file import NOTES, bytes_here
from llmcli.models.hub import cache
from llmcli.models.hub.cached import models_of
from llmcli.models.hub.lock import if_free


@dataclass(frozen=True)
class Unfinished:
    """An interrupted download. `name` is the reference to pull; `size` is 0 (unknown) if another program started it."""

    name: str
    path: Path
    here: int
    size: int
    time: float

    @property
    def is_ours(self) -> bool:
        return ".llmcli." in self.path.name


def note(data_dir: Path, partial: Path, reference: str, size: int) -> None:
    """Record the reference of a download that starts now; without the record, the download has no name."""
    with contextlib.suppress(OSError):
        replace_private(_record_path(data_dir, partial), json.dumps({"reference": reference, "size": size}).encode())


def forget(data_dir: Path, partial: Path) -> None:
    """Remove the record of a completed download."""
    with contextlib.suppress(OSError):
        _record_path(data_dir, partial).unlink(missing_ok=True)


def partials(hub: Path, cache_dir: Path, data_dir: Path) -> list[Unfinished]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    paths = [*hub.glob("models--*/blobs/*.incomplete"), *(cache_dir / "urls").glob("*/*" + cache.PARTIAL)]
    found = [_unfinished(path, data_dir) for path in paths if path.is_file() and not path.is_symlink()]
    return sorted((one for one in found if one.here), key=lambda one: -one.time)


def remove(one: Unfinished, data_dir: Path) -> bool:
    """Delete a partial download of llmcli; False if another program started it or it is active. Raises OSError."""
    if not one.is_ours:
        return False
    with if_free(_lock(one.path)) as free:
        if free:
            one.path.unlink(missing_ok=True)
            one.path.with_name(one.path.name + NOTES).unlink(missing_ok=True)
            forget(data_dir, one.path)
    return free


def has_whole_parts(one: Unfinished) -> bool:
    """Whether the interrupted pull also left complete parts of a split model."""
    folder = one.path.parent.parent
    repo = cache.repo_of(folder.name)
    return bool(repo and models_of(folder.parent, repo, whole=False))


def _lock(partial: Path) -> Path:
    """The lock file of this download."""
    target = partial.with_name(partial.name.removesuffix(cache.PARTIAL))
    if target.parent.name == "blobs":
        folder = target.parent.parent
        return folder.parent / ".locks" / folder.name / f"{target.name}.lock"
    return target.with_suffix(".lock")


def _unfinished(path: Path, data_dir: Path) -> Unfinished:
    info = path.stat()
    try:
        data = json.loads(_record_path(data_dir, path).read_bytes()[: 1 << 16])
        reference, size = str(data["reference"]), int(data["size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        reference, size = cache.repo_of(path.parent.parent.name) or path.name, 0
    here = bytes_here(path, size) if size else info.st_size
    return Unfinished(reference, path, here, size, info.st_mtime)


def _record_path(data_dir: Path, partial: Path) -> Path:
    return data_dir / "unfinished" / f"{partial.name.removesuffix(cache.PARTIAL)[:80]}.json"
