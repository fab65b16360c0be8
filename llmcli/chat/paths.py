"""Where llmcli keeps its own files: configuration, data and cache."""

import os
from pathlib import Path

from llmcli.errors import DiskError


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
        return Path(home).expanduser() / kind
    import platformdirs

    return Path(getattr(platformdirs, f"user_{kind}_dir")("llmcli", appauthor=False))


def make_private(folder: Path) -> Path:
    """Create `folder` for this user alone, if it is not there.

    Raises:
        DiskError: when that is not possible.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"cannot create {folder}: {error.strerror}", "set LLMCLI_HOME to a folder you may write"
        ) from None
    return folder
