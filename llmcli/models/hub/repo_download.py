"""Pull from the Hub: plan the files of a model, download them into the cache, resume and verify them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError, NetworkError, error_text
from llmcli.models import notes
from llmcli.models.download.http import RemoteFile
from llmcli.models.download.partial_file import PartialFile, bytes_downloaded, partial_path, writing
from llmcli.models.download.transfer import download_file, exclusive
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_remote_header, stem_of
from llmcli.models.hub import cache
from llmcli.models.hub.api import Repo, get_repo
from llmcli.models.hub.environment import endpoint, gated_error, http_error, hub_headers, token_source
from llmcli.models.hub.repo_files import Quantization, RepoFile, best_fit, quantizations, select_quantization
from llmcli.models.locations import ModelFile, ModelLocations, Notify, Progress
from llmcli.models.reference import MAIN, HubReference
from llmcli.models.sources.source import DownloadPlan, ProgressFor
from llmcli.text import format_age

if TYPE_CHECKING:
    import httpx2


class HubFile(RemoteFile):
    """A file of one commit ("" = `main`) on the Hub, and its paths in the cache.

    The headers of each response must match the checksum and the commit of the listing.
    """

    def __init__(self, cache_dir: Path, repo: str, commit: str, file: RepoFile) -> None:
        url = f"{endpoint()}/{repo}/resolve/{commit or MAIN}/{quote(file.path)}"
        super().__init__(url, hub_headers(), file.size, file.sha256)
        self.cache, self.repo, self.commit, self.file = cache_dir, repo, commit, file
        self._reference = HubReference(repo, file=file.path, revision=commit or None)
        self.blob = cache.folder_of(cache_dir, repo) / "blobs" / file.sha256
        self.partial = partial_path(self.blob)
        self.pointer = cache.pointer_path(cache_dir, repo, commit, file.path)

    def is_downloaded(self) -> bool:
        """True when the file is in the cache, at any commit."""
        return any(_has_size(path, self.size) for path in (self.blob, self.pointer))

    @property
    def missing(self) -> int:
        """The bytes that are not downloaded yet; a partial download counts."""
        return 0 if self.is_downloaded() else self.size - bytes_downloaded(self.partial, self.size)

    def header(self) -> GGUFHeader:
        """The header, read with range requests: a few MiB, at most 32. Raises as `read_remote_header`."""
        return read_remote_header(self.read, self.size, self.file.path)

    def check_headers(self, response: "httpx2.Response") -> None:
        etag = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        commit = response.headers.get("x-repo-commit", "")
        for sent, listed in ((etag, self.sha256), (commit, self.commit)):
            if sent and listed and sent != listed:
                raise NetworkError(
                    f"the Hub sent another checksum or commit for {self._reference} than it lists",
                    "try again later; if the error persists, do not trust this Hub or mirror",
                )

    def error(self, response: "httpx2.Response") -> LlmcliError:
        return http_error(response, self._reference)


@dataclass(frozen=True)
class PullPlan(DownloadPlan):
    """A pull from the Hub: `files` are those of the model. The reference has the Hub's own name of the repository."""

    reference: HubReference
    typed: HubReference
    locations: ModelLocations
    repo: Repo
    variant: Quantization
    files: tuple[HubFile, ...]
    projector: RepoFile | None  # of the model, for its facts; not downloaded

    def header(self) -> GGUFHeader:
        return self.files[0].header()

    def download(self, progress_for: ProgressFor, notify: Notify) -> ModelFile:
        """Download the missing files, verify the others, and record the commit of the reference."""
        locations, repo, name = self.locations, self.repo, str(self.reference)
        with writing(locations.hub, self.missing, cache.MOVE_HINT):
            for item in self.files:
                pull_file(item, name, locations.data_dir, progress_for, notify)
            if not all(item.pointer.exists() for item in self.files):  # a part, while the next ones were downloaded
                raise DiskError(f"another program deleted files of {name} meanwhile", f"run `llmcli pull {name}` again")
            record = cache.PulledRevision(
                name, repo.name, repo.commit, self.variant.parts, None, repo.license, time.time()
            )
            cache.write_ref(locations.hub, repo.name, self.reference.revision or MAIN, repo.commit)
            cache.save_revision(locations.data_dir, record)
            if self.typed != self.reference:  # an earlier record of this name can mean a copy in another folder
                cache.save_revision(locations.data_dir, replace(record, reference=str(self.typed)))
        parts = tuple(item.pointer for item in self.files[: len(self.variant.parts)])
        return ModelFile(parts[0], parts, stem_of(parts[0]))

    def replaces(self, partial: Path) -> bool:
        here = cache.folder_of(self.locations.hub, self.repo.name) / "blobs"
        listed = {partial_path(here / file.sha256).name for file in self.repo.files if file.sha256}
        return partial.parent == here and partial.name not in listed


def plan_pull(reference: HubReference, locations: ModelLocations, memory: int, notify: Notify) -> PullPlan:
    """Ask the Hub, in one request, what `reference` is now. `memory` in bytes guides the selection (0 = unknown).

    Raises ModelNotFoundError (no such model, parts are missing, or no sha256 is published), NotAllowedError (it is
    gated and no token is set) or NetworkError.
    """
    typed, repo = reference, get_repo(reference, locations.offline, notify)
    reference = replace(typed, repo=repo.name)
    if _is_renamed(typed.repo, repo.name):
        notify(f"{typed.repo} is now {repo.name} on the Hub")
    found = quantizations(repo.files)
    if reference.quant or reference.file or not found:
        variant, reason = select_quantization(found, reference.quant, reference.file, reference.repo), ""
    else:
        variant, reason = best_fit(found, memory)
    if repo.gated and not token_source():
        raise gated_error(reference.repo)
    files = [HubFile(locations.hub, repo.name, repo.commit, part) for part in variant.parts]
    unverified = next((item.file.path for item in files if not item.sha256), None)
    if unverified:
        message = f"cannot verify {unverified}: the Hub publishes no sha256 for it"
        raise ModelNotFoundError(message, f"choose another file of {reference.repo}")
    parts = f" in {len(variant.parts)} parts" if len(variant.parts) > 1 else ""
    return PullPlan(
        reference=reference,
        typed=typed,
        title=f"{repo.name}/{variant.path}{parts}",
        size=sum(item.size for item in files),
        missing=sum(item.missing for item in files),
        reason=reason,
        update=_note_of_update((reference, typed), variant, locations),
        locations=locations,
        repo=repo,
        variant=variant,
        files=tuple(files),
        projector=variant.projector(repo.files),
    )


def _note_of_update(names: Sequence[HubReference], variant: Quantization, locations: ModelLocations) -> str:
    """A note if a reference, by any of its names, means other files than when it was pulled; else empty."""
    records = (cache.revision_path(locations.data_dir, str(name)) for name in names)
    old = next(filter(None, map(cache.read_revision, records)), None)
    if not old or old.files == variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {format_age(old.time)}"
    return f"a newer version of this model; the old one ({version}) is kept, see `llmcli models list`"


def pull_file(item: HubFile, reference: str, data_dir: Path, progress_for: ProgressFor, notify: Notify) -> None:
    """Download and verify a file, or only verify it if it is in the cache.

    `reference` is the name of the download while it is interrupted. After an LlmcliError or a KeyboardInterrupt,
    nothing is published, and the partial download is kept.
    """
    is_linked = not item.blob.exists() or os.path.realpath(item.pointer) == os.path.realpath(item.blob)
    is_published = is_linked and _has_size(item.pointer, item.size)
    if is_published and _is_sound(item, data_dir, progress_for, notify):
        return  # nothing is written: the cache can be read-only
    cache.create_folders(item.cache, item.repo)
    notes.update(data_dir, item.partial, reference=reference, size=item.size)
    progress = progress_for(item.pointer.name)
    lock = cache.lock_path(item.blob)
    with exclusive(lock, item.file.path, notify, lambda: progress(item.size - item.missing, item.size)):
        if _is_sound(item, data_dir, progress_for, notify):
            PartialFile(item.partial, item.size).discard()  # another program was faster
        else:
            _download_blob(item, progress, notify)
        if _has_size(item.blob, item.size):
            cache.publish(item.blob, item.pointer, item.cache)
    notes.forget(data_dir, item.partial)
    notes.record_sha256(data_dir, item.pointer, item.sha256)
    notes.update(data_dir, item.pointer, reference=reference)


def _is_sound(item: HubFile, data_dir: Path, progress_for: ProgressFor, notify: Notify) -> bool:
    """Whether the file is in the cache; a damaged one is removed."""
    if not item.is_downloaded():
        return False
    existing, sha256 = item.blob if item.blob.is_file() else item.pointer, item.sha256
    if notes.read(data_dir, existing).get("sha256") == sha256:
        return True
    if notes.sha256_of(existing, progress_for(f"verifying {item.file.path}")) == sha256:
        notes.record_sha256(data_dir, existing, sha256)
        return True
    notify(f"{item.file.path} in the cache is damaged: downloading it again")
    try:
        existing.unlink()
    except OSError as error:
        raise DiskError(
            f"cannot remove the damaged file {existing}: {error_text(error)}", "remove it, then pull the model again"
        ) from None
    return False


def _download_blob(item: HubFile, progress: Progress, notify: Notify) -> None:
    """Download and verify the blob; after a checksum mismatch, download it once more from the start."""
    what = f"{item.file.path} after two attempts"
    try:
        download_file(item, item.blob, what, progress, notify)
    except ModelInvalidError:
        notify(f"checksum mismatch for {item.file.path}: downloading it again")
        download_file(item, item.blob, what, progress, notify)


def _is_renamed(typed: str, name: str) -> bool:
    """Whether the Hub has another name for a repository: the case of a name does not count."""
    return typed.casefold() != name.casefold()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False
