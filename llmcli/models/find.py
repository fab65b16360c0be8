"""Which file on this machine does a model reference lead to? Nothing is asked of the network here."""

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError, ModelNotFoundError
from llmcli.models import hub_cache, hub_place, records
from llmcli.models.cached import CachedModel, models_of
from llmcli.models.reference import (
    FORMS,
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    Reference,
    UrlReference,
    is_repo,
    parse,
)
from llmcli.models.shelf import Shelf
from llmcli.models.splits import is_later_part, parts_of, stem_of
from llmcli.models.starter import STARTER, starter_path
from llmcli.models.variants import pick

_SHORT = re.compile(r"[0-9a-f]{7,40}")  # of a commit
_SHOWN = 5  # names in one message


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. `path` is the first of `parts`; `trusted`: we fetched it and know this very file."""

    path: Path
    parts: tuple[Path, ...]
    name: str
    trusted: bool


class NotHereError(ModelNotFoundError):
    """A model that is not on this machine, but could be fetched: `reference` says from where."""

    def __init__(self, reference: HubReference | UrlReference) -> None:
        super().__init__(f"{reference} is not on this machine", f"Download it with `llmcli pull {reference}`.")
        self.reference = reference


def find(text: str, shelf: Shelf) -> ModelFile:
    """The model that the reference `text` leads to; the starter's place even where it has not been fetched.

    Raises:
        NotHereError: when it is elsewhere and can be fetched.
        ModelNotFoundError: when it leads nowhere (the hint has the nearest name).
        ModelInvalidError: for a split model or a store's entry that cannot be.
    """
    if text == STARTER and STARTER not in shelf.aliases:
        path = starter_path(shelf.cache_dir)
        return ModelFile(path, (path,), STARTER, trusted=True)
    target = shelf.aliases.get(text, text)
    on_disk = _on_disk(target)
    if on_disk:
        return on_disk
    reference = parse(target, endpoint=hub_place.endpoint())
    return find_reference(reference, shelf)


def find_reference(reference: Reference, shelf: Shelf) -> ModelFile:
    """The model that a parsed reference leads to; raises as `find` does."""
    if isinstance(reference, HubReference):
        return _on_hub(reference, shelf)
    if isinstance(reference, UrlReference):
        return _fetched(reference, shelf)
    if isinstance(reference, OllamaReference):
        from llmcli.models import ollama

        model = ollama.find(reference.name, _stores(shelf))
        return ModelFile(model.parts[0], model.parts, str(reference), trusted=False)
    if isinstance(reference, PathReference):
        raise _no_file(reference.path)
    return _named(reference, shelf)


def _on_disk(text: str) -> ModelFile | None:
    """The file at this path, if there is one; a file called `starter` is reached as ./starter."""
    if not text.strip() or "\0" in text:
        raise ModelNotFoundError("the model reference is empty or not a name", FORMS)
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        found, folder = path.is_file(), path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelNotFoundError("the model reference is longer than a file name can be", FORMS) from None
        raise DiskError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
    if found:
        # Links stay as they are: in the hub's cache only the link has the name of the part.
        parts = parts_of(path)
        return ModelFile(parts[0], parts, stem_of(parts[0]), trusted=False)
    if folder and (_models_in(path) or not is_repo(text)):
        raise _is_a_folder(path)
    return None


def _on_hub(reference: HubReference, shelf: Shelf) -> ModelFile:
    """The model as it was pulled, else the best match in the shared cache, else in an imported folder."""
    record = records.load(shelf.data_dir, str(reference))
    if record:
        places = tuple(
            hub_cache.pointer_path(shelf.hub, record.repo, record.commit, file.path) for file in record.files
        )
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
    """The model of the cache that fits; of several commits one we pulled ourselves comes first."""
    models = models_of(shelf.hub, reference.repo)
    if reference.revision:
        commit = hub_cache.read_ref(shelf.hub, reference.repo, reference.revision)
        short = reference.revision if _SHORT.fullmatch(reference.revision) else "-"
        models = [model for model in models if model.commit == commit or model.commit.startswith(short)]
    pulled = [record.commit for record in records.all_records(shelf.data_dir) if record.repo == reference.repo]
    commits = dict.fromkeys([*pulled, *(model.commit for model in models)])
    for commit in commits:
        here = {model.variant: model for model in models if model.commit == commit}
        try:
            if here:
                return here[pick(list(here), reference.quant, reference.file, reference.repo)]
        except ModelNotFoundError:
            continue
    return None


def _fetched(reference: UrlReference, shelf: Shelf) -> ModelFile:
    from llmcli.models.url_fetch import place_of

    path = place_of(reference, shelf.cache_dir)
    if not path.is_file():
        raise NotHereError(reference)
    return ModelFile(path, (path,), stem_of(path), trusted=False)


def _named(reference: NameReference, shelf: Shelf) -> ModelFile:
    """A word: a model in an imported folder, or a name of the catalogue."""
    if shelf.folders:
        from llmcli.models.folders import find_named

        found = find_named(reference.name, shelf.folders)
        if found:
            return ModelFile(found.parts[0], found.parts, found.name, trusted=False)
    from llmcli.models.catalogue import CATALOGUE, entry

    known = entry(reference.name)
    if known:
        return _on_hub(HubReference(known.repo, known.quantization), shelf)
    names = [STARTER, *shelf.aliases, *(item.name for item in CATALOGUE), *_models_in(Path.cwd())]
    near = _nearest(reference.name, names)
    raise ModelNotFoundError(
        f"there is no model {reference.name}",
        f"Did you mean {near}?" if near else f"See `llmcli models list` and `llmcli models recommend`. {FORMS}",
    )


def _stores(shelf: Shelf) -> list[Path]:
    """Ollama's own stores, and imported folders that are such."""
    from llmcli.models import folders, ollama

    return [*ollama.stores(), *filter(folders.is_ollama_store, shelf.folders)]


def _is_a_folder(path: Path) -> ModelNotFoundError:
    names = _models_in(path)
    if not names:
        return ModelNotFoundError(f"{path} is a folder without a .gguf file", FORMS)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ModelNotFoundError(
        f"{path} is a folder, not a model", f"Name one of its files: {', '.join(names[:_SHOWN])}{more}."
    )


def _no_file(text: str) -> ModelNotFoundError:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    near = _nearest(path.name, _models_in(path.parent))
    where = "" if path.parent.is_dir() else f" (nor a folder {path.parent})"
    return ModelNotFoundError(f"there is no file {path}{where}", f"Did you mean {near}?" if near else FORMS)


def _nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate most like `name`, in any case and with or without its ending; "" when none is near."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    folded |= {name.removesuffix(".gguf"): candidate for name, candidate in folded.items()}
    import difflib  # 3 ms, for mistakes only

    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""


def _models_in(folder: Path) -> list[str]:
    """The .gguf files in a folder by name, of a split model the first part; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".gguf"))
    except OSError:
        return []
    return [name for name in names if not is_later_part(name)]
