"""What removing a model takes away: its files, the blobs nobody else points to, and what is empty then."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.models import hub_cache, records
from llmcli.models.cached import CachedModel, models_of
from llmcli.models.inventory import Item
from llmcli.models.shelf import Shelf


@dataclass(frozen=True)
class Removal:
    """What goes, in this order, and the bytes that are free afterwards. Blobs that stay are shared with others."""

    item: Item
    files: tuple[Path, ...]
    freed: int
    kept: tuple[Path, ...]

    @property
    def names(self) -> tuple[Path, ...]:
        """The files as people know them: without the blobs behind them."""
        return tuple(path for path in self.files if path.parent.name != "blobs")


def plan_removal(item: Item, shelf: Shelf) -> Removal:
    """What would go; nothing is touched. The item must be one of ours.

    Raises:
        DiskError: when a link leads out of the cache.
    """
    model = item.cached
    if model is None:
        return Removal(item, item.parts, item.size, ())
    # The same bytes may be there at several commits: all of them are this model.
    same = [other for other in models_of(shelf.hub, model.repo) if other.variant == model.variant]
    pointers = [part for other in same for part in other.parts]
    if model.projector and not _others(model):
        pointers += [other.place(model.projector) for other in same if other.projector == model.projector]
    blobs = dict.fromkeys(_blob_of(pointer) for pointer in pointers if pointer.is_symlink())
    folder = hub_cache.folder_of(shelf.hub, model.repo)
    for place in (*(pointer.parent for pointer in pointers), *(blob.parent for blob in blobs)):
        hub_cache.check_inside(place, shelf.hub)
    used = {_blob_of(other) for other in _pointers(folder) if other.is_symlink() and other not in pointers}
    gone = [blob for blob in blobs if blob not in used and blob.parent == folder / "blobs" and os.path.lexists(blob)]
    # A blob may itself be a link into the store that the hub's tools share between repositories: that one stays.
    freed = sum(path.lstat().st_size for path in (*gone, *pointers) if not path.is_symlink())
    return Removal(item, (*pointers, *gone), freed, tuple(blob for blob in blobs if blob not in gone))


def remove(removal: Removal, shelf: Shelf) -> None:
    """Carry it out: files first, then what is empty, then our own notes.

    Raises:
        DiskError: when a file cannot be removed.
    """
    for path in removal.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"cannot remove {path}: {error.strerror}", "Check its permissions.") from None
    model = removal.item.cached
    if model is None:
        _remove_empty(removal.item.path.parent, shelf.cache_dir)
        return
    folder = hub_cache.folder_of(shelf.hub, model.repo)
    for path in removal.files:
        _remove_empty(path.parent, folder)
    _remove_refs(folder)
    for place in ("blobs", "snapshots", "refs"):
        _remove_empty(folder / place, shelf.hub)
    for record in records.all_records(shelf.data_dir):
        if record.repo == model.repo and record.files[0] in model.variant.parts:
            with contextlib.suppress(OSError):
                records.forget(shelf.data_dir, record.reference)


def _blob_of(pointer: Path) -> Path:
    """Where a link of a snapshot leads, one step."""
    return Path(os.path.normpath(pointer.parent / os.readlink(pointer)))


def _others(model: CachedModel) -> bool:
    """Whether the commit holds further models that the projector may belong to."""
    there = [other for other in models_of(model.cache, model.repo) if other.commit == model.commit]
    return len(there) > 1


def _pointers(folder: Path) -> Iterator[Path]:
    for parent, _folders, names in os.walk(folder / "snapshots"):
        yield from (Path(parent, name) for name in names)


def _remove_refs(folder: Path) -> None:
    """Forget the names of commits that are gone."""
    for parent, _folders, names in os.walk(folder / "refs", topdown=False):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if not (folder / "snapshots" / path.read_text()[:64].strip()).is_dir():
                    path.unlink()


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top` as long as they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
