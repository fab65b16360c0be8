"""The folders of llmcli's own files: configuration, data and cache."""

import os
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import make_private_folder

_WRITABLE = "set LLMCLI_HOME to a folder that you can write to"


def config_dir() -> Path:
    """The folder of `config.toml`; `LLMCLI_HOME` moves it and the others."""
    return _folder("config")


def data_dir() -> Path:
    """The folder of sessions and history."""
    return _folder("data")


def cache_dir() -> Path:
    """The folder of files that can be made again: the starter, the list of checked models."""
    return _folder("cache")


def config_file() -> Path:
    """The configuration file, which may be missing."""
    return config_dir() / "config.toml"


def _folder(kind: str) -> Path:
    home = os.environ.get("LLMCLI_HOME")
    if home:
        return Path(os.path.expanduser(home)) / kind
    import platformdirs

    try:
        return Path(getattr(platformdirs, f"user_{kind}_dir")("llmcli", appauthor=False))
    except RuntimeError:  # HOME is not set, and the user is not in the system's list
        raise DiskError("cannot find the home folder", _WRITABLE) from None


def make_private(folder: Path) -> Path:
    """Create `folder`, which only this user can read, if it does not exist.

    Raises:
        DiskError: when that is not possible.
    """
    try:
        make_private_folder(folder)
    except OSError as error:
        raise DiskError(f"cannot create {folder}: {error.strerror}", _WRITABLE) from None
    return folder
