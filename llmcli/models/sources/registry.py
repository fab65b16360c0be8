"""All sources of models, and the questions that go to each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import FORMS, Reference, RemoteReference, is_repo
from llmcli.models.sources.folder import Folder, Program, first_named
from llmcli.models.sources.hub import HUB
from llmcli.models.sources.lmstudio import LmStudio
from llmcli.models.sources.ollama import OLLAMA
from llmcli.models.sources.source import DownloadPlan, InstalledModel, Notify, Source
from llmcli.models.sources.starter import Starter
from llmcli.models.sources.url import Url

# In the order in which they are asked. The Hub takes every text with a slash or a colon, and a folder takes the rest:
# a source with texts of its own comes before them.
SOURCES: tuple[Source, ...] = (Starter(), OLLAMA, HUB, Url(), LmStudio(), Folder())
PROGRAMS = tuple(source for source in SOURCES if isinstance(source, Program))


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
    found = next(filter(None, (source.parse(text) for source in SOURCES)), None)
    if found is None:
        raise ModelNotFoundError(f"'{text}' is not a valid model reference", FORMS)
    return found


def find(reference: Reference, locations: ModelLocations) -> ModelFile | None:
    """The model of the first source that has it; None when no source does. Raises what `Source.find` raises."""
    return next(filter(None, (source.find(reference, locations) for source in SOURCES)), None)


def plan_download(
    reference: RemoteReference, locations: ModelLocations, memory: int, notify: Notify, projector: bool = False
) -> DownloadPlan:
    """What a download of the reference will fetch. Raises what `Source.plan` raises."""
    plans = (source.plan(reference, locations, memory, notify, projector) for source in SOURCES)
    return next(filter(None, plans))


def models_in_folder(folder: Path) -> list[InstalledModel]:
    """The models in a folder, by the program to which it belongs. Never raises."""
    return next(program for program in PROGRAMS if program.is_store(folder)).models_in(folder)


def find_in_folders(name: str, folders: Sequence[Path]) -> InstalledModel | None:
    """The first model with this name or file name; an exact match comes before one that differs in case."""
    found = [model for folder in folders for model in models_in_folder(folder)]
    return first_named(found, name, lambda model: [model.name, *(part.name for part in model.parts)])


def stores_not_imported(locations: ModelLocations) -> list[tuple[Path, Program]]:
    """The folders of other programs that the user did not import."""
    found = [(folder, program) for program in PROGRAMS for folder in program.folders()]
    return [(folder, program) for folder, program in found if folder not in locations.folders]
