"""Which file on this machine does a model reference lead to? Nothing is asked of the network here.

The starter and a path are looked for here, which every start does; names are for `find_named`.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import DiskError, ModelNotFoundError
from llmcli.models.gguf.splits import is_later_part, parts_of, stem_of
from llmcli.models.shelf import Shelf
from llmcli.models.starter import STARTER, starter_path

if TYPE_CHECKING:
    from llmcli.models.reference import HubReference, UrlReference

_SHOWN = 5  # names in one message


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. `path` is the first of `parts`; `trusted`: we fetched it and know this very file."""

    path: Path
    parts: tuple[Path, ...]
    name: str
    trusted: bool


class NotHereError(ModelNotFoundError):
    """A model that is not on this machine, but could be fetched: `reference` says from where."""

    def __init__(self, reference: "HubReference | UrlReference") -> None:
        super().__init__(f"{reference} is not on this machine", f"`llmcli pull {reference}` downloads it.")
        self.reference = reference


def find(text: str, shelf: Shelf) -> ModelFile:
    """The model that the reference `text` leads to; the starter's place even where it has not been fetched.

    Raises:
        NotHereError: when it is elsewhere and can be fetched.
        ModelNotFoundError: when it leads nowhere (the hint has the nearest name).
        ModelInvalidError: for a split model or a store's entry that cannot be.
    """
    text = shelf.aliases.get(text, text)
    if text == STARTER:
        path = starter_path(shelf.cache_dir)
        return ModelFile(path, (path,), STARTER, trusted=True)
    if text.strip() and "\0" not in text:
        on_disk = _on_disk(text)
        if on_disk:
            return on_disk
    from llmcli.models.find_named import find_named  # 25 ms that a path does not need

    return find_named(text, shelf)


def _on_disk(text: str) -> ModelFile | None:
    """The file at this path, if there is one; a file called `starter` is reached as ./starter."""
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        found, folder = path.is_file(), path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelNotFoundError("the model reference is longer than a file name can be") from None
        raise DiskError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
    if found:
        # Links stay as they are: in the hub's cache only the link has the name of the part.
        parts = parts_of(path)
        return ModelFile(parts[0], parts, stem_of(parts[0]), trusted=False)
    names = models_in(path) if folder else []
    if names:
        raise _is_a_folder(path, names)
    return None


def _is_a_folder(path: Path, names: list[str]) -> ModelNotFoundError:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ModelNotFoundError(
        f"{path} is a folder, not a model", f"Name one of its files: {', '.join(names[:_SHOWN])}{more}."
    )


def models_in(folder: Path) -> list[str]:
    """The .gguf files in a folder by name, of a split model the first part; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".gguf"))
    except OSError:
        return []
    return [name for name in names if not is_later_part(name)]
