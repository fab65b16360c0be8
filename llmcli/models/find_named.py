"""Which model here does a name lead to: one of the hub, of Ollama, of an imported folder, of the catalogue?"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.models.find import ModelFile, NotHereError, models_in
from llmcli.models.gguf.splits import stem_of
from llmcli.models.hub import environment, layout, records
from llmcli.models.hub.cached import CachedModel, models_of
from llmcli.models.hub.choice import pick
from llmcli.models.hub.quantizations import canonical
from llmcli.models.reference import (
    FORMS,
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    UrlReference,
    parse,
)
from llmcli.models.shelf import Shelf
from llmcli.models.starter import STARTER

_SHORT = re.compile(r"[0-9a-f]{7,40}")  # of a commit


def find_named(text: str, shelf: Shelf) -> ModelFile:
    """The model that `text`, which is no file, leads to; raises as `find` does."""
    reference = parse(text, endpoint=environment.endpoint())
    if isinstance(reference, HubReference):
        return _on_hub(reference, shelf)
    if isinstance(reference, UrlReference):
        return _fetched(reference, shelf)
    if isinstance(reference, OllamaReference):
        from llmcli.models import ollama

        model = ollama.find(reference.name, _stores(shelf))
        return ModelFile(model.parts[0], model.parts, str(reference), trusted=False)
    if isinstance(reference, PathReference):
        found = _in_folders(reference.path, shelf)
        if found:
            return found
        raise _no_file(reference.path)
    return _named(reference, shelf)


def _on_hub(reference: HubReference, shelf: Shelf) -> ModelFile:
    """The model as it was pulled, else the best match in the shared cache, else in an imported folder."""
    record = records.load(shelf.data_dir, str(reference))
    if record:
        places = tuple(layout.pointer_path(shelf.hub, record.repo, record.commit, file.path) for file in record.files)
        if all(place.is_file() for place in places):
            return ModelFile(places[0], places, stem_of(places[0]), trusted=False)
    model = _cached(reference, shelf)
    if model:
        return ModelFile(model.parts[0], model.parts, model.variant.name, trusted=False)
    if shelf.folders and not reference.revision:
        from llmcli.models.folders import find_repo

        found = find_repo(reference.repo, reference.quant, reference.file, shelf.folders)
        if found:
            return ModelFile(found.parts[0], found.parts, found.name, trusted=False)
    raise NotHereError(reference)


def _cached(reference: HubReference, shelf: Shelf) -> CachedModel | None:
    """The model of the cache that fits: of several commits one with this very name, then one we pulled ourselves."""
    models = models_of(shelf.hub, reference.repo)
    if reference.revision:
        commit = layout.read_ref(shelf.hub, reference.repo, reference.revision)
        short = reference.revision if _SHORT.fullmatch(reference.revision) else "-"
        models = [model for model in models if model.commit == commit or model.commit.startswith(short)]
    pulled = [record.commit for record in records.all_records(shelf.data_dir) if record.repo == reference.repo]
    exact = {model.commit for model in models if _is_exact(model, reference)}
    commits = dict.fromkeys([*pulled, *(model.commit for model in models)])
    for commit in sorted(commits, key=lambda commit: commit not in exact):
        here = {model.variant: model for model in models if model.commit == commit}
        try:
            if here:
                return here[pick(list(here), reference.quant, reference.file, reference.repo)]
        except ModelNotFoundError:
            continue
    return None


def _is_exact(model: CachedModel, reference: HubReference) -> bool:
    """Whether it is what the reference says to the letter: `pick` takes UD-Q4_K_M for Q4_K_M where that is missing."""
    if reference.file:
        return any(part.path == reference.file for part in model.variant.parts)
    return reference.quant is None or model.variant.quantization == canonical(reference.quant)


def _fetched(reference: UrlReference, shelf: Shelf) -> ModelFile:
    from llmcli.models.hub.url_fetch import place_of

    path = place_of(reference, shelf.cache_dir)
    if not path.is_file():
        raise NotHereError(reference)
    return ModelFile(path, (path,), stem_of(path), trusted=False)


def _named(reference: NameReference, shelf: Shelf) -> ModelFile:
    """A word: a model in an imported folder, or a name of the catalogue."""
    found = _in_folders(reference.name, shelf)
    if found:
        return found
    from llmcli.models.catalogue import CATALOGUE, entry

    known = entry(reference.name)
    if known:
        return _on_hub(HubReference(known.repo, known.quantization), shelf)
    names = [STARTER, *shelf.aliases, *(item.name for item in CATALOGUE), *models_in(Path.cwd())]
    near = _nearest(reference.name, names)
    raise ModelNotFoundError(
        f"there is no model {reference.name}",
        f"Did you mean {near}?" if near else "See `llmcli models list` and `llmcli models recommend`.",
    )


def _in_folders(name: str, shelf: Shelf) -> ModelFile | None:
    """The model of this name, or with a file of this name, in an imported folder."""
    if not shelf.folders:
        return None
    from llmcli.models import folders

    found = folders.find_named(name, shelf.folders)
    return ModelFile(found.parts[0], found.parts, found.name, trusted=False) if found else None


def _stores(shelf: Shelf) -> list[Path]:
    """Ollama's own stores, and imported folders that are such."""
    from llmcli.models import folders, ollama

    return [*ollama.stores(), *filter(folders.is_ollama_store, shelf.folders)]


def _no_file(text: str) -> ModelNotFoundError:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir():
        return ModelNotFoundError(f"{path} is a folder without a .gguf file", FORMS)
    near = _nearest(path.name, models_in(path.parent))
    where = "" if path.parent.is_dir() else f" (nor a folder {path.parent})"
    return ModelNotFoundError(f"there is no file {path}{where}", f"Did you mean {near}?" if near else FORMS)


def _nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate most like `name`, in any case and with or without its ending; "" when none is near."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    folded |= {name.removesuffix(".gguf"): candidate for name, candidate in folded.items()}
    import difflib  # 3 ms, for mistakes only

    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""
