"""Record the sha256 of model files, so that gigabytes need not be read again.

One small file per model file, in the data folder. It is valid while size and modification time stay the same.
"""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import replace_private
from llmcli.models.starter import Progress

_BLOCK = 4 << 20


def sha256_of(path: Path, progress: Progress) -> str:
    """The sha256 of a file, in hex.

    Raises:
        DiskError: the file cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    view, done = memoryview(buffer), 0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while n_bytes := file.readinto(buffer):
                digest.update(view[:n_bytes])
                done += n_bytes
                progress(done, size)
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error.strerror}", "check its permissions") from None
    return digest.hexdigest()


def remember(data_dir: Path, path: Path, sha256: str) -> None:
    """Record that the file has this sha256 now; a folder that cannot be written is ignored."""
    with contextlib.suppress(OSError):
        data = {"path": os.path.realpath(path), "sha256": sha256, "state": _state(path), "time": time.time()}
        replace_private(_note(data_dir, path), json.dumps(data).encode())


def when_verified(data_dir: Path, path: Path) -> tuple[str, float] | None:
    """The recorded sha256 of the unchanged file, and when it was computed (seconds since 1970)."""
    try:
        data = json.loads(_note(data_dir, path).read_bytes()[: 1 << 16])
        if data["state"] == _state(path):
            return str(data["sha256"]), float(data["time"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return None


def is_verified(data_dir: Path, path: Path, sha256: str) -> bool:
    """True when the file is unchanged since it was found to have this sha256."""
    recorded = when_verified(data_dir, path)
    return recorded is not None and recorded[0] == sha256


def _state(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_mtime_ns]


def _note(data_dir: Path, path: Path) -> Path:
    name = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return data_dir / "verified" / f"{name}.json"
