"""Download one file of a repository into the cache: check the disk, lock, transfer, verify, publish."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from llmcli.errors import DiskError, ModelInvalidError, error_text
from llmcli.models.download.http import Notify, hub_headers
from llmcli.models.download.partial_file import PartialFile, bytes_downloaded, exclusive
from llmcli.models.download.transfer import RemoteFile, Transfer
from llmcli.models.hub import cache as hub_cache
from llmcli.models.hub import environment
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.locations import Progress
from llmcli.models.reference import HubReference

RESERVE = 64 << 20  # bytes of disk space that stay free
_GB = 10**9
_FULL = errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)  # Windows has no EDQUOT


@dataclass(frozen=True)
class DownloadItem:
    """One file at one commit, and its paths in the cache."""

    cache: Path
    repo: str
    commit: str
    file: RepoFile

    @property
    def blob(self) -> Path:
        return hub_cache.blob_path(self.cache, self.repo, self.file.sha256)

    @property
    def partial(self) -> Path:
        return hub_cache.partial_path(self.cache, self.repo, self.file.sha256)

    @property
    def pointer(self) -> Path:
        return hub_cache.pointer_path(self.cache, self.repo, self.commit, self.file.path)

    def is_downloaded(self) -> bool:
        """True when the file is in the cache, at any commit."""
        return any(_has_size(path, self.file.size) for path in (self.blob, self.pointer))

    def is_published(self) -> bool:
        """True when the pointer of this commit leads to exactly this file."""
        same = not self.blob.exists() or os.path.realpath(self.pointer) == os.path.realpath(self.blob)
        return same and _has_size(self.pointer, self.file.size)


def missing_bytes(files: Sequence[DownloadItem]) -> int:
    """The bytes that are not downloaded yet; partial downloads count."""
    return sum(
        item.file.size - bytes_downloaded(item.partial, item.file.size) for item in files if not item.is_downloaded()
    )


def check_free_space(cache: Path, needed: int) -> None:
    """Raise DiskError before the download starts if the disk does not have `needed` bytes."""
    existing = cache
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise DiskError(
            f"cannot use {cache}: {error_text(error)}", "move the cache with HF_HUB_CACHE or HF_HOME"
        ) from None
    if needed and free < needed + RESERVE:
        raise DiskError(
            f"the download needs {needed / _GB:.2f} GB, but {existing} has {free / _GB:.2f} GB free",
            "free some disk space (`llmcli models rm`), or move the cache with HF_HUB_CACHE",
        )


def fetch(item: DownloadItem, progress: Progress, notify: Notify, check: Callable[[], None]) -> Path:
    """The path of the file in the cache; it is downloaded and verified first if it is missing.

    `check` verifies a file that another program added while this one waited, and removes it if it is damaged.

    Raises:
        LlmcliError: the download failed. Nothing is published, and the partial download is kept.
        KeyboardInterrupt: likewise.
    """
    if item.is_published():  # first, because the cache can be read-only
        return item.pointer
    hub_cache.create_folders(item.cache, item.repo)
    lock = hub_cache.lock_path(item.cache, item.repo, item.file.sha256)

    def report_other() -> None:
        with contextlib.suppress(OSError):
            progress(item.partial.stat().st_size, item.file.size)

    try:
        with exclusive(lock, item.file.path, notify, report_other):
            check()
            if item.is_downloaded():
                PartialFile(item.partial, item.file.size).discard()  # another program was faster
            else:
                _download(item, progress, notify)
            if _has_size(item.blob, item.file.size):
                return hub_cache.publish(item.cache, item.repo, item.commit, item.file.path, item.file.sha256)
            return item.pointer
    except OSError as error:
        raise _disk_error(item, error) from error


def remote_file(item: DownloadItem) -> RemoteFile:
    """The remote file to download."""
    path = "/".join(quote(part, safe="") for part in item.file.path.split("/"))
    url = f"{environment.endpoint()}/{item.repo}/resolve/{item.commit}/{path}"
    name = HubReference(item.repo, file=item.file.path, revision=item.commit)
    return RemoteFile(url, hub_headers(), name, item.file.size, item.file.sha256, item.commit)


def sync_to_disk(path: Path) -> None:
    """Sync a file or a folder to disk, if the system supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            raise
    finally:
        os.close(descriptor)


def _download(item: DownloadItem, progress: Progress, notify: Notify) -> None:
    """Download and verify the blob; after a checksum mismatch, download it once more from the start."""
    size, expected = item.file.size, item.file.sha256
    digest = ""
    for attempt in range(2):
        partial = PartialFile(item.partial, size)
        digest = Transfer(remote_file(item), partial, progress, notify).run()
        if digest == expected:
            sync_to_disk(item.partial)
            os.replace(item.partial, item.blob)
            partial.remove_record()
            sync_to_disk(item.blob.parent)
            return
        partial.discard()
        if attempt == 0:
            notify(f"checksum mismatch for {item.file.path}: downloading it again")
    raise ModelInvalidError(
        f"checksum mismatch for {item.file.path} after two attempts: got {digest}, expected {expected}",
        "try again later, or from another network",
    )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _disk_error(item: DownloadItem, error: OSError) -> DiskError:
    if error.errno in _FULL:
        return DiskError(
            f"the disk is full: {item.cache}", "free some disk space, then run the command again to resume"
        )
    path = error.filename or item.partial
    return DiskError(f"cannot write {path}: {error_text(error)}", "move the cache with HF_HUB_CACHE or HF_HOME")
