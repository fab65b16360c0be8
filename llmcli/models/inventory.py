"""Which models are on this machine that llmcli can name, and where does each come from?"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.models import starter, uses
from llmcli.models.find import ModelFile
from llmcli.models.gguf.peek import Glimpse, peek
from llmcli.models.hub import records
from llmcli.models.hub.cached import CachedModel, cached_models, models_of
from llmcli.models.hub.quantizations import canonical, quantization_of
from llmcli.models.shelf import Shelf

if TYPE_CHECKING:
    from llmcli.models.folders import FoundModel
    from llmcli.models.reference import HubReference


@dataclass(frozen=True)
class Item:
    """One model. `name` is what to type for it; `digests` are the publisher's sha256 for each part ("" unknown)."""

    name: str
    source: str  # starter, hub, url, ollama, lmstudio, folder or file
    parts: tuple[Path, ...]
    size: int
    digests: tuple[str, ...]
    used: float | None
    cached: CachedModel | None = None

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def is_ours(self) -> bool:
        """True for what llmcli may remove: other programs' models are only read."""
        return self.source in ("starter", "hub", "url")

    @property
    def quantization(self) -> str:
        return quantization_of(self.path.name) or self.glimpse.quantization

    @cached_property
    def glimpse(self) -> Glimpse:
        return peek(self.path)


def inventory(shelf: Shelf) -> list[Item]:
    """All of them: the starter first, then by source and name."""
    return [*_starter(shelf), *_of_hub(shelf), *_of_urls(shelf), *_of_folders(shelf)]


def _starter(shelf: Shelf) -> Iterator[Item]:
    path = starter.starter_path(shelf.cache_dir)
    if starter.is_present(shelf.cache_dir):
        used = uses.last_use(shelf.data_dir, path)
        yield Item(starter.STARTER, "starter", (path,), starter.SIZE, (starter.SHA256,), used)


def item_of(file: ModelFile, shelf: Shelf) -> Item:
    """The item that a found model is; one of its own for a file outside of all these places.

    Raises:
        ModelNotFoundError: when the file is not there: the starter, before it was fetched.
    """
    if not file.path.exists():
        raise ModelNotFoundError(f"{file.name} was not fetched yet", f"`llmcli pull {file.name}` fetches it.")
    place = os.path.realpath(file.path)
    here = [item for item in inventory(shelf) if os.path.realpath(item.path) == place]
    if here:  # several, where the same bytes have several names
        return max(here, key=lambda item: (item.path == file.path, item.path.name == file.path.name))
    size = sum(part.stat().st_size for part in file.parts)
    used = uses.last_use(shelf.data_dir, file.path)
    return Item(str(file.path), "file", file.parts, size, ("",) * len(file.parts), used)


def incomplete_item(reference: "HubReference", shelf: Shelf) -> Item | None:
    """The parts that an interrupted pull left of a model, to be removed; None when there are none."""
    for model in models_of(shelf.hub, reference.repo, whole=False):
        if reference.quant and canonical(reference.quant) != model.variant.quantization:
            continue
        if reference.file and reference.file not in (part.path for part in model.variant.parts):
            continue
        digests = tuple(part.sha256 for part in model.variant.parts)
        name = f"{reference}, of which {len(model.variant.missing)} parts are missing"
        return Item(name, "hub", model.parts, model.variant.size, digests, None, model)
    return None


def _of_hub(shelf: Shelf) -> Iterator[Item]:
    """The models of the cache; of one that is the same at several commits, one."""
    pulled = records.all_records(shelf.data_dir)
    noted = {(record.repo, file.path): file.sha256 for record in pulled for file in record.files}
    models = cached_models(shelf.hub)
    paths = {(model.repo, model.variant.quantization, model.variant.path) for model in models}
    alike = Counter((repo, quantization) for repo, quantization, _path in paths)
    commits = Counter(repo for repo, _commit in {(model.repo, model.commit) for model in models})
    seen: dict[tuple[str, str], list[CachedModel]] = {}
    for model in models:
        others = seen.setdefault((model.repo, model.variant.path), [])
        if any(model.is_same(other) for other in others):
            continue
        others.append(model)
        clear = model.variant.quantization and alike[model.repo, model.variant.quantization] == 1
        name = f"{model.repo}:{model.variant.quantization}" if clear else f"{model.repo}/{model.variant.path}"
        if commits[model.repo] > 1 or "@" in name:
            name = _leading_to(model.parts[0], (name, f"{name}@{model.commit[:8]}", f"{name}@{model.commit}"), shelf)
        digests = tuple(part.sha256 or noted.get((model.repo, part.path), "") for part in model.variant.parts)
        used = uses.last_use(shelf.data_dir, model.parts[0])
        yield Item(name, "hub", model.parts, model.variant.size, digests, used, model)


def _leading_to(path: Path, names: Sequence[str], shelf: Shelf) -> str:
    """The first of the names that `find` leads to this file, else its path."""
    from llmcli.models.find_named import find_named

    for name in names:
        with contextlib.suppress(LlmcliError):
            if os.path.realpath(find_named(name, shelf).path) == os.path.realpath(path):
                return name
    return str(path)


def _of_urls(shelf: Shelf) -> Iterator[Item]:
    from llmcli.models.hub.url_fetch import fetched_urls, promised

    for path in fetched_urls(shelf.cache_dir):
        used = uses.last_use(shelf.data_dir, path)
        yield Item(str(path), "url", (path,), path.stat().st_size, (promised(path),), used)


def _of_folders(shelf: Shelf) -> Iterator[Item]:
    if not shelf.folders:
        return
    from llmcli.models.folders import models_in

    names, places = {starter.STARTER, *shelf.aliases, *_in_stores_before(shelf)}, set()
    for folder in shelf.folders:
        for model in models_in(folder):
            place = model.name, os.path.realpath(model.path)
            if place in places:  # one of the folders lies in another one
                continue
            places.add(place)
            name = model.name if model.name not in names and _is_clear(model) else str(model.path)
            names.add(name)
            digests = (model.sha256 or "",) + ("",) * (len(model.parts) - 1)
            used = uses.last_use(shelf.data_dir, model.parts[0])
            yield Item(name, model.source, model.parts, model.size, digests, used)


def _in_stores_before(shelf: Shelf) -> set[str]:
    """The names in Ollama's own stores that were not imported: those are looked in first."""
    from llmcli.models import ollama

    return {model.name for store in ollama.stores() if store not in shelf.folders for model in ollama.models(store)}


def _is_clear(model: "FoundModel") -> bool:
    """Whether the name of a model in a folder, which may be any file name, is read as one."""
    from llmcli.models.reference import NameReference, parse

    with contextlib.suppress(LlmcliError):
        return model.source == "ollama" or parse(model.name) == NameReference(model.name)
    return False
