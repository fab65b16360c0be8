"""Models in folders, of the user or of a program: which files are models, their names, and what is skipped."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

from llmcli.errors import LlmcliError
from llmcli.models.gguf.parser import MAGIC, is_later_part, parts_of, stem_of
from llmcli.models.hub.repo_files import precision_rank
from llmcli.models.reference import Reference, parse_local
from llmcli.models.sources.source import InstalledModel, Source

MAX_ENTRIES = 10_000  # names read in one search
MAX_DEPTH = 5  # levels of folders below the one given
_HUB_FOLDERS = ("blobs", "snapshots")  # the Hub's cache has its own reader
_PROJECTOR = re.compile(r"(?:^|(?<=[-._]))mmproj[-._]?", re.I)
_IMATRIX = re.compile(r"imatrix(?:[-._]|$)", re.I)  # calibration data, not a model


class Program(Source):
    """Another program that keeps models in folders: they are read in place, and never changed."""

    def search_paths(self) -> list[Path]:
        """All folders in which it may keep models, whether they exist or not, the one in use first."""
        return []

    def is_store(self, folder: Path) -> bool:
        """Whether this is a folder with models of the program."""
        return folder in self.search_paths() and os.path.isdir(folder)  # False, not an error, for an impossible path

    def folders(self) -> list[Path]:
        """Its folders on this machine, without duplicates."""
        found: dict[str, Path] = {}
        for folder in filter(self.is_store, self.search_paths()):
            found.setdefault(os.path.realpath(folder), folder)
        return list(found.values())

    def models_in(self, folder: Path) -> list[InstalledModel]:
        """The complete models in one of its folders and the subfolders, sorted by name. Never raises.

        Files that cannot be read, lack a part, are hidden or belong to the Hub's cache are skipped.
        """
        found: list[InstalledModel] = []
        for files in _gguf_files(folder):
            projectors = [path for path in files if _PROJECTOR.search(path.name)]
            found += filter(None, (_model(path, self, projectors) for path in files if not _is_companion(path)))
        return sorted(found, key=lambda model: (model.name.casefold(), model.name, model.path))


class Folder(Program):
    """Any folder that the user imported."""

    name = "folder"

    def parse(self, text: str) -> Reference | None:
        return parse_local(text)

    def is_store(self, folder: Path) -> bool:
        return True


class File(Source):
    """A single file that is in no folder of models: the user gave its path."""

    name = "file"


SOURCE, FILE = Folder(), File()


def skipped_files(folder: Path, models: Sequence[InstalledModel]) -> list[Path]:
    """The files in a folder that look like models, and are in none of its models: damaged, or without all parts."""
    parts = {part for model in models for part in model.parts}
    return [path for files in _gguf_files(folder) for path in files if path not in parts and not _is_companion(path)]


def _is_companion(path: Path) -> bool:
    """True for the projector of another model, and for calibration data."""
    return bool(_PROJECTOR.search(path.name) or _IMATRIX.match(path.stem))


def first_named(
    found: Sequence[InstalledModel], name: str, names: Callable[[InstalledModel], Sequence[str]]
) -> InstalledModel | None:
    """The first model with this name; an exact match comes before one that differs in case."""
    for fold in (str, str.casefold):
        for model in found:
            if fold(name) in map(fold, names(model)):
                return model
    return None


def _model(path: Path, source: Source, projectors: Sequence[Path]) -> InstalledModel | None:
    if is_later_part(path.name):
        return None
    try:
        parts = parts_of(path)
        size = sum(part.stat().st_size for part in parts)
        with path.open("rb", buffering=0) as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
    except (LlmcliError, OSError):  # a part is missing
        return None
    name = stem_of(path)
    projector = min(projectors, key=lambda other: _projector_key(other, name), default=None)
    return InstalledModel(name, source, parts, size, ("",) * len(parts), projector)


def _projector_key(projector: Path, model: str) -> tuple[int, int, str]:
    """Sort key: the projector that shares the most leading words with the model's name first, then by precision."""
    words = re.split(r"[-._]", _PROJECTOR.sub("", projector.stem, count=1).casefold())
    pairs = zip(words, re.split(r"[-._]", model.casefold()), strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return (-shared, precision_rank(projector.name), projector.name)


def _gguf_files(folder: Path) -> Iterator[list[Path]]:
    """The .gguf files of each folder, breadth first, up to MAX_DEPTH levels and MAX_ENTRIES names."""
    pending: deque[tuple[str, int]] = deque([(str(folder), 0)])
    seen: set[tuple[int, int]] = set()
    left = MAX_ENTRIES
    while pending and left > 0:
        current, depth = pending.popleft()
        try:
            info = os.stat(current)
        except (OSError, ValueError):
            continue
        if (info.st_dev, info.st_ino) in seen:  # links can form a circle
            continue
        seen.add((info.st_dev, info.st_ino))
        names = list_names(current, left)
        left -= len(names)
        if depth < MAX_DEPTH:
            below = (name for name in names if name not in _HUB_FOLDERS and not name.startswith("models--"))
            pending += ((os.path.join(current, name), depth + 1) for name in below)
        files = (Path(current, name) for name in names if name.lower().endswith(".gguf"))
        yield [path for path in files if path.is_file()]


def list_names(folder: str | Path, limit: int) -> list[str]:
    """The sorted names in a folder that are not hidden; [] if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, limit) if not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def home_folder() -> Path | None:
    """The home folder; None for a user without one."""
    try:
        return Path.home()
    except RuntimeError:
        return None
