"""Record when each model file was last used, as the modification time of an empty file in the data folder."""

import contextlib
import os
import zlib
from pathlib import Path

from llmcli.files import make_private_folder


def note_use(data_dir: Path, file: Path) -> None:
    """Record that a model file is used now; errors are ignored."""
    marker = _marker(data_dir, file)
    with contextlib.suppress(OSError):
        try:
            os.utime(marker)
        except FileNotFoundError:
            make_private_folder(marker.parent)
            marker.touch(mode=0o600)


def last_use(data_dir: Path, file: Path) -> float | None:
    """When a model file was last used, in seconds since 1970; None when it was never used."""
    try:
        return _marker(data_dir, file).stat().st_mtime
    except OSError:
        return None


def _marker(data_dir: Path, file: Path) -> Path:
    path = os.fsencode(os.path.realpath(file))
    return data_dir / "used" / f"{zlib.crc32(path):08x}{zlib.adler32(path):08x}"
