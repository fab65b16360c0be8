"""The models on this machine: listed, verified and removed; the downloads that were interrupted."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError, error_text
from llmcli.models import notes
from llmcli.models.download.partial_file import PARTIAL, bytes_downloaded, delete_partial
from llmcli.models.gguf.parser import read_header, read_headers
from llmcli.models.hub.cache import lock_path, models_of_repo, repo_of
from llmcli.models.locations import LATEST, STARTER, ModelFile, ModelLocations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import NameReference
from llmcli.models.sources.folder import FILE
from llmcli.models.sources.registry import models_in_folder, parse, sources, stores_not_imported
from llmcli.models.sources.source import InstalledModel, ProgressFor, RemovalPlan


def inventory(locations: ModelLocations) -> list[InstalledModel]:
    """All models: those that llmcli downloaded, by source and name, then those of the imported folders."""
    own = [model for source in sources() for model in source.models(locations)]
    return [
        replace(model, last_used=notes.read(locations.data_dir, model.path).get("used"))
        for model in (*own, *_imported_models(locations))
    ]


def inventory_with_aliases(locations: ModelLocations) -> list[InstalledModel]:
    """The inventory with the user's aliases of each model, and the files outside it that only an alias names."""
    items = inventory(locations)
    by_path = {os.path.realpath(item.path): index for index, item in reversed(list(enumerate(items)))}
    for alias in locations.aliases:
        file = None
        with contextlib.suppress(LlmcliError, OSError):
            file = find_model_file(alias, locations)
        if file is None or not os.path.isfile(file.path):  # not on this machine
            continue
        path = os.path.realpath(file.path)
        if path not in by_path:
            by_path[path] = len(items)
            items.append(installed_model(file, locations))
        index = by_path[path]
        items[index] = replace(items[index], aliases=(*items[index].aliases, alias))
    return items


def installed_model(file: ModelFile, locations: ModelLocations) -> InstalledModel:
    """The inventory item of a model file; a new item for a file outside the inventory, with what its program knows.

    Raises ModelNotFoundError if the file does not exist (the starter, before it is downloaded).
    """
    if not file.path.exists():
        raise ModelNotFoundError(
            f"model '{file.name}' is not downloaded", f"download it with `llmcli pull {file.name}`"
        )
    real = os.path.realpath(file.path)
    same_file = [item for item in inventory(locations) if os.path.realpath(item.path) == real]
    if same_file:  # the same bytes can have several names
        return max(same_file, key=lambda item: _likeness(item, file))
    size, used = sum(part.stat().st_size for part in file.parts), notes.read(locations.data_dir, file.path).get("used")
    for folder, program in stores_not_imported(locations):  # what such a program knows of its file holds all the same
        same_file = [model for model in program.models_in(folder) if os.path.realpath(model.path) == real]
        if same_file:
            model = max(same_file, key=lambda item: _likeness(item, file))
            return replace(model, name=model.name if program.has_names else str(file.path), last_used=used)
    return InstalledModel(str(file.path), FILE, file.parts, size, ("",) * len(file.parts), last_used=used)


def _likeness(item: InstalledModel, file: ModelFile) -> tuple[bool, bool, bool]:
    """The sort key for models with the same bytes, such as two tags of Ollama: the one that is meant is the largest."""
    asked, name = (text.removesuffix(LATEST).casefold() for text in (file.name, item.name))
    return item.path == file.path, name == asked, item.path.name == file.path.name


@dataclass(frozen=True)
class VerifyResult:
    """The result for one file of a model."""

    name: str
    path: Path
    state: str  # ok, damaged, or unknown (no published checksum)
    sha256: str


def verify(item: InstalledModel, data_dir: Path, progress_for: ProgressFor) -> list[VerifyResult]:
    """Hash each part completely and compare it; record each sha256 that has a published value. Raises DiskError.

    Without published values, a model whose header does not fit its bytes is damaged.
    """
    otherwise = "unknown"
    try:
        if not all(item.digests):
            read_headers(item.parts)
    except ModelInvalidError:
        otherwise = "damaged"
    results = []
    for path, expected in zip(item.parts, item.digests, strict=True):
        digest = notes.sha256_of(path, progress_for(path.name))
        if expected:
            notes.record_sha256(data_dir, path, digest)
        state = otherwise if not expected else "ok" if digest == expected else "damaged"
        results.append(VerifyResult(item.name, path, state, digest))
    return results


def damage(item: InstalledModel, data_dir: Path) -> str:
    """Why a file is known to be damaged: its header does not fit its bytes, or `verify` has found it; else empty.

    A header takes up to 150 ms, so it is read once, until its file changes.
    """
    for part, published in zip(item.parts, item.digests, strict=True):
        note = notes.read(data_dir, part)
        if published and note.get("sha256", published) != published:
            return "its sha256 is not the published one"
        reason = note.get("damage", "" if note.get("probed") else None)
        if reason is None:
            try:
                read_header(part)
                reason = ""
            except ModelInvalidError as error:
                reason = str(error).removeprefix(f"{part}: ")
            except LlmcliError:
                continue
            notes.update(data_dir, part, damage=reason)
        if reason:
            return reason
    return ""


def remove(plan: RemovalPlan, locations: ModelLocations) -> None:
    """Remove the files, then empty folders, then our records. Raises DiskError when a file cannot be removed."""
    for path in plan.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"cannot remove {path}: {error_text(error)}", "check its permissions") from None
        notes.forget(locations.data_dir, path)
    plan.item.source.clean_up(plan, locations)


@dataclass(frozen=True)
class InterruptedDownload:
    """An interrupted download. `name` is the reference to pull; `size` is 0 (unknown) if another program started it."""

    name: str
    path: Path
    downloaded: int
    size: int
    time: float

    @property
    def is_from_llmcli(self) -> bool:
        return ".llmcli." in self.path.name

    @property
    def has_complete_parts(self) -> bool:
        """Whether it also left complete parts of a split model."""
        folder = self.path.parent.parent
        repo = repo_of(folder.name)
        return bool(repo and models_of_repo(folder.parent, repo, whole=False))

    def remove(self, data_dir: Path) -> bool:
        """Delete the partial file; False if another program started the download or it is active. Raises OSError."""
        from filelock import FileLock, Timeout

        if not self.is_from_llmcli:
            return False
        target = self.path.with_name(self.path.name.removesuffix(PARTIAL))
        lock = lock_path(target) if target.parent.name == "blobs" else target.with_suffix(".lock")
        try:
            with FileLock(lock, blocking=False):
                delete_partial(self.path)
                notes.forget(data_dir, self.path)
        except Timeout:
            return False
        return True


def find_interrupted(locations: ModelLocations) -> list[InterruptedDownload]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    found = []
    for path in [*locations.hub.glob("models--*/blobs/*.incomplete"), *locations.cache_dir.rglob("*" + PARTIAL)]:
        if not path.is_file() or path.is_symlink():
            continue
        note, info = notes.read(locations.data_dir, path), path.stat()
        name, size = note.get("reference") or repo_of(path.parent.parent.name) or path.name, note.get("size", 0)
        downloaded = bytes_downloaded(path, size) if size > 0 else info.st_size
        if downloaded:
            found.append(InterruptedDownload(name, path, downloaded, size, info.st_mtime))
    return sorted(found, key=lambda item: -item.time)


def _imported_models(locations: ModelLocations) -> Iterator[InstalledModel]:
    """The models of the imported folders; a name that means another model is replaced by the path."""
    if not locations.folders:
        return
    named = [program.models_in(folder) for folder, program in stores_not_imported(locations) if program.has_names]
    names = {STARTER, *locations.aliases, *(model.name for models in named for model in models)}
    seen = set()
    for model in (model for folder in locations.folders for model in models_in_folder(folder)):
        key = model.name, os.path.realpath(model.path)
        if key in seen:  # one imported folder can be inside another
            continue
        seen.add(key)
        name = model.name if model.name not in names and _is_reference(model) else str(model.path)
        names.add(name)
        yield replace(model, name=name)


def _is_reference(model: InstalledModel) -> bool:
    """Whether the name of a model in a folder, which can be any file name, is a valid model reference."""
    with contextlib.suppress(LlmcliError):
        return model.source.has_names or parse(model.name) == NameReference(model.name)
    return False
