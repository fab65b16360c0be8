"""All sources of models, and the questions that go to each of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import ModelNotFoundError
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import FORMS, Reference, RemoteReference, is_repo, not_a_reference
from llmcli.models.sources.source import DownloadPlan, InstalledModel, Notify, Source

if TYPE_CHECKING:
    from llmcli.models.sources.folder import Program

# Modules with a `SOURCE`, in the order in which they are asked. A folder takes every path and plain name: it is last.
SOURCES = (
    "llmcli.models.sources.starter",
    "llmcli.models.sources.hub",
    "llmcli.models.sources.url",
    "llmcli.models.sources.ollama",
    "llmcli.models.sources.lmstudio",
    "llmcli.models.sources.folder",
)


def sources() -> Iterator[Source]:
    """Each source, imported when it is asked: a model of the Hub does not wait for the modules of the others."""
    return map(_load, SOURCES)


def programs() -> Iterator["Program"]:
    """The sources that are programs with models in folders; the last one takes any folder."""
    from llmcli.models.sources.folder import Program

    return (source for source in sources() if isinstance(source, Program))


@cache
def _load(module: str) -> Source:
    source: Source = import_module(module).SOURCE
    return source


def parse(text: str, aliases: Mapping[str, str] | None = None) -> Reference:
    """Parse `text` without access to the disk; an alias is resolved once.

    Raises:
        ModelNotFoundError: `text` is not a valid reference; the hint has the form that was probably meant.
    """
    text = (aliases or {}).get(text, text).strip()
    if text.count("/") == 2 and is_repo(text.removesuffix("/")):  # a shell adds a slash when it completes a folder
        text = text.removesuffix("/")
    if not text or not text.isprintable():
        raise ModelNotFoundError("the model reference is empty or contains control characters", FORMS)
    found = next(filter(None, (source.parse(text) for source in sources())), None)
    if found is None:
        raise not_a_reference(text)
    return found


def find(reference: Reference, locations: ModelLocations) -> ModelFile | None:
    """The model of the first source that has it; None when no source does. Raises what `Source.find` raises."""
    return next(filter(None, (source.find(reference, locations) for source in sources())), None)


def plan_download(
    reference: RemoteReference, locations: ModelLocations, memory: int, notify: Notify, projector: bool = False
) -> DownloadPlan:
    """What a download of the reference will fetch. Raises what `Source.plan` raises."""
    plans = (source.plan(reference, locations, memory, notify, projector) for source in sources())
    return next(filter(None, plans))


def models_in_folder(folder: Path) -> list[InstalledModel]:
    """The models in a folder, by the program to which it belongs. Never raises."""
    return next(program for program in programs() if program.is_store(folder)).models_in(folder)


def find_in_folders(name: str, folders: Sequence[Path]) -> InstalledModel | None:
    """The first model with this name or file name; an exact match comes before one that differs in case."""
    from llmcli.models.sources.folder import first_named

    found = [model for folder in folders for model in models_in_folder(folder)]
    return first_named(found, name, lambda model: [model.name, *(part.name for part in model.parts)])


def stores_not_imported(locations: ModelLocations) -> list[tuple[Path, "Program"]]:
    """The folders of other programs that the user did not import."""
    found = [(folder, program) for program in programs() for folder in program.folders()]
    return [(folder, program) for folder, program in found if folder not in locations.folders]
