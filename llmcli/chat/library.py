"""The model locations for the current settings, and the download that a reference means."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.config.file import aliases
from llmcli.files import cache_dir, data_dir
from llmcli.models.find import find
from llmcli.models.hub.environment import endpoint
from llmcli.models.locations import Shelf
from llmcli.models.starter import STARTER
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.models.reference import HubReference, UrlReference


def shelf(settings: Settings) -> Shelf:
    """The locations of models for these settings.

    Raises:
        UsageError: the aliases of the configuration file are not valid.
    """
    folders = tuple(Path(os.path.expanduser(folder)).absolute() for folder in settings.model_folders)
    return Shelf(cache_dir(), data_dir(), folders=folders, aliases=aliases(), offline=settings.offline)


def to_download(text: str, settings: Settings) -> "HubReference | UrlReference | None":
    """The reference to download; None for the starter and for models that are not downloaded (files, Ollama's).

    Raises:
        ModelNotFoundError: the text is not a valid reference, or an unknown name.
    """
    from llmcli.models.catalog import entry
    from llmcli.models.reference import HubReference, NameReference, UrlReference, parse

    place = shelf(settings)
    reference = parse(text, place.aliases, endpoint())
    if isinstance(reference, HubReference | UrlReference):
        return reference
    known = entry(reference.name) if isinstance(reference, NameReference) else None
    if known:
        return HubReference(known.repo, known.quantization)
    if str(reference) != STARTER:
        find(text, place)
    return None
