"""Which models lie in a folder?

Models that people or other programs have put there are used in place: nothing is written, and nothing is read
but names and sizes. Whether a file really holds a model, only `read_header` says.
"""

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from llmcli.errors import LlmcliError
from llmcli.models import lmstudio
from llmcli.models.gguf.splits import is_later_part, parts_of, stem_of

DEEPEST = 5  # levels of folders below the one given
MOST_ENTRIES = 10_000  # names looked at in one search
USUAL = "Q4_K_M"
Source = Literal["folder", "ollama", "lmstudio"]

_ENDING = ".gguf"
_NOT_OURS = ("blobs", "snapshots")  # the hub's cache, which has its own reader
_PROJECTOR = re.compile(r"(?:^|(?<=[-._]))mmproj[-._]?", re.I)
_NO_MODEL = re.compile(r"imatrix(?:[-._]|$)", re.I)  # data for making models
_PRECISIONS = ("f16", "bf16", "q8_0", "f32")  # of a projector, best first
_QUANT = re.compile(r"[A-Za-z]\d")  # not the K_M of Q4_K_M
_OWNER_OR_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class FoundModel:
    """A model that is on this disk already.

    `name` is what a user may type for it; `parts` are all its files, the first part first, and `size` their bytes.
    `sha256` is what the store says of the single file, unchecked. `projector` lets it see (mmproj).
    """

    name: str
    parts: tuple[Path, ...]
    size: int
    source: Source
    sha256: str | None = None
    projector: Path | None = None

    @property
    def path(self) -> Path:
        """The file to load: the first part."""
        return self.parts[0]


def is_ollama_store(folder: Path) -> bool:
    """True for a folder laid out as Ollama keeps its models."""
    return os.path.isdir(folder / "manifests") and os.path.isdir(folder / "blobs")


def models_in(folder: Path) -> list[FoundModel]:
    """The whole models in a folder and below it, by name; an Ollama store gives its own. Never raises.

    What cannot be read, lacks a part, is hidden or belongs to the hub's cache is left out.
    """
    if is_ollama_store(folder):
        from llmcli.models import ollama  # it needs this module

        return ollama.models(folder)
    return _models_below(folder, "lmstudio" if folder in lmstudio.folders() else "folder")


def find_named(name: str, folders: Sequence[Path]) -> FoundModel | None:
    """The first model with this name or with a file of this name; the exact one before one in another case."""
    found = [model for folder in folders for model in models_in(folder)]
    return _first(found, name, lambda model: [model.name, *(part.name for part in model.parts)])


def find_repo(repo: str, quant: str | None, file: str | None, folders: Sequence[Path]) -> FoundModel | None:
    """The model from the hub's `owner/repo` that a folder has as <folder>/owner/repo/FILE.gguf, as LM Studio does.

    `file` is a path in the repository, `quant` a part of the file's name. With neither: the only model there, or
    the Q4_K_M of several. Names are only compared, so that none leads out of a folder.
    """
    for folder in folders:
        place = _repo_folder(folder, repo)
        found = _models_below(place, "lmstudio") if place else []
        model = _chosen(found, place, quant, file) if place else None
        if model:
            return model
    return None


def _chosen(found: Sequence[FoundModel], place: Path, quant: str | None, file: str | None) -> FoundModel | None:
    if file:
        return _first(found, file, lambda model: [part.relative_to(place).as_posix() for part in model.parts])
    if quant is None and len(found) == 1:
        return found[0]
    if quant and not _QUANT.search(quant):
        return None
    component = re.compile(rf"[-._]{re.escape(quant or USUAL)}(?:[-.]|$)", re.I)
    fitting = [model for model in found if component.search(f".{model.name}")]
    return min(fitting, key=lambda model: len(model.name), default=None)  # Q4_K_M itself before UD-Q4_K_M


def _first(found: Sequence[FoundModel], wanted: str, names: Callable[[FoundModel], Sequence[str]]) -> FoundModel | None:
    for model in found:
        if wanted in names(model):
            return model
    for model in found:
        if wanted.casefold() in map(str.casefold, names(model)):
            return model
    return None


def _repo_folder(folder: Path, repo: str) -> Path | None:
    owner, _, name = repo.partition("/")
    if not _OWNER_OR_REPO.fullmatch(owner) or not _OWNER_OR_REPO.fullmatch(name):
        return None
    place: Path | None = folder
    for wanted in (owner, name):
        place = _child(place, wanted) if place else None
    return place


def _child(folder: Path, name: str) -> Path | None:
    """The folder of this name, or else of this name in another case, as the hub does not mind it."""
    if os.path.isdir(folder / name):
        return folder / name
    same = (other for other in _names(folder, MOST_ENTRIES) if other.casefold() == name.casefold())
    return next((folder / other for other in same if os.path.isdir(folder / other)), None)


def _models_below(folder: Path, source: Source) -> list[FoundModel]:
    found: list[FoundModel] = []
    for files in _gguf_files(folder):
        projectors = [path for path in files if _PROJECTOR.search(path.name)]
        for path in files:
            model = None if path in projectors or _NO_MODEL.match(_stem(path)) else _model(path, source, projectors)
            if model:
                found.append(model)
    return sorted(found, key=lambda model: (model.name.casefold(), model.name, model.path))


def _model(path: Path, source: Source, projectors: Sequence[Path]) -> FoundModel | None:
    if is_later_part(_lowered(path).name):
        return None
    try:
        parts = parts_of(path)
        size = sum(part.stat().st_size for part in parts)
    except (LlmcliError, OSError):  # a part is missing
        return None
    name = _stem(path)
    projector = min(projectors, key=lambda other: _distance(other, name), default=None)
    return FoundModel(name, parts, size, source, None, projector)


def _distance(projector: Path, model: str) -> tuple[int, int, str]:
    """Sorts the projectors of a folder: first the one whose name begins as the model's does, then by precision."""
    words = re.split(r"[-._]", _PROJECTOR.sub("", _stem(projector), count=1).casefold())
    shared = 0
    for mine, its in zip(words, re.split(r"[-._]", model.casefold()), strict=False):
        if mine != its:
            break
        shared += 1
    ending = re.split(r"[-.]", projector.name.casefold())[-2].removeprefix("mmproj_")
    rank = _PRECISIONS.index(ending) if ending in _PRECISIONS else len(_PRECISIONS)
    return (-shared, rank, projector.name)


def _lowered(path: Path) -> Path:
    """The path with its ending as `splits` knows it: models named X.GGUF exist."""
    return path.with_name(path.name[: -len(_ENDING)] + _ENDING)


def _stem(path: Path) -> str:
    return stem_of(_lowered(path))


def _gguf_files(folder: Path) -> Iterator[list[Path]]:
    """The .gguf files of each folder, the given one first and deeper ones later, within the bounds."""
    pending: deque[tuple[str, int]] = deque([(str(folder), 0)])
    seen: set[tuple[int, int]] = set()
    left = MOST_ENTRIES
    while pending and left > 0:
        place, depth = pending.popleft()
        identity = _identity(place)
        if identity is None or identity in seen:  # links may lead in a circle
            continue
        seen.add(identity)
        names = _names(place, left)
        left -= len(names)
        if depth < DEEPEST:
            pending += [(os.path.join(place, name), depth + 1) for name in names if _may_enter(name)]
        yield [Path(place, name) for name in names if _is_gguf(place, name)]


def _identity(place: str) -> tuple[int, int] | None:
    """What tells this folder from every other; None for what is no folder."""
    try:
        info = os.stat(place)
    except (OSError, ValueError):
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISDIR(info.st_mode) else None


def _names(place: str | Path, most: int) -> list[str]:
    """What lies in a folder and is not hidden, sorted; nothing where it cannot be read."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in islice(entries, most) if not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _may_enter(name: str) -> bool:
    return name not in _NOT_OURS and not name.startswith("models--")


def _is_gguf(place: str, name: str) -> bool:
    return name.lower().endswith(_ENDING) and os.path.isfile(os.path.join(place, name))
