"""All sources of models, and the questions that go to each of them: parse, find, plan a download."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.models.catalog import catalog, find_entry
from llmcli.models.gguf.parser import model_files_in
from llmcli.models.hub.cache import cached_models
from llmcli.models.locations import LATEST, STARTER, ModelFile, ModelLocations, ModelNotDownloadedError, Notify
from llmcli.models.reference import FORMS, NameReference, PathReference, Reference, RemoteReference, form_error, is_repo
from llmcli.models.sources.folder import Program, first_named
from llmcli.models.sources.source import DownloadPlan, InstalledModel, Source
from llmcli.text import nearest

# The first modules to ask, and the last: `url` takes each URL that is left, and `folder` each path and plain name.
_FIRST, _LAST = ("starter", "hub", "ollama"), ("url", "lmstudio", "folder")


def sources() -> Iterator[Source]:
    """The `SOURCE` of each module of this package, which is imported when it is asked: most are not needed."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__", "registry", "source"}
    names = (*_FIRST, *sorted(found.difference(_FIRST, _LAST)), *_LAST)
    return (import_module(f"{__package__}.{name}").SOURCE for name in names)


def programs() -> Iterator[Program]:
    """The sources that are programs with models in folders; the last one takes any folder."""
    return (source for source in sources() if isinstance(source, Program))


def parse(text: str, aliases: Mapping[str, str] | None = None) -> Reference:
    """Parse `text` without access to the disk; an alias is resolved once.

    Raises ModelNotFoundError if it is not valid; the hint has the form that was probably meant.
    """
    text = (aliases or {}).get(text, text).strip()
    if not any(text.startswith(f"{source.name}:") for source in sources() if source.has_names):
        text = text.removesuffix(LATEST) or text
    if text.count("/") == 2 and is_repo(text.removesuffix("/")):  # a shell adds a slash when it completes a folder
        text = text.removesuffix("/")
    if not text or not text.isprintable():
        raise ModelNotFoundError("the model reference is empty or contains control characters", FORMS)
    if found := next(filter(None, (source.parse(text) for source in sources())), None):
        return found
    error = form_error(text)
    name, _, quant = text.partition(":")
    if entry := find_entry(name):  # its short name is one quantization of a repository
        error.hint = f"did you mean '{entry.repo}:{quant}'?"
    raise error


def parse_remote(text: str, locations: ModelLocations) -> RemoteReference | None:
    """The reference to download; None for the starter, and for what cannot be downloaded (files, names, Ollama's)."""
    reference = parse(text, locations.aliases)
    if isinstance(reference, NameReference) and (entry := find_entry(reference.text)):
        return entry.reference
    return reference if isinstance(reference, RemoteReference) else None


def find_by_name(text: str, locations: ModelLocations) -> ModelFile:
    """The model for `text`, which is not the path of a file. Raises what `find_model_file` raises."""
    try:
        reference: Reference = parse(text)
    except ModelNotFoundError as error:
        error.hint = _suggestion_of_program(text, locations) or error.hint
        raise
    if isinstance(reference, PathReference | NameReference):
        models = [model for folder in locations.folders for model in models_in_folder(folder)]
        imported = first_named(models, reference.text, lambda model: [model.name, *(part.name for part in model.parts)])
        if imported:
            return ModelFile(imported.path, imported.parts, imported.name)
    if isinstance(reference, NameReference) and (entry := find_entry(reference.text)):
        reference = entry.reference
    if found := next(filter(None, (source.find(reference, locations) for source in sources())), None):
        return found
    if isinstance(reference, RemoteReference):
        missing = ModelNotDownloadedError(reference)
        if same := _suggestion_of_program(text, locations):
            missing.hint = f"{same} if not, {missing.hint}"
        raise missing
    if isinstance(reference, PathReference):
        raise _file_not_found(reference.text)
    raise ModelNotFoundError(f"model '{reference}' not found", _suggestion(str(reference), locations))


def plan_download(reference: RemoteReference, locations: ModelLocations, memory: int, notify: Notify) -> DownloadPlan:
    """What a download of the reference will fetch. Raises what `Source.plan` raises."""
    plans = (source.plan(reference, locations, memory, notify) for source in sources())
    return next(filter(None, plans))


def models_in_folder(folder: Path) -> list[InstalledModel]:
    """The models in a folder, by the program to which it belongs. Never raises."""
    return next(program for program in programs() if program.is_store(folder)).models_in(folder)


def stores_not_imported(locations: ModelLocations) -> list[tuple[Path, Program]]:
    """The folders of other programs that the user did not import."""
    found = [(folder, program) for program in programs() for folder in program.folders()]
    return [(folder, program) for folder, program in found if folder not in locations.folders]


def _suggestion(name: str, locations: ModelLocations) -> str:
    """The hint for an unknown name: a similar model on this machine, then one of the catalog with its size."""
    if target := locations.aliases.get(name):
        return f"'{name}' is an alias of '{target}'; an alias of an alias is not followed: set it to a model"
    if same := _suggestion_of_program(name, locations):
        return same
    names, sizes = _local_names(locations), {entry.name: entry.size for entry in catalog()}
    local, listed = _nearest(name, names), _nearest(name, {entry: entry for entry in sizes})
    download = f"'{listed}' ({sizes.get(listed, 0) / 1e9:.1f} GB to download)"
    is_exact = {name.casefold(), f"{name}.gguf".casefold()} & set(map(str.casefold, names))
    if local and (is_exact or not listed):
        return f"did you mean '{local}'?"
    if local:
        return f"did you mean '{local}' (on this machine) or {download}?"
    return f"did you mean {download}?" if listed else "see `llmcli models list` and `llmcli models recommend`"


def _suggestion_of_program(name: str, locations: ModelLocations) -> str:
    """The hint for a name that is one in another program, such as `llama3.2` of Ollama, or its model; "" if none is."""
    named = [source for source in sources() if source.has_names]
    for source in named:
        reference = f"{source.name}:{name}"
        with suppress(LlmcliError):
            if (parsed := source.parse(reference)) and source.find(parsed, locations):
                return f"did you mean '{reference}'?"
    other = _local_names(locations).get(name.partition(":")[0], "")  # with another tag
    return f"did you mean '{other}'?" if other.partition(":")[0] in [source.name for source in named] else ""


def _local_names(locations: ModelLocations) -> dict[str, str]:
    """The references of all models on this machine, by the names that a user may type for them."""
    names = {name: name for name in (STARTER, *locations.aliases, *model_files_in(Path.cwd()))}
    for cached in cached_models(locations.hub):
        names[cached.repo] = names[cached.repo.partition("/")[2]] = names[cached.variant.name] = cached.repo
    for folder in locations.folders:
        names |= {model.name: model.name for model in models_in_folder(folder)}
    for folder, program in stores_not_imported(locations):
        names |= {one.name: one.name if program.has_names else str(one.path) for one in program.models_in(folder)}
    prefixes = [source.name for source in sources() if source.has_names]
    for reference in sorted(names, key=lambda name: not name.endswith(LATEST)):
        prefix, _, name = reference.partition(":")
        if prefix in prefixes:  # ollama:NAME:TAG can be known as NAME:TAG or NAME
            names.setdefault(name, reference)
            names.setdefault(name.partition(":")[0], reference)
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
