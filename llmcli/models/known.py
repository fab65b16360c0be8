"""Record which model files loaded safely in a child process, so that they need no second probe.

`<cache_dir>/probed.json` maps a path to the build of llama-cpp-python, and size and mtime_ns of each part. A
file that cannot be read or parsed counts as empty: the only consequence is one more probe.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.files import replace_private

if TYPE_CHECKING:
    from llmcli.models.find import ModelFile

FILE_NAME = "probed.json"
MOST = 512  # entries; older ones are dropped
_MAX_BYTES = 4 << 20


def is_known(cache_dir: Path, parts: Sequence[Path], build: str) -> bool:
    """True when these files were probed with this build and none has changed since."""
    try:
        key, entry = _key(parts), _entry(parts, build)
    except OSError:
        return False
    return _load(cache_dir).get(key) == entry


def is_safe(file: "ModelFile", cache_dir: Path, build: str) -> bool:
    """True when the file needs no probe: llmcli downloaded and verified it, or it was probed and is unchanged."""
    return file.trusted or is_known(cache_dir, file.parts, build)


def remember(cache_dir: Path, parts: Sequence[Path], build: str) -> None:
    """Record that these files loaded with this build. Raises OSError when the record cannot be written.

    Two processes that write at the same moment can lose one entry, but never damage the file.
    """
    key, entry = _key(parts), _entry(parts, build)
    entries = _load(cache_dir)
    entries.pop(key, None)
    entries[key] = entry
    recent = dict(list(entries.items())[-MOST:])
    replace_private(cache_dir / FILE_NAME, json.dumps(recent, indent=0).encode())


def _key(parts: Sequence[Path]) -> str:
    return str(parts[0].resolve())


def _entry(parts: Sequence[Path], build: str) -> dict[str, Any]:
    stats = [part.stat() for part in parts]
    return {"build": build, "parts": [[info.st_size, info.st_mtime_ns] for info in stats]}


def _load(cache_dir: Path) -> dict[str, Any]:
    path = cache_dir / FILE_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
