"""The models of LM Studio: its folders, and a model of the Hub in a folder with its layout, owner/repo/FILE.gguf."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from llmcli.files import read_json
from llmcli.models.hub.repo_files import DEFAULT_QUANTIZATION
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import HubReference, Reference
from llmcli.models.sources.folder import MAX_ENTRIES, Program, first_named, home_folder, list_names
from llmcli.models.sources.source import InstalledModel

_POINTER = ".lmstudio-home-pointer"
_HOMES = (".lmstudio", ".cache/lm-studio")  # older versions use the second one
_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")
_MAX_LINE = 1 << 16  # characters
_QUANT = re.compile(r"[A-Za-z]\d")  # not the K_M of Q4_K_M


class LmStudio(Program):
    """LM Studio. Its layout also names models of the Hub in other folders that the user imported."""

    name = "lmstudio"
    owner, removal_hint = "LM Studio", "remove it in LM Studio"

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        """The file of the Hub's repository in an imported folder; no folder tells the revision of a file.

        Names are only compared, in any case as on the Hub, so that none leads out of the folder. Without quantization
        and file: the only model, or the Q4_K_M of several.
        """
        if not isinstance(reference, HubReference) or reference.revision:
            return None
        owner, _, name = reference.repo.partition("/")
        tops = (top for folder in locations.folders for top in _subfolders(folder, owner))
        for repo_folder in (path for top in tops for path in _subfolders(top, name)):
            found = _select(self.models_in(repo_folder), repo_folder, reference)
            if found:
                return ModelFile(found.path, found.parts, found.name)
        return None

    def repair_hint(self, item: InstalledModel, locations: ModelLocations) -> str:
        return "delete it in LM Studio, and download it there again"

    def search_paths(self) -> list[Path]:
        home = home_folder()
        if home is None:
            return []
        pointer = ""
        with contextlib.suppress(OSError, ValueError), (home / _POINTER).open(encoding="utf-8-sig") as file:
            pointer = file.readline(_MAX_LINE)
        moved = _absolute(pointer, home)
        homes = [*([moved] if moved else []), *(home / name for name in _HOMES)]
        settings = [read_json(folder / "settings.json") for folder in [*homes, *(home / name for name in _SETTINGS)]]
        chosen = [_absolute(str(values.get("downloadsFolder", "")), home) for values in settings]
        return [*(folder for folder in chosen if folder), *(folder / "models" for folder in homes)]


SOURCE = LmStudio()


def _subfolders(folder: Path, name: str) -> list[Path]:
    """The subfolders with this name in any case, the exact one first."""
    found = [other for other in list_names(folder, MAX_ENTRIES) if other.casefold() == name.casefold()]
    return [folder / other for other in sorted(found, key=lambda other: other != name)]


def _select(found: Sequence[InstalledModel], folder: Path, reference: HubReference) -> InstalledModel | None:
    if reference.file:
        return first_named(
            found, reference.file, lambda model: [part.relative_to(folder).as_posix() for part in model.parts]
        )
    quant = reference.quant or ("" if len(found) == 1 else DEFAULT_QUANTIZATION)
    if quant and not _QUANT.search(quant):
        return None
    component = re.compile(rf"[-._]{re.escape(quant)}(?:[-.]|$)" if quant else "", re.I)
    fitting = [model for model in found if component.search(f".{model.name}")]
    return min(fitting, key=lambda model: len(model.name), default=None)  # Q4_K_M itself before UD-Q4_K_M


def _absolute(text: str, home: Path) -> Path | None:
    """The path in a line of LM Studio's files; None for an empty or relative one."""
    text = text.strip()
    path = home / text[2:] if text.startswith(("~/", "~\\")) else Path(text)
    return path if text and path.is_absolute() else None
