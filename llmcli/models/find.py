"""Find the file on this machine for a model reference. This module never uses the network.

It resolves the starter and paths, because every start needs them; `find_named` resolves names.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import DiskError, ModelNotFoundError
from llmcli.models.gguf.splits import is_later_part, parts_of, stem_of
from llmcli.models.locations import Shelf
from llmcli.models.starter import STARTER, starter_path

if TYPE_CHECKING:
    from llmcli.models.reference import HubReference, UrlReference

_MAX_NAMES = 5  # in one message


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. `path` is the first of `parts`; `trusted` is True if llmcli downloaded and verified it."""

    path: Path
    parts: tuple[Path, ...]
    name: str
    trusted: bool


class NotHereError(ModelNotFoundError):
    """The model is not on this machine, but `reference` can be downloaded."""

    def __init__(self, reference: "HubReference | UrlReference") -> None:
        super().__init__(f"model '{reference}' is not downloaded", f"download it with `llmcli pull {reference}`")
        self.reference = reference


def find(text: str, shelf: Shelf) -> ModelFile:
    """The model for the reference `text`; for the starter its path, even if it is not downloaded yet.

    Raises:
        NotHereError: the model is not downloaded, but can be.
        ModelNotFoundError: there is no such model (the hint has the nearest name).
        ModelInvalidError: a split model or an entry of Ollama's store is invalid.
    """
    text = shelf.aliases.get(text, text)
    if text == STARTER:
        path = starter_path(shelf.cache_dir)
        return ModelFile(path, (path,), STARTER, trusted=True)
    if text.strip() and "\0" not in text:
        on_disk = _on_disk(text)
        if on_disk:
            return on_disk
    from llmcli.models.lookup import find_named  # 25 ms that a path does not need

    return find_named(text, shelf)


def _on_disk(text: str) -> ModelFile | None:
    """The file at this path, if there is one (a file called `starter` must be given as ./starter)."""
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelNotFoundError("the model reference is too long for a file name") from None
        raise DiskError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if is_file:
        # Do not resolve links: in the Hub's cache only the link has the name of the part.
        parts = parts_of(path)
        return ModelFile(parts[0], parts, stem_of(parts[0]), trusted=False)
    names = models_in(path) if is_folder else []
    if names:
        raise _folder_error(path, names)
    return None


def _folder_error(path: Path, names: list[str]) -> ModelNotFoundError:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ModelNotFoundError(
        f"{path} is a folder, not a model", f"give one of its files: {', '.join(names[:_MAX_NAMES])}{more}"
    )


def models_in(folder: Path) -> list[str]:
    """The sorted .gguf file names in a folder (the first part of a split model); [] if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".gguf"))
    except OSError:
        return []
    return [name for name in names if not is_later_part(name)]
