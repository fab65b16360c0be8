"""Interrupted downloads on this machine, which a note names while they are not complete: listed, and deleted."""

from dataclasses import dataclass
from pathlib import Path

from llmcli.models import notes
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
                notes.forget(data_dir, self.path)
        except Timeout:
            return False
        return True


def interrupted_downloads(locations: ModelLocations) -> list[InterruptedDownload]:
    """All interrupted downloads, the latest first, including those of other Hugging Face tools."""
    found = []
    for path in [*locations.hub.glob("models--*/blobs/*.incomplete"), *locations.cache_dir.rglob("*" + PARTIAL)]:
        if not path.is_file() or path.is_symlink():
            continue
        note, info = notes.read(locations.data_dir, path), path.stat()
        name, size = note.get("reference") or repo_of(path.parent.parent.name) or path.name, note.get("size", 0)
        downloaded = bytes_downloaded(path, size) if size > 0 else info.st_size
        if downloaded:
            found.append(InterruptedDownload(name, path, downloaded, size, info.st_mtime))
    return sorted(found, key=lambda item: -item.time)
