"""The models on this machine: listed, verified and removed."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import DiskError, LlmcliError, ModelNotFoundError, error_text
from llmcli.models import file_records
from llmcli.models.gguf.parser import HeaderSummary, read_summary
from llmcli.models.hub import cache
from llmcli.models.hub.cache import CachedModel, cached_models, models_of_repo
from llmcli.models.hub.repo_files import canonical_quantization, quantization_of
from llmcli.models.locations import (
    STARTER,
    STARTER_SHA256,
    ModelFile,
    ModelLocations,
    Progress,
    is_starter_downloaded,
    starter_path,
)
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference, UrlReference

if TYPE_CHECKING:
    from llmcli.models.locations import FolderModel


@dataclass(frozen=True)
class InstalledModel:
    """One model. `name` is its reference; `digests` are the published sha256 of each part ("" = unknown).

    `last_used` is in seconds since 1970; `cached` is the model in the Hub's cache, if it is there.
    """

    name: str
    source: str  # starter, hub, url, ollama, lmstudio, folder or file
    parts: tuple[Path, ...]
    size: int
    digests: tuple[str, ...]
    last_used: float | None
    cached: CachedModel | None = None
    aliases: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def is_removable(self) -> bool:
        """True for models that llmcli may remove; models of other programs are only read."""
        return self.source in ("starter", "hub", "url")

    @property
    def quantization(self) -> str:
        return quantization_of(self.path.name) or self.summary.quantization

    @cached_property
    def summary(self) -> HeaderSummary:
        return read_summary(self.path)


def inventory(locations: ModelLocations) -> list[InstalledModel]:
    """All models: the starter first, then by source and name."""
    return [*_starter(locations), *_hub_models(locations), *_url_models(locations), *_folder_models(locations)]


def inventory_with_aliases(locations: ModelLocations) -> list[InstalledModel]:
    """The inventory with the user's aliases of each model, and the files outside it that only an alias names."""
    items = inventory(locations)
    by_path = {os.path.realpath(item.path): index for index, item in reversed(list(enumerate(items)))}
    for alias in locations.aliases:
        file = _aliased_file(alias, locations)
        if file is None:
            continue
        path = os.path.realpath(file.path)
        if path not in by_path:
            by_path[path] = len(items)
            items.append(installed_model(file, locations))
        index = by_path[path]
        items[index] = replace(items[index], aliases=(*items[index].aliases, alias))
    return items


def installed_model(file: ModelFile, locations: ModelLocations) -> InstalledModel:
    """The inventory item of a model file; a new item for a file outside the inventory.

    Raises:
        ModelNotFoundError: the file does not exist (the starter, before it is downloaded).
    """
    if not file.path.exists():
        raise ModelNotFoundError(
            f"model '{file.name}' is not downloaded", f"download it with `llmcli pull {file.name}`"
        )
    real = os.path.realpath(file.path)
    same_file = [item for item in inventory(locations) if os.path.realpath(item.path) == real]
    if same_file:  # the same bytes can have several names
        return max(same_file, key=lambda item: (item.path == file.path, item.path.name == file.path.name))
    size = sum(part.stat().st_size for part in file.parts)
    return _item(locations, str(file.path), "file", file.parts, size, ("",) * len(file.parts))


def incomplete_model(reference: HubReference | UrlReference, locations: ModelLocations) -> InstalledModel | None:
    """The parts that an interrupted pull of a split model left behind; None when there are none."""
    if isinstance(reference, UrlReference):
        return None
    for model in models_of_repo(locations.hub, reference.repo, whole=False):
        if reference.quant and canonical_quantization(reference.quant) != model.variant.quantization:
            continue
        if reference.file and reference.file not in (part.path for part in model.variant.parts):
            continue
        digests = tuple(part.sha256 for part in model.variant.parts)
        name = f"{reference} (incomplete: {len(model.variant.missing)} parts missing)"
        return InstalledModel(name, "hub", model.parts, model.variant.size, digests, None, model)
    return None


@dataclass(frozen=True)
class VerifyResult:
    """The result for one file. `state` is ok, damaged, or unknown (no published checksum); `sha256` is the file's."""

    name: str
    path: Path
    state: str
    sha256: str


def verify(item: InstalledModel, data_dir: Path, progress_for: Callable[[str], Progress]) -> list[VerifyResult]:
    """Hash each part completely and compare it; record each sha256 that has a published value.

    Raises:
        DiskError: a file cannot be read.
    """
    results = []
    for path, expected in zip(item.parts, item.digests, strict=True):
        digest = file_records.sha256_of(path, progress_for(path.name))
        if expected:
            file_records.record_sha256(data_dir, path, digest)
        state = "unknown" if not expected else "ok" if digest == expected else "damaged"
        results.append(VerifyResult(item.name, path, state, digest))
    return results


@dataclass(frozen=True)
class RemovalPlan:
    """The files to remove, in order, and the bytes freed. `kept` are blobs that other models share."""

    item: InstalledModel
    files: tuple[Path, ...]
    freed: int
    kept: tuple[Path, ...]

    @property
    def names(self) -> tuple[Path, ...]:
        """The file names that users know, without the blobs behind them."""
        return tuple(path for path in self.files if path.suffix == ".gguf" or path.name == self.item.path.name)


def plan_removal(item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
    """Plan the removal, without changing anything. The item must be one that llmcli may remove.

    Raises:
        DiskError: a link leads out of the cache.
    """
    model = item.cached
    if model is None:
        beside = item.path.parent.iterdir() if item.source == "url" else ()  # the folder contains nothing else
        return RemovalPlan(item, (*item.parts, *(path for path in beside if path not in item.parts)), item.size, ())
    # The same bytes can be in the cache at several commits: all of them are this model.
    of_repo = models_of_repo(locations.hub, model.repo, model.variant.complete)
    same = [other for other in of_repo if other.is_same(model)]
    pointers = [part for other in same for part in other.parts]
    pointers += [other.path_of(other.projector) for other in same if other.projector and _is_alone(other)]
    blobs = dict.fromkeys(_blob_of(pointer) for pointer in pointers if pointer.is_symlink())
    folder = cache.folder_of(locations.hub, model.repo)
    for path in (*pointers, *blobs):
        cache.check_inside(path.parent, locations.hub)
    used = {_blob_of(other) for other in _all_pointers(folder) if other.is_symlink() and other not in pointers}
    unused = [blob for blob in blobs if blob not in used and blob.parent == Path(os.path.realpath(folder)) / "blobs"]
    freed = sum(path.stat().st_size for path in (*unused, *pointers) if not path.is_symlink())
    shared = [Path(os.path.realpath(blob)) for blob in unused if blob.is_symlink()]
    return RemovalPlan(item, (*pointers, *unused), freed, (*(blob for blob in blobs if blob not in unused), *shared))


def remove(plan: RemovalPlan, locations: ModelLocations) -> None:
    """Remove the files, then empty folders, then our records.

    Raises:
        DiskError: a file cannot be removed.
    """
    for path in plan.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"cannot remove {path}: {error_text(error)}", "check its permissions") from None
    model = plan.item.cached
    if model is None:
        _remove_empty(plan.item.path.parent, locations.cache_dir)
        return
    folder = cache.folder_of(locations.hub, model.repo)
    for path in plan.files:
        _remove_empty(path.parent, folder / "snapshots")
    _remove_refs(folder)
    _remove_folder(folder)
    for record in cache.all_revisions(locations.data_dir):
        if record.repo == model.repo and record.files[0] in model.variant.parts:
            with contextlib.suppress(OSError):
                cache.forget_revision(locations.data_dir, record.reference)


def _starter(locations: ModelLocations) -> Iterator[InstalledModel]:
    path = starter_path(locations.cache_dir)
    if is_starter_downloaded(locations.cache_dir):
        yield _item(locations, STARTER, "starter", (path,), path.stat().st_size, (STARTER_SHA256,))


def _hub_models(locations: ModelLocations) -> Iterator[InstalledModel]:
    """The models of the Hub's cache; a model that is the same at several commits is listed once."""
    pulled = cache.all_revisions(locations.data_dir)
    recorded = {(record.repo, file.path): file.sha256 for record in pulled for file in record.files}
    models = cached_models(locations.hub)
    paths = {(model.repo, model.variant.quantization, model.variant.path) for model in models}
    n_files = Counter((repo, quantization) for repo, quantization, _path in paths)
    commits = Counter(repo for repo, _commit in {(model.repo, model.commit) for model in models})
    seen: dict[tuple[str, str], list[CachedModel]] = {}
    for model in models:
        others = seen.setdefault((model.repo, model.variant.path), [])
        if any(model.is_same(other) for other in others):
            continue
        others.append(model)
        unique = model.variant.quantization and n_files[model.repo, model.variant.quantization] == 1
        name = f"{model.repo}:{model.variant.quantization}" if unique else f"{model.repo}/{model.variant.path}"
        if commits[model.repo] > 1 or "@" in name:
            names = name, f"{name}@{model.commit[:8]}", f"{name}@{model.commit}"
            name = _first_reference(model.parts[0], names, locations)
        digests = tuple(part.sha256 or recorded.get((model.repo, part.path), "") for part in model.variant.parts)
        yield _item(locations, name, "hub", model.parts, model.variant.size, digests, model)


def _first_reference(path: Path, names: Sequence[str], locations: ModelLocations) -> str:
    """The first of the names that resolves to this file; if none does, its path."""
    from llmcli.models.lookup_by_name import find_by_name

    for name in names:
        with contextlib.suppress(LlmcliError):
            if os.path.realpath(find_by_name(name, locations).path) == os.path.realpath(path):
                return name
    return str(path)


def _url_models(locations: ModelLocations) -> Iterator[InstalledModel]:
    from llmcli.models.sources.url import downloaded_files, expected_sha256

    for path in downloaded_files(locations.cache_dir):
        yield _item(locations, str(path), "url", (path,), path.stat().st_size, (expected_sha256(path),))


def _folder_models(locations: ModelLocations) -> Iterator[InstalledModel]:
    if not locations.folders:
        return
    from llmcli.models.sources.folder import models_in_folder

    names, seen = {STARTER, *locations.aliases, *_names_in_ollama(locations)}, set()
    for folder in locations.folders:
        for model in models_in_folder(folder):
            key = model.name, os.path.realpath(model.path)
            if key in seen:  # one imported folder can be inside another
                continue
            seen.add(key)
            name = model.name if model.name not in names and _is_reference(model) else str(model.path)
            names.add(name)
            digests = (model.sha256 or "",) + ("",) * (len(model.parts) - 1)
            yield _item(locations, name, model.source, model.parts, model.size, digests)


def _names_in_ollama(locations: ModelLocations) -> set[str]:
    """The names in Ollama's own stores that are not imported: a lookup searches these first."""
    from llmcli.models.sources import ollama

    return {
        model.name
        for store in ollama.stores()
        if store not in locations.folders
        for model in ollama.models_in_store(store)
    }


def _is_reference(model: "FolderModel") -> bool:
    """Whether the name of a model in a folder, which can be any file name, is a valid model reference."""
    from llmcli.models.reference import NameReference, parse

    with contextlib.suppress(LlmcliError):
        return model.source == "ollama" or parse(model.name) == NameReference(model.name)
    return False


def _item(
    locations: ModelLocations,
    name: str,
    source: str,
    parts: tuple[Path, ...],
    size: int,
    digests: tuple[str, ...],
    cached: CachedModel | None = None,
) -> InstalledModel:
    last_used = file_records.last_use(locations.data_dir, parts[0])
    return InstalledModel(name, source, parts, size, digests, last_used, cached)


def _aliased_file(alias: str, locations: ModelLocations) -> ModelFile | None:
    """The model file that an alias names; None if it is not on this machine."""
    with contextlib.suppress(LlmcliError, OSError):
        file = find_model_file(alias, locations)
        return file if file.path.is_file() else None
    return None


def _is_alone(model: CachedModel) -> bool:
    """Whether the commit has no other model to which the projector may belong."""
    return [other.commit for other in models_of_repo(model.cache, model.repo)].count(model.commit) <= 1


def _blob_of(pointer: Path) -> Path:
    """The target of a pointer, one step only: a blob can itself be a link into a store that repositories share."""
    target = pointer.parent / os.readlink(pointer)
    return Path(os.path.realpath(target.parent), target.name)


def _all_pointers(folder: Path) -> Iterator[Path]:
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
