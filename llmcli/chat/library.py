"""The models this user can reach: the shelf of this machine, made from the settings in force."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.config import aliases
from llmcli.chat.paths import cache_dir, data_dir
from llmcli.models.find import find
from llmcli.models.hub.environment import endpoint
from llmcli.models.shelf import Shelf
from llmcli.models.starter import STARTER
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.models.reference import HubReference, UrlReference


def shelf(settings: Settings) -> Shelf:
    """Where models are looked for under these settings.

    Raises:
        UsageError: when the configuration file's aliases are not names for models.
    """
    folders = tuple(Path(os.path.expanduser(folder)).absolute() for folder in settings.model_folders)
    return Shelf(cache_dir(), data_dir(), folders=folders, aliases=aliases(), offline=settings.offline)


def to_download(text: str, settings: Settings) -> "HubReference | UrlReference | None":
    """What the hub or a server is to be asked for; None for what comes another way (the starter) or is here anyway.

    Raises:
        ModelNotFoundError: when the text is no reference, or a name that leads nowhere.
    """
    from llmcli.models.catalogue import entry
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
