"""Download a file of a repository into the cache."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, NetworkError, error_text
from llmcli.models import file_records, interrupted
from llmcli.models.download.fetch import check_sha256, download, exclusive, write_error
from llmcli.models.download.partial_file import PartialFile, bytes_downloaded, partial_path
from llmcli.models.download.transfer import RemoteFile
from llmcli.models.hub import cache as hub_cache
from llmcli.models.hub.environment import endpoint, http_error, hub_headers
from llmcli.models.hub.repo_files import RepoFile, file_name
from llmcli.models.locations import Notify, Progress
from llmcli.models.reference import MAIN, HubReference

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True)
class DownloadItem:
    """One file at one commit, and its paths in the cache."""

    cache: Path
    repo: str
    commit: str
    file: RepoFile

    @property
    def blob(self) -> Path:
        return hub_cache.folder_of(self.cache, self.repo) / "blobs" / self.file.sha256

    @property
    def partial(self) -> Path:
        return partial_path(self.blob)

    @property
    def pointer(self) -> Path:
        return hub_cache.pointer_path(self.cache, self.repo, self.commit, self.file.path)

    def is_downloaded(self) -> bool:
        """True when the file is in the cache, at any commit."""
        return any(_has_size(path, self.file.size) for path in (self.blob, self.pointer))

    @property
    def missing(self) -> int:
        """The bytes that are not downloaded yet; a partial download counts."""
        return 0 if self.is_downloaded() else self.file.size - bytes_downloaded(self.partial, self.file.size)


class HubFile(RemoteFile):
    """A file on the Hub, whose headers must match the checksum and the commit (if any) of its listing."""

    def __init__(self, repo: str, commit: str, file: RepoFile) -> None:
        url = f"{endpoint()}/{repo}/resolve/{commit or MAIN}/{quote(file.path)}"
        super().__init__(url, hub_headers(), file.size)
        self._reference = HubReference(repo, file=file.path, revision=commit or None)
        self._sha256, self._commit = file.sha256, commit

    def check(self, response: "httpx2.Response") -> None:
        etag = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        commit = response.headers.get("x-repo-commit", "")
        for sent, listed in ((etag, self._sha256), (commit, self._commit)):
            if sent and listed and sent != listed:
                raise NetworkError(
                    f"the Hub sent another checksum or commit for {self._reference} than it lists",
                    "try again later; if the error persists, do not trust this Hub or mirror",
                )

    def error(self, response: "httpx2.Response") -> LlmcliError:
        return http_error(response, self._reference)


def fetch(
    item: DownloadItem, reference: str, data_dir: Path, progress_for: Callable[[str], Progress], notify: Notify
) -> Path:
    """The path of the file in the cache: downloaded and verified, or verified if another program downloaded it.

    `reference` is the name of the download while it is interrupted.

    Raises:
        LlmcliError: the download failed. Nothing is published, and the partial download is kept.
        KeyboardInterrupt: likewise.
    """
    is_linked = not item.blob.exists() or os.path.realpath(item.pointer) == os.path.realpath(item.blob)
    is_published = is_linked and _has_size(item.pointer, item.file.size)
    if is_published and _is_sound(item, data_dir, progress_for, notify):
        return item.pointer  # nothing is written: the cache can be read-only
    hub_cache.create_folders(item.cache, item.repo)
    interrupted.record_partial(data_dir, item.partial, reference, item.file.size)
    progress = progress_for(file_name(item.file.path))

    def report_other() -> None:
        with contextlib.suppress(OSError):
            progress(item.partial.stat().st_size, item.file.size)

    try:
        with exclusive(hub_cache.lock_path(item.blob), item.file.path, notify, report_other):
            if _is_sound(item, data_dir, progress_for, notify):
                PartialFile(item.partial, item.file.size).discard()  # another program was faster
            else:
                _download(item, progress, notify)
            is_blob = _has_size(item.blob, item.file.size)
            path = hub_cache.publish(item.blob, item.pointer, item.cache) if is_blob else item.pointer
    except OSError as error:
        raise write_error(error, item.cache, item.partial, hub_cache.MOVE_HINT) from error
    interrupted.discard_record(data_dir, item.partial)
    file_records.record_sha256(data_dir, path, item.file.sha256)
    return path


def _is_sound(item: DownloadItem, data_dir: Path, progress_for: Callable[[str], Progress], notify: Notify) -> bool:
    """Whether the file is in the cache; a damaged one is removed."""
    if not item.is_downloaded():
        return False
    existing, sha256 = item.blob if item.blob.is_file() else item.pointer, item.file.sha256
    if file_records.is_verified(data_dir, existing, sha256):
        return True
    if file_records.sha256_of(existing, progress_for(f"verifying {item.file.path}")) == sha256:
        file_records.record_sha256(data_dir, existing, sha256)
        return True
    notify(f"{item.file.path} in the cache is damaged: downloading it again")
    try:
        existing.unlink()
    except OSError as error:
        raise DiskError(
            f"cannot remove the damaged file {existing}: {error_text(error)}", "remove it, then pull the model again"
        ) from None
    return False


def _download(item: DownloadItem, progress: Progress, notify: Notify) -> None:
    """Download and verify the blob; after a checksum mismatch, download it once more from the start."""
    file = item.file

    def verify(digest: str) -> None:
        hint = "try again later, or from another network"
        check_sha256(digest, file.sha256, f"{file.path} after two attempts", hint)

    for is_last in (False, True):
        try:
            download(HubFile(item.repo, item.commit, file), item.blob, verify, progress, notify)
            return
        except ModelInvalidError:
            if is_last:
                raise
            notify(f"checksum mismatch for {file.path}: downloading it again")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False
