"""Find the file on this machine for a model reference. This module never uses the network.

It resolves the starter and paths, because every start needs them; `sources.registry` resolves names.
"""

import errno
import os
import stat
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.files import read_error
from llmcli.models.gguf.parser import model_files_in, parts_of, stem_of
from llmcli.models.locations import LATEST, STARTER, ModelFile, ModelLocations, starter_path

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
_INVALID_NAME = 123  # ERROR_INVALID_NAME of Windows: the reference has a colon, such as that of a repository
_MAX_NAMES = 5  # in one message


def find_model_file(text: str, locations: ModelLocations) -> ModelFile:
    """The model for the reference `text`; for the starter its path, even if it is not downloaded yet.

    Raises ModelNotDownloadedError (it can be downloaded), ModelNotFoundError (its hint has the nearest name) or
    ModelInvalidError (a split model or an entry of Ollama's store).
    """
    text = locations.aliases.get(text, text)
    if text.removesuffix(LATEST) == STARTER:
        path = starter_path(locations.cache_dir)
        return ModelFile(path, (path,), STARTER, trusted=True)
    path = Path(os.path.abspath(os.path.expanduser(text)))  # a file called `starter` must be given as ./starter
    mode = _mode(path)
    if stat.S_ISREG(mode):
        # Do not resolve links: in the Hub's cache only the link has the name of the part.
        parts = parts_of(path)
        return ModelFile(parts[0], parts, stem_of(parts[0]))
    if stat.S_ISDIR(mode) and text.strip() and (names := model_files_in(path)):
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        hint = f"give one of its files: {', '.join(names[:_MAX_NAMES])}{more}"
        raise ModelNotFoundError(f"{path} is a folder, not a model", hint)
    from llmcli.models.sources.registry import find_by_name  # 25 ms that a path does not need

    return find_by_name(text, locations)


def _mode(path: Path) -> int:
    """What is at a path, as `os.stat` tells it; 0 for nothing. Since Python 3.14 `is_file` hides what went wrong."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelNotFoundError("the model reference is too long for a file name") from None
        if error.errno in _NOTHING or getattr(error, "winerror", None) == _INVALID_NAME:
            return 0
        raise read_error(path, error) from error
    except ValueError:  # a NUL character
        return 0
