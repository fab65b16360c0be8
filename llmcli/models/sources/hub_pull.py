"""Pull a model of the Hub: plan it, download and verify the files, record the revision, or read only the header."""

import time
from dataclasses import dataclass

from llmcli.errors import DiskError, error_text
from llmcli.models.download.fetch import check_free_space
from llmcli.models.download.http import RetryPolicy
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_remote_header
from llmcli.models.gguf.splits import stem_of
from llmcli.models.hub import cache
from llmcli.models.hub.api import Repo, check_has_sha256, get_repo, ignore_message
from llmcli.models.hub.environment import gated_error, token_source
from llmcli.models.hub.repo_download import DownloadItem, HubFile, fetch
from llmcli.models.hub.repo_files import Quantization, best_fit, projector_for, quantizations, select_quantization
from llmcli.models.locations import ModelFile, ModelLocations, Notify
from llmcli.models.reference import HubReference
from llmcli.models.sources.source import DownloadPlan, ProgressFor
from llmcli.text import format_age

_ATTEMPTS = 4


@dataclass(frozen=True)
class PullPlan(DownloadPlan):
    """A pull from the Hub: `files` are those of the model and, on request, the projector."""

    reference: HubReference
    locations: ModelLocations
    repo: Repo
    variant: Quantization
    files: tuple[DownloadItem, ...]
    projector: DownloadItem | None  # available; in `files` only on request

    def fetch(self, progress_for: ProgressFor, notify: Notify = ignore_message) -> ModelFile:
        """Download the missing files, verify the others, and record the commit of the reference.

        Raises:
            LlmcliError: the pull failed; the partial download is kept.
        """
        locations, repo = self.locations, self.repo
        check_free_space(locations.hub, self.missing, cache.MOVE_HINT)
        paths = [fetch(item, str(self.reference), locations.data_dir, progress_for, notify) for item in self.files]
        projector = self.projector.file if self.projector and self.projector in self.files else None
        record = cache.PulledRevision(
            str(self.reference), repo.name, repo.commit, self.variant.parts, projector, repo.license, time.time()
        )
        try:
            cache.write_ref(locations.hub, repo.name, repo.revision, repo.commit)
            cache.save_revision(locations.data_dir, record)
        except OSError as error:
            path = error.filename or f"to {locations.hub} or {locations.data_dir}"
            raise DiskError(
                f"cannot write {path}: {error_text(error)}", "free some disk space, or check the permissions"
            ) from None
        parts = tuple(paths[: len(self.variant.parts)])
        return ModelFile(parts[0], parts, stem_of(parts[0]))


def plan_pull(
    reference: HubReference,
    locations: ModelLocations,
    memory: int,
    notify: Notify = ignore_message,
    projector: bool = False,
) -> PullPlan:
    """Ask the Hub, in one request, what `reference` is now. `memory` in bytes guides the selection (0 = unknown).

    Raises:
        ModelNotFoundError: the Hub has no such model, or not all of its parts.
        NotAllowedError: the model is gated and no token is set.
        NetworkError: the Hub cannot be reached.
    """
    listing = get_repo(reference, locations.offline, notify)
    found = quantizations(listing.files)
    if reference.quant or reference.file or not found:
        variant, reason = select_quantization(found, reference.quant, reference.file, reference.repo), ""
    else:
        variant, reason = best_fit(found, memory)
    if listing.gated and not token_source():
        raise gated_error(reference.repo)
    mmproj = projector_for(variant, listing.files)
    extra = DownloadItem(locations.hub, listing.name, listing.commit, mmproj) if mmproj else None
    files = [DownloadItem(locations.hub, listing.name, listing.commit, part) for part in variant.parts]
    files += [extra] if extra and projector else []
    for item in files:
        check_has_sha256(item.file, reference)
    size = sum(item.file.size for item in files)
    parts = f" in {len(variant.parts)} parts" if len(variant.parts) > 1 else ""
    return PullPlan(
        reference=reference,
        title=f"{listing.name}/{variant.path}{parts}",
        size=size,
        missing=sum(item.missing for item in files),
        reason=reason,
        update=_update(reference, variant, locations),
        locations=locations,
        repo=listing,
        variant=variant,
        files=tuple(files),
        projector=extra,
    )


def remote_header(item: DownloadItem) -> GGUFHeader:
    """The header, read with range requests: a few MiB, at most 32.

    Raises:
        ModelInvalidError: the header is not valid.
        LlmcliError: the Hub refuses or fails.
    """
    remote, retries = HubFile(item.repo, item.commit, item.file), RetryPolicy(ignore_message, _ATTEMPTS)
    return read_remote_header(lambda start, end: remote.read(start, end, retries), item.file.size, item.file.path)


def _update(reference: HubReference, variant: Quantization, locations: ModelLocations) -> str:
    """A message if the reference now means other files than when it was pulled; "" if not."""
    old = cache.load_revision(locations.data_dir, str(reference))
    if old is None or old.files == variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {format_age(old.time)}"
    return f"a newer version of this model; the old one ({version}) is kept, see `llmcli models list`"
