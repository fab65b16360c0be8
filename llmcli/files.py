"""Create private folders (0700) and files (0600), and replace files atomically."""

import os
from pathlib import Path
from typing import BinaryIO


def make_private_folder(folder: Path) -> None:
    """Create the folder and its missing parents with mode 0700; existing ones keep their mode. Raises OSError."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def open_new_private(path: Path) -> BinaryIO:
    """Create a new file with mode 0600 (whatever the umask) and open it for writing. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def replace_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader sees the old file or the new one. Raises OSError."""
    import tempfile  # imported here: it costs 10 ms, and most runs write nothing

    make_private_folder(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
