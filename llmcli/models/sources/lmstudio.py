"""The models of LM Studio: its folders, and a model of the Hub in a folder with its layout, owner/repo/FILE.gguf."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from llmcli.models.hub.repo_files import DEFAULT_QUANTIZATION
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import HubReference, Reference
from llmcli.models.sources.folder import Program, first_named, home_folder, models_below
from llmcli.models.sources.source import InstalledModel

_POINTER = ".lmstudio-home-pointer"
_HOMES = (".lmstudio", ".cache/lm-studio")  # older versions use the second one
_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")
_MAX_BYTES = 1 << 20
_QUANT = re.compile(r"[A-Za-z]\d")  # not the K_M of Q4_K_M


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
        """The model in a folder, whatever the case of its name: the Hub ignores case.

        Without quantization and file: the only model, or the Q4_K_M of several.
        """
        for folder in folders:
            by_repo: dict[str, list[InstalledModel]] = {}
            for model in models_below(folder, self):
                by_repo.setdefault(_split(folder, model.path)[0], []).append(model)
            repos = sorted(by_repo, key=lambda repo: repo != reference.repo)  # the exact name first
            repo = next((repo for repo in repos if repo.casefold() == reference.repo.casefold()), "")
            found = _select(by_repo[repo], folder, reference) if repo else None
            if found:
                return found
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


def _split(folder: Path, path: Path) -> tuple[str, str]:
    """The repository and the path in it, of a file in a folder; "" for a file that is not so deep."""
    pieces = path.relative_to(folder).as_posix().split("/", 2)
    return ("/".join(pieces[:2]), pieces[2]) if len(pieces) == 3 else ("", "")


def _select(found: Sequence[InstalledModel], folder: Path, reference: HubReference) -> InstalledModel | None:
    if reference.file:
        return first_named(found, reference.file, lambda model: [_split(folder, part)[1] for part in model.parts])
    quant = reference.quant or ("" if len(found) == 1 else DEFAULT_QUANTIZATION)
    if quant and not _QUANT.search(quant):
        return None
    component = re.compile(rf"[-._]{re.escape(quant)}(?:[-.]|$)" if quant else "", re.I)
    fitting = [model for model in found if component.search(f".{model.name}")]
    return min(fitting, key=lambda model: len(model.name), default=None)  # Q4_K_M itself before UD-Q4_K_M


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
