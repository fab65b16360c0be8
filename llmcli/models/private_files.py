"""How llmcli makes its own folders and files: 0700 and 0600 from the first moment, replaced in one step."""

import os
from pathlib import Path
from typing import BinaryIO


def make_private_folder(folder: Path) -> None:
    """Make the folder and its missing parents, each 0700; one that exists keeps its mode. Raises OSError."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def open_new_private(path: Path) -> BinaryIO:
    """Open a file that must not exist yet for writing, 0600 whatever the umask. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def replace_private(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: a reader sees the old file or the new one. Raises OSError."""
    import tempfile  # 10 ms, and most runs write nothing

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
