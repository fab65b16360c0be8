"""The models this user can reach: the shelf of this machine, made from the settings in force."""

from pathlib import Path

from llmcli.chat.config import aliases
from llmcli.chat.paths import cache_dir, data_dir
from llmcli.models.shelf import Shelf
from llmcli.params.settings import Settings


def shelf(settings: Settings) -> Shelf:
    """Where models are looked for under these settings.

    Raises:
        UsageError: when the configuration file's aliases are not names for models.
    """
    folders = tuple(Path(folder).expanduser().absolute() for folder in settings.model_folders)
    return Shelf(cache_dir(), data_dir(), folders=folders, aliases=aliases(), offline=settings.offline)
