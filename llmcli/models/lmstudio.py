"""Where does LM Studio keep its models?

Below its home, which ~/.lmstudio-home-pointer names where it was moved, or where its settings say. In each of
these folders a model is OWNER/REPOSITORY/FILE.gguf, as on the hub.
"""

import json
import os
from pathlib import Path

_POINTER = ".lmstudio-home-pointer"
_HOMES = (".lmstudio", ".cache/lm-studio")  # the second: older versions
_SETTINGS = ("AppData/Roaming/LM Studio", "Library/Application Support/LM Studio", ".config/LM Studio")  # of the app
_MAX_BYTES = 1 << 20


def folders() -> list[Path]:
    """The folders with LM Studio's models that exist, the one in use first, each once."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without one
        return []
    homes = [home / name for name in _HOMES]
    moved = _absolute(_text(home / _POINTER).partition("\n")[0], home)
    if moved:
        homes.insert(0, moved)
    chosen = [_downloads(place / "settings.json", home) for place in [*homes, *(home / name for name in _SETTINGS)]]
    return _existing([*(place for place in chosen if place), *(place / "models" for place in homes)])


def _existing(places: list[Path]) -> list[Path]:
    found: dict[str, Path] = {}
    for place in places:
        if os.path.isdir(place):  # False, not an error, for what cannot be a path
            found.setdefault(os.path.realpath(place), place)
    return list(found.values())


def _downloads(settings: Path, home: Path) -> Path | None:
    try:
        values = json.loads(_text(settings) or "{}")
    except (ValueError, RecursionError):
        return None
    folder = values.get("downloadsFolder") if isinstance(values, dict) else None
    return _absolute(folder, home) if isinstance(folder, str) else None


def _absolute(text: str, home: Path) -> Path | None:
    """The place that a line of LM Studio's names; None for nothing and for a relative one, which is nowhere."""
    text = text.strip()
    place = home / text[2:] if text.startswith(("~/", "~\\")) else Path(text)
    return place if text and place.is_absolute() else None


def _text(path: Path) -> str:
    """The text of a small file; "" for one that is missing, large, no file or no text."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return data.decode("utf-8-sig") if len(data) <= _MAX_BYTES else ""
    except (OSError, ValueError):
        return ""
