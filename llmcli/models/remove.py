"""Remove a model: its files, the blobs that no other model uses, and the folders that are then empty."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.models.hub import cache, records
from llmcli.models.hub.cached import CachedModel, models_of
from llmcli.models.inventory import Item
from llmcli.models.locations import Shelf


@dataclass(frozen=True)
class Removal:
    """The files to remove, in order, and the bytes freed. `kept` are blobs that other models share."""

    item: Item
    files: tuple[Path, ...]
    freed: int
    kept: tuple[Path, ...]

    @property
    def names(self) -> tuple[Path, ...]:
        """The file names that users know, without the blobs behind them."""
        return tuple(path for path in self.files if path.suffix == ".gguf" or path.name == self.item.path.name)


def plan_removal(item: Item, shelf: Shelf) -> Removal:
    """Plan the removal, without changing anything. The item must be one that llmcli may remove.

    Raises:
        DiskError: a link leads out of the cache.
    """
    model = item.cached
    if model is None:
        beside = item.path.parent.iterdir() if item.source == "url" else ()  # the folder contains nothing else
        return Removal(item, (*item.parts, *(path for path in beside if path not in item.parts)), item.size, ())
    # The same bytes can be in the cache at several commits: all of them are this model.
    same = [other for other in models_of(shelf.hub, model.repo, model.variant.complete) if other.is_same(model)]
    pointers = [part for other in same for part in other.parts]
    pointers += [other.place(other.projector) for other in same if other.projector and not _others(other)]
    blobs = dict.fromkeys(_blob(pointer) for pointer in pointers if pointer.is_symlink())
    folder = cache.folder_of(shelf.hub, model.repo)
    for place in (*(pointer.parent for pointer in pointers), *(blob.parent for blob in blobs)):
        cache.check_inside(place, shelf.hub)
    used = {_blob(other) for other in _pointers(folder) if other.is_symlink() and other not in pointers}
    gone = [blob for blob in blobs if blob not in used and blob.parent == Path(os.path.realpath(folder)) / "blobs"]
    freed = sum(path.stat().st_size for path in (*gone, *pointers) if not path.is_symlink())
    shared = [Path(os.path.realpath(blob)) for blob in gone if blob.is_symlink()]
    return Removal(item, (*pointers, *gone), freed, (*(blob for blob in blobs if blob not in gone), *shared))


def remove(removal: Removal, shelf: Shelf) -> None:
    """Remove the files, then empty folders, then our records.

    Raises:
        DiskError: a file cannot be removed.
    """
    for path in removal.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"cannot remove {path}: {error.strerror}", "check its permissions") from None
    model = removal.item.cached
    if model is None:
        _remove_empty(removal.item.path.parent, shelf.cache_dir)
        return
    folder = cache.folder_of(shelf.hub, model.repo)
    for path in removal.files:
        _remove_empty(path.parent, folder / "snapshots")
    _remove_refs(folder)
    _remove_folder(folder)
    for record in records.all_records(shelf.data_dir):
        if record.repo == model.repo and record.files[0] in model.variant.parts:
            with contextlib.suppress(OSError):
                records.forget(shelf.data_dir, record.reference)


def _others(model: CachedModel) -> bool:
    """Whether the commit has other models to which the projector may belong."""
    same_commit = [other for other in models_of(model.cache, model.repo) if other.commit == model.commit]
    return len(same_commit) > 1


def _blob(pointer: Path) -> Path:
    """The target of a pointer, one step only: a blob can itself be a link into a store that repositories share."""
    target = pointer.parent / os.readlink(pointer)
    return Path(os.path.realpath(target.parent), target.name)


def _pointers(folder: Path) -> Iterator[Path]:
    for parent, _folders, names in os.walk(folder / "snapshots"):
        yield from (Path(parent, name) for name in names)


def _remove_refs(folder: Path) -> None:
    """Remove the refs of commits that are no longer in the cache."""
    refs = folder / "refs"
    if refs.is_symlink():  # os.walk follows its top folder
        return
    for parent, _folders, names in os.walk(refs, topdown=False):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if not (folder / "snapshots" / path.read_text()[:64].strip()).is_dir():
                    path.unlink()
        _remove_empty(Path(parent), refs)


def _remove_folder(folder: Path) -> None:
    """Remove the repository's folder when it is empty; otherwise `snapshots` stays, because the Hub's tools need it."""
    with contextlib.suppress(OSError):
        for name in ("blobs", "refs"):
            if (folder / name).exists():
                (folder / name).rmdir()
        if os.listdir(folder) == ["snapshots"]:
            (folder / "snapshots").rmdir()
            folder.rmdir()


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top` as long as they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
