"""Interrupted downloads: their names, the list of them, and their removal."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from llmcli.files import read_note, write_note
from llmcli.models.download.partial_file import PARTIAL, RECORD_SUFFIX, bytes_downloaded
from llmcli.models.hub.cache import lock_path, models_of_repo, repo_of


@dataclass(frozen=True)
class InterruptedDownload:
    """An interrupted download. `name` is the reference to pull; `size` is 0 (unknown) if another program started it."""

    name: str
    path: Path
    downloaded: int
    size: int
    time: float

    @property
    def is_from_llmcli(self) -> bool:
        return ".llmcli." in self.path.name


@dataclass
class _Note:
    """What is remembered of a download from its start to its end; without it, the download has no name."""

    reference: str
    size: int


def record_partial(data_dir: Path, partial: Path, reference: str, size: int) -> None:
    """Record the reference of a download that starts now."""
    with contextlib.suppress(OSError):
        write_note(_note_path(data_dir, partial), {"reference": reference, "size": size})


def discard_record(data_dir: Path, partial: Path) -> None:
    """Remove the record of a completed download."""
    with contextlib.suppress(OSError):
        _note_path(data_dir, partial).unlink(missing_ok=True)


def interrupted_downloads(hub: Path, cache_dir: Path, data_dir: Path) -> list[InterruptedDownload]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    paths = [*hub.glob("models--*/blobs/*.incomplete"), *(cache_dir / "urls").glob("*/*" + PARTIAL)]
    found = [_interrupted(path, data_dir) for path in paths if path.is_file() and not path.is_symlink()]
    return sorted((item for item in found if item.downloaded), key=lambda item: -item.time)


def remove_interrupted(item: InterruptedDownload, data_dir: Path) -> bool:
    """Delete a partial download of llmcli; False if another program started it or it is active. Raises OSError."""
    from filelock import FileLock, Timeout

    if not item.is_from_llmcli:
        return False
    target = item.path.with_name(item.path.name.removesuffix(PARTIAL))
    lock = lock_path(target) if target.parent.name == "blobs" else target.with_suffix(".lock")
    try:
        with FileLock(lock, blocking=False):
            item.path.unlink(missing_ok=True)
            item.path.with_name(item.path.name + RECORD_SUFFIX).unlink(missing_ok=True)
            discard_record(data_dir, item.path)
    except Timeout:
        return False
    return True


def has_complete_parts(item: InterruptedDownload) -> bool:
    """Whether the interrupted pull also left complete parts of a split model."""
    folder = item.path.parent.parent
    repo = repo_of(folder.name)
    return bool(repo and models_of_repo(folder.parent, repo, whole=False))


def _interrupted(path: Path, data_dir: Path) -> InterruptedDownload:
    import msgspec

    info = path.stat()
    try:
        note = msgspec.convert(read_note(_note_path(data_dir, path)), _Note)
    except msgspec.ValidationError:
        note = _Note(repo_of(path.parent.parent.name) or path.name, 0)
    downloaded = bytes_downloaded(path, note.size) if note.size > 0 else info.st_size
    return InterruptedDownload(note.reference, path, downloaded, note.size, info.st_mtime)


def _note_path(data_dir: Path, partial: Path) -> Path:
    return data_dir / "unfinished" / f"{partial.name.removesuffix(PARTIAL)[:80]}.json"
