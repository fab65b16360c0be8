"""Record the commit of each pulled reference.

There is one small file per reference in the data folder, so that processes do not overwrite each other's records.
Without its record a model is still found: `find` then searches the cache.
"""

import contextlib
import json
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcli.files import replace_private
from llmcli.models.hub.repo_files import RepoFile, is_safe_path

_MAX_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Record:
    """The revision and files of `reference` when it was pulled; `time` is in seconds since 1970."""

    reference: str
    repo: str
    commit: str
    files: tuple[RepoFile, ...]
    projector: RepoFile | None
    license: str
    time: float


def save(data_dir: Path, record: Record) -> None:
    """Write the record; it replaces an older one. Raises OSError."""
    data = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    replace_private(_path(data_dir, record.reference), data.encode())


def load(data_dir: Path, reference: str) -> Record | None:
    """The record of a reference; None if there is none or it cannot be read."""
    return _read(_path(data_dir, reference))


def all_records(data_dir: Path) -> list[Record]:
    """Every record, the newest first."""
    with contextlib.suppress(OSError):
        found = filter(None, map(_read, (data_dir / "pulled").glob("*.json")))
        return sorted(found, key=lambda record: -record.time)
    return []


def forget(data_dir: Path, reference: str) -> None:
    """Remove the record of a reference. Raises OSError."""
    _path(data_dir, reference).unlink(missing_ok=True)


def _path(data_dir: Path, reference: str) -> Path:
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", reference)[:80]
    return data_dir / "pulled" / f"{slug}-{zlib.crc32(reference.encode()):08x}.json"


def _read(path: Path) -> Record | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        data = json.loads(path.read_bytes())
        files = tuple(_file(entry) for entry in data["files"])
        projector = _file(data["projector"]) if data["projector"] else None
        record = Record(
            str(data["reference"]),
            str(data["repo"]),
            str(data["commit"]),
            files,
            projector,
            str(data["license"] if "license" in data else data["licence"]),  # the key of older records
            float(data["time"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return record if files and _COMMIT.fullmatch(record.commit) else None


def _file(entry: dict[str, Any]) -> RepoFile:
    file = RepoFile(str(entry["path"]), int(entry["size"]), str(entry["sha256"]))
    if not is_safe_path(file.path):
        raise ValueError("the path is not safe")
    return file
