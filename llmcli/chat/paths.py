"""Where llmcli keeps its own files: configuration, data and cache."""

import os
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.models.private_files import make_private_folder


def config_dir() -> Path:
    """The folder of `config.toml`; `LLMCLI_HOME` moves it, as it moves the others."""
    return _folder("config")


def data_dir() -> Path:
    """The folder of sessions and history."""
    return _folder("data")


def cache_dir() -> Path:
    """The folder of what can be fetched or computed again: the starter, the memory of probed files."""
    return _folder("cache")


def config_file() -> Path:
    return config_dir() / "config.toml"


def _folder(kind: str) -> Path:
    home = os.environ.get("LLMCLI_HOME")
    if home:
        return Path(os.path.expanduser(home)) / kind
    import platformdirs

    try:
        return Path(getattr(platformdirs, f"user_{kind}_dir")("llmcli", appauthor=False))
    except RuntimeError:  # no HOME, and nobody knows this user
        raise DiskError("there is no home folder", "set LLMCLI_HOME to a folder you may write") from None


def make_private(folder: Path) -> Path:
    """Create `folder` for this user alone, if it is not there.

    Raises:
        DiskError: when that is not possible.
    """
    try:
        make_private_folder(folder)
    except OSError as error:
        raise DiskError(
            f"cannot create {folder}: {error.strerror}", "set LLMCLI_HOME to a folder you may write"
        ) from None
    return folder
