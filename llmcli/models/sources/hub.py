"""Pull a model from the Hub: plan the download, then download and verify the files, then record the revision."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.models import notes
from llmcli.models.download import partial_file
from llmcli.models.download.fetch import DownloadItem, check_free_space, fetch, missing_bytes, remote_file
from llmcli.models.download.http import Notify, RetryPolicy, TransientError
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_remote_header
from llmcli.models.gguf.splits import stem_of
from llmcli.models.hub import cache
from llmcli.models.hub.api import Repo, check_has_sha256, get_repo, ignore_message
from llmcli.models.hub.environment import gated_error, token_source
from llmcli.models.hub.repo_files import Quantization, best_fit, by_name, projector_for, quantizations
from llmcli.models.locations import ModelFile, ModelLocations, Progress
from llmcli.models.reference import HubReference

ProgressFor = Callable[[str], Progress]
_TRIES = 4


@dataclass(frozen=True)
class PullPlan:
    """What a pull will download. `reason` explains the variant if the user did not choose it; sizes are in bytes."""

    reference: HubReference
    repo: Repo
    variant: Quantization
    reason: str
    files: tuple[DownloadItem, ...]
    missing: int
    projector: DownloadItem | None  # available; in `files` only on request

    @property
    def size(self) -> int:
        return sum(wanted.file.size for wanted in self.files)


def plan_pull(
    reference: HubReference,
    locations: ModelLocations,
    memory: int,
    projector: bool = False,
    say: Notify = ignore_message,
) -> PullPlan:
    """Ask the Hub, in one request, what `reference` is now. `memory` in bytes guides the selection (0 = unknown).

    Raises:
        ModelNotFoundError: the Hub has no such model, or not all of its parts.
        NotAllowedError: the model is gated and there is no token.
        NetworkError: the Hub cannot be reached.
    """
    listing = get_repo(reference, locations.offline, say)
    found = quantizations(listing.files)
    if reference.quant or reference.file or not found:
        variant, reason = by_name(found, reference.quant, reference.file, reference.repo), ""
    else:
        choice = best_fit(found, memory)
        variant, reason = choice.variant, choice.reason
    if listing.gated and not token_source():
        raise gated_error(reference.repo)
    mmproj = projector_for(variant, listing.files)
    extra = DownloadItem(locations.hub, listing.name, listing.commit, mmproj) if mmproj else None
    files = [DownloadItem(locations.hub, listing.name, listing.commit, part) for part in variant.parts]
    files += [extra] if extra and projector else []
    for wanted in files:
        check_has_sha256(wanted.file, reference)
    return PullPlan(reference, listing, variant, reason, tuple(files), missing_bytes(files), extra)


def pull(plan: PullPlan, locations: ModelLocations, bar: ProgressFor, say: Notify = ignore_message) -> ModelFile:
    """Download the missing files, verify the others, and record the commit of the reference.

    Raises:
        LlmcliError: the pull failed; the partial download is kept.
    """
    check_free_space(locations.hub, plan.missing)
    paths = [_ensure_file(wanted, str(plan.reference), locations, bar, say) for wanted in plan.files]
    try:
        cache.write_ref(locations.hub, plan.repo.name, plan.repo.revision, plan.repo.commit)
        _save_record(plan, locations)
    except OSError as error:
        path = error.filename or f"to {locations.hub} or {locations.data_dir}"
        raise DiskError(
            f"cannot write {path}: {error.strerror}", "free some disk space, or check the permissions"
        ) from None
    parts = tuple(paths[: len(plan.variant.parts)])
    return ModelFile(parts[0], parts, stem_of(parts[0]), trusted=False)


def _ensure_file(
    wanted: DownloadItem, reference: str, locations: ModelLocations, bar: ProgressFor, say: Notify
) -> Path:
    """Download one file, or verify it if another program downloaded it."""

    def check() -> None:
        existing = wanted.blob if wanted.blob.is_file() else wanted.pointer
        if not wanted.is_downloaded() or notes.is_verified(locations.data_dir, existing, wanted.file.sha256):
            return
        if notes.sha256_of(existing, bar(f"verifying {wanted.file.path}")) == wanted.file.sha256:
            notes.record_sha256(locations.data_dir, existing, wanted.file.sha256)
            return
        say(f"{wanted.file.path} in the cache is damaged: downloading it again")
        _remove(existing)

    check()
    partial_file.record_partial(locations.data_dir, wanted.partial, reference, wanted.file.size)
    path = fetch(wanted, bar(wanted.file.path.rpartition("/")[2]), say, check)
    partial_file.discard_record(locations.data_dir, wanted.partial)
    notes.record_sha256(locations.data_dir, path, wanted.file.sha256)
    return path


def _remove(damaged: Path) -> None:
    try:
        damaged.unlink()
    except OSError as error:
        raise DiskError(
            f"cannot remove the damaged file {damaged}: {error.strerror}", "remove it, then pull the model again"
        ) from None


def _save_record(plan: PullPlan, locations: ModelLocations) -> None:
    projector = plan.projector.file if plan.projector and plan.projector in plan.files else None
    record = cache.PulledRevision(
        str(plan.reference),
        plan.repo.name,
        plan.repo.commit,
        plan.variant.parts,
        projector,
        plan.repo.license,
        time.time(),
    )
    cache.save_revision(locations.data_dir, record)


def remote_header(wanted: DownloadItem) -> GGUFHeader:
    """The header, read with range requests: a few MiB, at most 32.

    Raises:
        ModelInvalidError: the header is not valid.
        LlmcliError: the Hub refuses or fails.
    """
    source = remote_file(wanted)
    patience = RetryPolicy(ignore_message, _TRIES)

    def fetch(start: int, end: int) -> bytes:
        data = bytearray()
        while len(data) < end - start:
            try:
                with source.open(start + len(data), end) as pieces:
                    for piece in pieces:
                        data += piece[: end - start - len(data)]
                        if len(data) >= end - start:
                            break
            except TransientError as fault:
                patience.wait(fault)
            else:
                if len(data) < end - start:
                    patience.wait(TransientError("the connection was closed early"))
        return bytes(data)

    return read_remote_header(fetch, wanted.file.size, wanted.file.path)
