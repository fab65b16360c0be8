"""The models of LM Studio: its folders, and a model of the Hub in a folder with its layout, owner/repo/FILE.gguf."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from llmcli.models.hub.repo_files import DEFAULT_QUANTIZATION
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import HubReference, Reference
from llmcli.models.sources.folder import MAX_ENTRIES, Program, first_named, home_folder, list_names, models_below
from llmcli.models.sources.source import InstalledModel

_POINTER = ".lmstudio-home-pointer"
_HOMES = (".lmstudio", ".cache/lm-studio")  # older versions use the second one
_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")
_MAX_BYTES = 1 << 20
_QUANT = re.compile(r"[A-Za-z]\d")  # not the K_M of Q4_K_M
_OWNER_OR_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


class LmStudio(Program):
    """LM Studio. Its layout also names models of the Hub in other folders that the user imported."""

    name = "lmstudio"
    owner, removal_hint = "LM Studio", "remove it in LM Studio"

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        """The file of the Hub's repository in an imported folder; no folder tells the revision of a file."""
        if not isinstance(reference, HubReference) or reference.revision:
            return None
        found = self.find_repo(reference, locations.folders)
        return ModelFile(found.path, found.parts, found.name) if found else None

    def find_repo(self, reference: HubReference, folders: Sequence[Path]) -> InstalledModel | None:
        """The model in a folder. Names are only compared, so that none leads out of a folder.

        Without quantization and file: the only model, or the Q4_K_M of several.
        """
        for folder in folders:
            repo_folder = _repo_folder(folder, reference.repo)
            found = models_below(repo_folder, self) if repo_folder else []
            model = _select(found, repo_folder, reference.quant, reference.file) if repo_folder else None
            if model:
                return model
        return None

    def search_paths(self) -> list[Path]:
        home = home_folder()
        if home is None:
            return []
        homes = [home / name for name in _HOMES]
        moved = _absolute(_read_small(home / _POINTER).partition("\n")[0], home)
        if moved:
            homes.insert(0, moved)
        settings = [folder / "settings.json" for folder in [*homes, *(home / name for name in _SETTINGS)]]
        chosen = [_downloads_folder(path, home) for path in settings]
        return [*(folder for folder in chosen if folder), *(folder / "models" for folder in homes)]


SOURCE = LmStudio()


def _select(
    found: Sequence[InstalledModel], folder: Path, quant: str | None, file: str | None
) -> InstalledModel | None:
    if file:
        return first_named(found, file, lambda model: [part.relative_to(folder).as_posix() for part in model.parts])
    if quant is None and len(found) == 1:
        return found[0]
    if quant and not _QUANT.search(quant):
        return None
    component = re.compile(rf"[-._]{re.escape(quant or DEFAULT_QUANTIZATION)}(?:[-.]|$)", re.I)
    fitting = [model for model in found if component.search(f".{model.name}")]
    return min(fitting, key=lambda model: len(model.name), default=None)  # Q4_K_M itself before UD-Q4_K_M


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
    same = (other for other in list_names(folder, MAX_ENTRIES) if other.casefold() == name.casefold())
    return next((folder / other for other in same if os.path.isdir(folder / other)), None)


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
