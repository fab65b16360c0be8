"""Interrupted downloads on this machine: recorded while they run, listed, and deleted."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from llmcli.files import read_note, write_note
from llmcli.models.download.partial_file import PARTIAL, bytes_downloaded, delete_partial
from llmcli.models.hub.cache import lock_path, models_of_repo, repo_of
from llmcli.models.locations import ModelLocations


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

    @property
    def has_complete_parts(self) -> bool:
        """Whether it also left complete parts of a split model."""
        folder = self.path.parent.parent
        repo = repo_of(folder.name)
        return bool(repo and models_of_repo(folder.parent, repo, whole=False))

    def remove(self, data_dir: Path) -> bool:
        """Delete the partial file; False if another program started the download or it is active. Raises OSError."""
        from filelock import FileLock, Timeout

        if not self.is_from_llmcli:
            return False
        target = self.path.with_name(self.path.name.removesuffix(PARTIAL))
        lock = lock_path(target) if target.parent.name == "blobs" else target.with_suffix(".lock")
        try:
            with FileLock(lock, blocking=False):
                delete_partial(self.path)
                forget_download(data_dir, self.path)
        except Timeout:
            return False
        return True


@dataclass
class _Note:
    """What is remembered of a download from its start to its end; without it, the download has no name."""

    reference: str
    size: int


def record_download(data_dir: Path, partial: Path, reference: str, size: int) -> None:
    """Record the reference of a download that starts now."""
    with contextlib.suppress(OSError):
        write_note(_note_path(data_dir, partial), {"reference": reference, "size": size})


def forget_download(data_dir: Path, partial: Path) -> None:
    """Remove the record of a completed download."""
    with contextlib.suppress(OSError):
        _note_path(data_dir, partial).unlink(missing_ok=True)


def interrupted_downloads(locations: ModelLocations) -> list[InterruptedDownload]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    import msgspec

    found = []
    of_hub, of_urls = "models--*/blobs/*.incomplete", "*/*" + PARTIAL
    for path in [*locations.hub.glob(of_hub), *(locations.cache_dir / "urls").glob(of_urls)]:
        if not path.is_file() or path.is_symlink():
            continue
        try:
            note = msgspec.convert(read_note(_note_path(locations.data_dir, path)), _Note)
        except msgspec.ValidationError:
            note = _Note(repo_of(path.parent.parent.name) or path.name, 0)
        info = path.stat()
        downloaded = bytes_downloaded(path, note.size) if note.size > 0 else info.st_size
        if downloaded:
            found.append(InterruptedDownload(note.reference, path, downloaded, note.size, info.st_mtime))
    return sorted(found, key=lambda item: -item.time)


def _note_path(data_dir: Path, partial: Path) -> Path:
    return data_dir / "unfinished" / f"{partial.name.removesuffix(PARTIAL)[:80]}.json"
