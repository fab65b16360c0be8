"""Find the folders in which LM Studio keeps its models.

They are below its home (~/.lmstudio-home-pointer gives its path if it was moved), or where its settings say. In
each of them a model is OWNER/REPOSITORY/FILE.gguf, as on the Hub.
"""

import json
import os
from pathlib import Path

_POINTER = ".lmstudio-home-pointer"
_HOMES = (".lmstudio", ".cache/lm-studio")  # older versions use the second one
_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")
_MAX_BYTES = 1 << 20


def folders() -> list[Path]:
    """The existing folders with LM Studio's models, without duplicates, the one in use first."""
    found: dict[str, Path] = {}
    for folder in searched_folders():
        if os.path.isdir(folder):  # False, not an error, for an impossible path
            found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def searched_folders() -> list[Path]:
    """All folders in which LM Studio may keep models, whether they exist or not."""
    try:
        home = Path.home()
    except RuntimeError:  # this user has no home
        return []
    homes = [home / name for name in _HOMES]
    moved = _absolute(_text(home / _POINTER).partition("\n")[0], home)
    if moved:
        homes.insert(0, moved)
    settings = [folder / "settings.json" for folder in [*homes, *(home / name for name in _SETTINGS)]]
    chosen = [_downloads(path, home) for path in settings]
    return [*(folder for folder in chosen if folder), *(folder / "models" for folder in homes)]


def _downloads(settings: Path, home: Path) -> Path | None:
    try:
        values = json.loads(_text(settings) or "{}")
    except (ValueError, RecursionError):
        return None
    folder = values.get("downloadsFolder") if isinstance(values, dict) else None
    return _absolute(folder, home) if isinstance(folder, str) else None


def _absolute(text: str, home: Path) -> Path | None:
    """The path in a line of LM Studio's files; None for an empty or relative one."""
    text = text.strip()
    path = home / text[2:] if text.startswith(("~/", "~\\")) else Path(text)
    return path if text and path.is_absolute() else None


def _text(path: Path) -> str:
    """The text of a small file; "" if it is missing, large, not a file or not text."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return data.decode("utf-8-sig") if len(data) <= _MAX_BYTES else ""
    except (OSError, ValueError):
        return ""
