"""Find the model for a name in all sources, or say which name was probably meant."""

import os
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.models.gguf.splits import model_files_in
from llmcli.models.hub.cache import cached_models
from llmcli.models.locations import STARTER, ModelFile, ModelLocations, ModelNotDownloadedError
from llmcli.models.reference import FORMS, NameReference, PathReference, Reference, RemoteReference
from llmcli.models.sources.registry import find, find_in_folders, models_in_folder, parse, stores_not_imported
from llmcli.text import nearest


def find_by_name(text: str, locations: ModelLocations) -> ModelFile:
    """The model for `text`, which is not the path of a file. Raises what `find_model_file` raises."""
    reference: Reference = parse(text)
    if isinstance(reference, NameReference | PathReference):
        imported = find_in_folders(str(reference), locations.folders)
        if imported:
            return ModelFile(imported.path, imported.parts, imported.name)
    if isinstance(reference, NameReference):
        from llmcli.models.catalog import find_entry

        entry = find_entry(reference.name)
        reference = entry.reference if entry else reference
    found = find(reference, locations)
    if found:
        return found
    if isinstance(reference, RemoteReference):
        raise ModelNotDownloadedError(reference)
    if isinstance(reference, PathReference):
        raise _file_not_found(reference.path)
    raise ModelNotFoundError(f"model '{reference}' not found", _suggestion(str(reference), locations))


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
    names = {name: name for name in (STARTER, *locations.aliases, *model_files_in(Path.cwd()))}
    for cached in cached_models(locations.hub):
        names[cached.repo] = names[cached.repo.partition("/")[2]] = names[cached.variant.name] = cached.repo
    for folder in locations.folders:
        names |= {model.name: model.name for model in models_in_folder(folder)}
    for folder, program in stores_not_imported(locations):
        names |= {one.name: one.name if program.has_names else str(one.path) for one in program.models_in(folder)}
    for reference in [name for name in names if name.startswith("ollama:")]:
        tagged = reference.removeprefix("ollama:")
        names.setdefault(tagged, reference)
        names.setdefault(tagged.partition(":")[0], reference)
    return names


def _file_not_found(text: str) -> ModelNotFoundError:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir():
        return ModelNotFoundError(f"{path} is a folder without .gguf files", FORMS)
    if os.path.lexists(path):
        return ModelNotFoundError(f"{path} is not a regular file, or a link to a missing file", FORMS)
    near = _nearest(path.name, {name: name for name in model_files_in(path.parent)})
    why = "" if path.parent.is_dir() else f" (the folder {path.parent} does not exist)"
    return ModelNotFoundError(f"file not found: {path}{why}", f"did you mean '{near}'?" if near else FORMS)


def _nearest(name: str, candidates: dict[str, str]) -> str:
    """The value of the key most like `name`, with or without `.gguf`; "" when none is similar."""
    without = {key.removesuffix(".gguf"): value for key, value in candidates.items()}
    near = nearest(name, without | candidates, 1)
    return (without | candidates)[near[0]] if near else ""
