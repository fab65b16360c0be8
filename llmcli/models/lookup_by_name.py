"""Find the model for a name: a model of the Hub, of Ollama, of an imported folder, or of the catalog."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.models.gguf.splits import model_files_in, stem_of
from llmcli.models.hub import cache, environment
from llmcli.models.hub.cache import CachedModel, cached_models, models_of_repo
from llmcli.models.hub.repo_files import canonical_quantization, select_quantization
from llmcli.models.locations import STARTER, ModelFile, ModelLocations, ModelNotDownloadedError
from llmcli.models.reference import (
    FORMS,
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    UrlReference,
    parse,
)

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def find_by_name(text: str, locations: ModelLocations) -> ModelFile:
    """The model for `text`, which is not the path of a file. Raises what `find_model_file` raises."""
    reference = parse(text, endpoint=environment.endpoint())
    if isinstance(reference, HubReference):
        return _find_hub(reference, locations)
    if isinstance(reference, UrlReference):
        return _find_url(reference, locations)
    if isinstance(reference, OllamaReference):
        from llmcli.models.sources import ollama

        model = ollama.find_in_stores(reference.name, _ollama_stores(locations))
        return _model_file(model.parts, str(reference))
    if isinstance(reference, PathReference):
        found = _find_in_folders(reference.path, locations)
        if found:
            return found
        raise _file_not_found(reference.path)
    return _find_name(reference, locations)


def _find_hub(reference: HubReference, locations: ModelLocations) -> ModelFile:
    """The model as it was pulled; otherwise the best match in the shared cache, then in an imported folder."""
    record = cache.load_revision(locations.data_dir, str(reference))
    if record:
        paths = tuple(cache.pointer_path(locations.hub, record.repo, record.commit, file.path) for file in record.files)
        if all(path.is_file() for path in paths):
            return _model_file(paths, stem_of(paths[0]))
    model = _find_in_cache(reference, locations)
    if model:
        return _model_file(model.parts, model.variant.name)
    if locations.folders and not reference.revision:
        from llmcli.models.sources.folder import find_repo_in_folders

        found = find_repo_in_folders(reference.repo, reference.quant, reference.file, locations.folders)
        if found:
            return _model_file(found.parts, found.name)
    raise ModelNotDownloadedError(reference)


def _find_in_cache(reference: HubReference, locations: ModelLocations) -> CachedModel | None:
    """The matching model of the cache. With several commits: an exact match first, then one that llmcli pulled."""
    models = models_of_repo(locations.hub, reference.repo)
    if reference.revision:
        commit = cache.read_ref(locations.hub, reference.repo, reference.revision)
        short = reference.revision if _SHORT_COMMIT.fullmatch(reference.revision) else "-"
        models = [model for model in models if model.commit == commit or model.commit.startswith(short)]
    pulled = [record.commit for record in cache.all_revisions(locations.data_dir) if record.repo == reference.repo]
    exact = {model.commit for model in models if _is_exact(model, reference)}
    commits = dict.fromkeys([*pulled, *(model.commit for model in models)])
    for commit in sorted(commits, key=lambda commit: commit not in exact):
        by_variant = {model.variant: model for model in models if model.commit == commit}
        try:
            if by_variant:
                return by_variant[
                    select_quantization(list(by_variant), reference.quant, reference.file, reference.repo)
                ]
        except ModelNotFoundError:
            continue
    return None


def _is_exact(model: CachedModel, reference: HubReference) -> bool:
    """Whether the model matches exactly: `by_name` also takes UD-Q4_K_M for Q4_K_M when that is missing."""
    if reference.file:
        return any(part.path == reference.file for part in model.variant.parts)
    return reference.quant is None or model.variant.quantization == canonical_quantization(reference.quant)


def _find_url(reference: UrlReference, locations: ModelLocations) -> ModelFile:
    from llmcli.models.sources.url import download_path

    path = download_path(reference, locations.cache_dir)
    if not path.is_file():
        raise ModelNotDownloadedError(reference)
    return _model_file((path,), stem_of(path))


def _find_name(reference: NameReference, locations: ModelLocations) -> ModelFile:
    """A plain name: a model in an imported folder, or a name of the catalog."""
    found = _find_in_folders(reference.name, locations)
    if found:
        return found
    from llmcli.models.catalog import find_entry

    entry = find_entry(reference.name)
    if entry:
        return _find_hub(HubReference(entry.repo, entry.quantization), locations)
    raise ModelNotFoundError(f"model '{reference.name}' not found", _suggestion(reference.name, locations))


def _suggestion(name: str, locations: ModelLocations) -> str:
    """The hint for an unknown name: a similar model on this machine, then one of the catalog with its size."""
    from llmcli.models.catalog import CATALOG

    names, sizes = _local_names(locations), {entry.name: entry.size for entry in CATALOG}
    local, listed = _nearest(name, names), _nearest(name, {entry: entry for entry in sizes})
    download = f"'{listed}' ({sizes.get(listed, 0) / 1e9:.1f} GB to download)"
    is_exact = {name.casefold(), f"{name}.gguf".casefold()} & set(map(str.casefold, names))
    if local and listed and not is_exact:
        return f"did you mean '{local}' (on this machine) or {download}?"
    if local:
        return f"did you mean '{local}'?"
    return f"did you mean {download}?" if listed else "see `llmcli models list` and `llmcli models recommend`"


def _local_names(locations: ModelLocations) -> dict[str, str]:
    """The references of all models on this machine, by the names that a user may type for them."""
    from llmcli.models.sources.folder import lmstudio_folders, models_in_folder

    names = {name: name for name in (STARTER, *locations.aliases, *model_files_in(Path.cwd()))}
    for model in cached_models(locations.hub):
        names[model.repo] = names[model.repo.partition("/")[2]] = names[model.variant.name] = model.repo
    for folder in (*locations.folders, *_ollama_stores(locations)):
        names |= {model.name: model.name for model in models_in_folder(folder)}
    for folder in lmstudio_folders():
        found = () if folder in locations.folders else models_in_folder(folder)
        names |= {model.name: str(model.path) for model in found}
    for reference in [name for name in names if name.startswith("ollama:")]:
        tagged = reference.removeprefix("ollama:")
        names.setdefault(tagged, reference)
        names.setdefault(tagged.partition(":")[0], reference)
    return names


def _find_in_folders(name: str, locations: ModelLocations) -> ModelFile | None:
    """The model with this name or file name in an imported folder."""
    if not locations.folders:
        return None
    from llmcli.models.sources.folder import find_in_folders

    found = find_in_folders(name, locations.folders)
    return _model_file(found.parts, found.name) if found else None


def _ollama_stores(locations: ModelLocations) -> list[Path]:
    """Ollama's own stores, and the imported folders that are Ollama stores."""
    from llmcli.models.sources import ollama

    return [*ollama.stores(), *filter(ollama.is_ollama_store, locations.folders)]


def _file_not_found(text: str) -> ModelNotFoundError:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir():
        return ModelNotFoundError(f"{path} is a folder without .gguf files", FORMS)
    if os.path.lexists(path):
        return ModelNotFoundError(f"{path} is not a regular file, or a link to a missing file", FORMS)
    near = _nearest(path.name, {name: name for name in model_files_in(path.parent)})
    why = "" if path.parent.is_dir() else f" (the folder {path.parent} does not exist)"
    return ModelNotFoundError(f"file not found: {path}{why}", f"did you mean '{near}'?" if near else FORMS)


def _model_file(parts: tuple[Path, ...], name: str) -> ModelFile:
    return ModelFile(parts[0], parts, name, trusted=False)


def _nearest(name: str, candidates: Mapping[str, str]) -> str:
    """The value of the key most like `name`, in any case and with or without `.gguf`; "" when none is similar."""
    folded = {key.casefold(): value for key, value in candidates.items()}
    folded |= {key.removesuffix(".gguf"): value for key, value in folded.items()}
    import difflib  # imported here: it costs 3 ms, and only errors need it

    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""
