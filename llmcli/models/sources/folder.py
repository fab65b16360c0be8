"""Models in the folders of the user and of LM Studio: listed, and found by name."""

import json
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from llmcli.errors import LlmcliError
from llmcli.models.gguf.splits import is_later_part, parts_of, stem_of
from llmcli.models.hub.repo_files import DEFAULT_QUANTIZATION
from llmcli.models.locations import MAX_ENTRIES, FolderModel, Store
from llmcli.models.sources import ollama

MAX_DEPTH = 5  # levels of folders below the one given
_SUFFIX = ".gguf"
_HUB_FOLDERS = ("blobs", "snapshots")  # the Hub's cache has its own reader
_PROJECTOR = re.compile(r"(?:^|(?<=[-._]))mmproj[-._]?", re.I)
_IMATRIX = re.compile(r"imatrix(?:[-._]|$)", re.I)  # calibration data, not a model
_PRECISIONS = ("f16", "bf16", "q8_0", "f32")  # of a projector, best first
_QUANT = re.compile(r"[A-Za-z]\d")  # not the K_M of Q4_K_M
_OWNER_OR_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_POINTER = ".lmstudio-home-pointer"
_LMSTUDIO_HOMES = (".lmstudio", ".cache/lm-studio")  # older versions use the second one
_LMSTUDIO_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")
_MAX_BYTES = 1 << 20


def models_in_folder(folder: Path) -> list[FolderModel]:
    """The complete models in a folder and its subfolders, or in an Ollama store, sorted by name. Never raises.

    Files that cannot be read, lack a part, are hidden or belong to the Hub's cache are skipped.
    """
    if ollama.is_ollama_store(folder):
        return ollama.models_in_store(folder)
    return _models_below(folder, "lmstudio" if folder in lmstudio_folders() else "folder")


def find_in_folders(name: str, folders: Sequence[Path]) -> FolderModel | None:
    """The first model with this name or file name; an exact match comes before one that differs in case."""
    found = [model for folder in folders for model in models_in_folder(folder)]
    return _first(found, name, lambda model: [model.name, *(part.name for part in model.parts)])


def find_repo_in_folders(repo: str, quant: str | None, file: str | None, folders: Sequence[Path]) -> FolderModel | None:
    """The model of the Hub's `owner/repo` in a folder with LM Studio's layout, <folder>/owner/repo/FILE.gguf.

    `file` is a path in the repository, `quant` a part of the file's name. Without both: the only model, or the
    Q4_K_M of several. Names are only compared, so that none leads out of a folder.
    """
    for folder in folders:
        repo_folder = _repo_folder(folder, repo)
        found = _models_below(repo_folder, "lmstudio") if repo_folder else []
        model = _select(found, repo_folder, quant, file) if repo_folder else None
        if model:
            return model
    return None


def lmstudio_folders() -> list[Path]:
    """The existing folders with LM Studio's models, without duplicates, the one in use first."""
    found: dict[str, Path] = {}
    for folder in lmstudio_search_paths():
        if os.path.isdir(folder):  # False, not an error, for an impossible path
            found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def lmstudio_search_paths() -> list[Path]:
    """All folders in which LM Studio may keep models, whether they exist or not."""
    try:
        home = Path.home()
    except RuntimeError:  # this user has no home
        return []
    homes = [home / name for name in _LMSTUDIO_HOMES]
    moved = _absolute(_read_small(home / _POINTER).partition("\n")[0], home)
    if moved:
        homes.insert(0, moved)
    settings = [folder / "settings.json" for folder in [*homes, *(home / name for name in _LMSTUDIO_SETTINGS)]]
    chosen = [_downloads_folder(path, home) for path in settings]
    return [*(folder for folder in chosen if folder), *(folder / "models" for folder in homes)]


def _select(found: Sequence[FolderModel], folder: Path, quant: str | None, file: str | None) -> FolderModel | None:
    if file:
        return _first(found, file, lambda model: [part.relative_to(folder).as_posix() for part in model.parts])
    if quant is None and len(found) == 1:
        return found[0]
    if quant and not _QUANT.search(quant):
        return None
    component = re.compile(rf"[-._]{re.escape(quant or DEFAULT_QUANTIZATION)}(?:[-.]|$)", re.I)
    fitting = [model for model in found if component.search(f".{model.name}")]
    return min(fitting, key=lambda model: len(model.name), default=None)  # Q4_K_M itself before UD-Q4_K_M


def _first(
    found: Sequence[FolderModel], name: str, names: Callable[[FolderModel], Sequence[str]]
) -> FolderModel | None:
    for model in found:
        if name in names(model):
            return model
    for model in found:
        if name.casefold() in map(str.casefold, names(model)):
            return model
    return None


def _repo_folder(folder: Path, repo: str) -> Path | None:
    names = owner, name = tuple(repo.partition("/")[::2])
    if not _OWNER_OR_REPO.fullmatch(owner) or not _OWNER_OR_REPO.fullmatch(name):
        return None
    found: Path | None = folder
    for part in names:
        found = _subfolder(found, part) if found else None
    return found


def _subfolder(folder: Path, name: str) -> Path | None:
    """The subfolder with this name; without an exact match, one that differs in case (the Hub ignores case)."""
    if os.path.isdir(folder / name):
        return folder / name
    same = (other for other in _list_names(folder, MAX_ENTRIES) if other.casefold() == name.casefold())
    return next((folder / other for other in same if os.path.isdir(folder / other)), None)


def _models_below(folder: Path, source: Store) -> list[FolderModel]:
    found: list[FolderModel] = []
    for files in _gguf_files(folder):
        projectors = [path for path in files if _PROJECTOR.search(path.name)]
        for path in files:
            model = None if path in projectors or _IMATRIX.match(_stem(path)) else _model(path, source, projectors)
            if model:
                found.append(model)
    return sorted(found, key=lambda model: (model.name.casefold(), model.name, model.path))


def _model(path: Path, source: Store, projectors: Sequence[Path]) -> FolderModel | None:
    if is_later_part(_with_lower_suffix(path).name):
        return None
    try:
        parts = parts_of(path)
        size = sum(part.stat().st_size for part in parts)
    except (LlmcliError, OSError):  # a part is missing
        return None
    name = _stem(path)
    projector = min(projectors, key=lambda other: _projector_key(other, name), default=None)
    return FolderModel(name, parts, size, source, None, projector)


def _projector_key(projector: Path, model: str) -> tuple[int, int, str]:
    """Sort key: the projector that shares the most leading words with the model's name first, then by precision."""
    words = re.split(r"[-._]", _PROJECTOR.sub("", _stem(projector), count=1).casefold())
    shared = 0
    for word, model_word in zip(words, re.split(r"[-._]", model.casefold()), strict=False):
        if word != model_word:
            break
        shared += 1
    ending = re.split(r"[-.]", projector.name.casefold())[-2].removeprefix("mmproj_")
    rank = _PRECISIONS.index(ending) if ending in _PRECISIONS else len(_PRECISIONS)
    return (-shared, rank, projector.name)


def _with_lower_suffix(path: Path) -> Path:
    """The path with the suffix in lower case, as `splits` expects it: models named X.GGUF exist."""
    return path.with_name(path.name[: -len(_SUFFIX)] + _SUFFIX)


def _stem(path: Path) -> str:
    return stem_of(_with_lower_suffix(path))


def _gguf_files(folder: Path) -> Iterator[list[Path]]:
    """The .gguf files of each folder, breadth first, up to MAX_DEPTH levels and MAX_ENTRIES names."""
    pending: deque[tuple[str, int]] = deque([(str(folder), 0)])
    seen: set[tuple[int, int]] = set()
    left = MAX_ENTRIES
    while pending and left > 0:
        current, depth = pending.popleft()
        inode = _inode(current)
        if inode is None or inode in seen:  # links can form a circle
            continue
        seen.add(inode)
        names = _list_names(current, left)
        left -= len(names)
        if depth < MAX_DEPTH:
            pending += [(os.path.join(current, name), depth + 1) for name in names if _may_enter(name)]
        yield [Path(current, name) for name in names if _is_gguf(current, name)]


def _inode(folder: str) -> tuple[int, int] | None:
    """The device and inode of a folder; None if it is not a folder."""
    try:
        info = os.stat(folder)
    except (OSError, ValueError):
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISDIR(info.st_mode) else None


def _list_names(folder: str | Path, limit: int) -> list[str]:
    """The sorted names in a folder that are not hidden; [] if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, limit) if not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _may_enter(name: str) -> bool:
    return name not in _HUB_FOLDERS and not name.startswith("models--")


def _is_gguf(folder: str, name: str) -> bool:
    return name.lower().endswith(_SUFFIX) and os.path.isfile(os.path.join(folder, name))


def _downloads_folder(settings: Path, home: Path) -> Path | None:
    try:
        values = json.loads(_read_small(settings) or "{}")
    except (ValueError, RecursionError):
        return None
    folder = values.get("downloadsFolder") if isinstance(values, dict) else None
    return _absolute(folder, home) if isinstance(folder, str) else None


def _absolute(text: str, home: Path) -> Path | None:
    """The path in a line of LM Studio's files; None for an empty or relative one."""
    text = text.strip()
    path = home / text[2:] if text.startswith(("~/", "~\\")) else Path(text)
    return path if text and path.is_absolute() else None


def _read_small(path: Path) -> str:
    """The text of a small file; "" if it is missing, large, not a file or not text."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return data.decode("utf-8-sig") if len(data) <= _MAX_BYTES else ""
    except (OSError, ValueError):
        return ""
