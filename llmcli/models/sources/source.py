"""What a source of models can do: parse a reference, find, list and remove models, plan a download."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.kind import kind_of
from llmcli.models.gguf.parser import read_summary
from llmcli.models.hub.cache import CachedModel
from llmcli.models.hub.repo_files import quantization_of
from llmcli.models.locations import ModelFile, ModelLocations, Notify, Progress
from llmcli.models.reference import Reference, RemoteReference

ProgressFor = Callable[[str], Progress]  # the progress of the file with this name


@dataclass(frozen=True)
class InstalledModel:
    """A model on this machine; `name` is a reference to it."""

    name: str
    source: "Source"
    parts: tuple[Path, ...]  # its files, the first part first
    size: int  # of all parts, in bytes
    digests: tuple[str, ...]  # the published sha256 of each part, not verified; "" if unknown
    projector: Path | None = None  # the vision projector (mmproj)
    cached: CachedModel | None = None  # as which it is in the Hub's cache
    last_used: float | None = None  # in seconds since 1970
    aliases: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file to load: the first part."""
        return self.parts[0]

    @property
    def quantization(self) -> str:
        return quantization_of(self.path.name) or self.summary.quantization

    @property
    def kind(self) -> str:
        """What the model is for, in one word; "" if its file cannot be read."""
        return kind_of(self.summary).name if self.summary.metadata else ""

    @cached_property
    def summary(self) -> GGUFHeader:
        return read_summary(self.path)


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will fetch. Sizes are in bytes."""

    reference: RemoteReference
    title: str  # of the file
    size: int
    missing: int  # the part of `size` that is not downloaded yet
    reason: str  # for this file, if the user did not choose it
    update: str  # a message if the reference now means other files than those on this machine

    def header(self) -> GGUFHeader:
        """The header of the (first) file, read in a few MiB without its weights. Raises LlmcliError."""
        raise NotImplementedError

    def download(self, progress_for: ProgressFor, notify: Notify) -> ModelFile:
        """Download and verify what is missing. Raises LlmcliError; the partial download is kept then."""
        raise NotImplementedError

    def replaces(self, partial: Path) -> bool:
        """Whether a partial download for this reference cannot be resumed: its server no longer has the content."""
        return False


@dataclass(frozen=True)
class RemovalPlan:
    """The files to remove, in order, and the bytes freed. `kept` are files that other models share.

    `is_foreign` is True if another program downloaded them, as far as is known: it can still need them.
    """

    item: InstalledModel
    files: tuple[Path, ...]
    freed: int
    kept: tuple[Path, ...] = ()
    is_foreign: bool = False

    @property
    def names(self) -> tuple[Path, ...]:
        """The file names that users know, without the blobs behind them."""
        return tuple(path for path in self.files if path.suffix == ".gguf" or path.name == self.item.path.name)


class Source:
    """A place that models come from. A subclass overrides what it can do; a method without a body does nothing."""

    name = ""  # in `llmcli models list --json`
    label = ""  # in tables
    owner, removal_hint = "you, not to llmcli", "delete the file yourself"
    has_names = False  # True if a reference names each of its models, without an import of a folder
    is_removable = False  # True if llmcli downloaded the models, and may delete them

    def parse(self, text: str) -> Reference | None:
        """The reference of this source for a text without control characters; None for a text of another form.

        Raises ModelNotFoundError if the text has the form of this source, but is not valid.
        """

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        """The model on this machine, without network; None if it is not there, or the reference is another source's.

        Raises ModelNotFoundError (no other place can have it) or ModelInvalidError (it is damaged).
        """

    def models(self, locations: ModelLocations) -> Iterable[InstalledModel]:
        """The models that this source has downloaded, with a name that `find` takes."""
        return ()

    def plan(self, reference: Reference, locations: ModelLocations, memory: int, notify: Notify) -> DownloadPlan | None:
        """What a download of the reference will fetch. `memory` in bytes guides the selection (0 = unknown).

        Raises LlmcliError if the model does not exist, or the server cannot be reached.
        """

    def plan_removal(self, item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
        """Plan the removal of one of its models. Raises UsageError if llmcli did not download it."""
        if not self.is_removable:
            raise UsageError(f"{item.path} belongs to {self.owner}", self.removal_hint)
        return RemovalPlan(item, item.parts, item.size)

    def repair_hint(self, item: InstalledModel, locations: ModelLocations) -> str:
        """What the user can do about a damaged file of one of its models."""
        return "copy or download it again"

    def clean_up(self, plan: RemovalPlan, locations: ModelLocations) -> None:
        """Remove what is left of a model after its files are removed."""
        remove_empty(plan.item.path.parent, locations.cache_dir)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top` as long as they are empty."""
    with suppress(OSError):
        while top in folder.parents:
            folder.rmdir()
            folder = folder.parent
