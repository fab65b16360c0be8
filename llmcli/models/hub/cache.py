"""The cache that all Hugging Face tools share: its layout, its models, and the revisions that llmcli pulled.

models--owner--name/blobs/<sha256>                  the file's bytes
                    snapshots/<commit>/<path>       a link to the blob (the file itself where links are impossible)
                    refs/<revision>                 the commit of a branch or tag at the last request
.locks/models--owner--name/<sha256>.lock            locked by any tool while it downloads the blob
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import read_json, write_json
from llmcli.models.hub.repo_files import Quantization, RepoFile, is_safe_path, projectors, quantizations
from llmcli.models.notes import note_path
from llmcli.models.reference import is_repo

MOVE_HINT = "move the cache with HF_HUB_CACHE or HF_HOME"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_DEPTH = 4  # folders below a snapshot


def folder_of(cache: Path, repo: str) -> Path:
    """The folder of a repository in the cache."""
    return cache / f"models--{repo.replace('/', '--')}"


def repo_of(folder_name: str) -> str:
    """The repository of a folder in the cache; "" if it is not the folder of a model."""
    owner, dashes, name = folder_name.removeprefix("models--").partition("--")
    return f"{owner}/{name}" if folder_name.startswith("models--") and dashes and owner and name else ""


def repo_in_cache(cache: Path, repo: str) -> str:
    """The name under which the cache has a repository, in any case, as the Hub allows it; `repo` if it has none."""
    with contextlib.suppress(OSError):
        here, wanted = os.listdir(cache), folder_of(cache, repo).name
        same = [name for name in here if name.casefold() == wanted.casefold()]
        return repo if wanted in same or not same else repo_of(min(same))
    return repo


def pointer_path(cache: Path, repo: str, commit: str, path: str) -> Path:
    """The path of the link to a file of a commit."""
    return folder_of(cache, repo).joinpath("snapshots", commit, *path.split("/"))


def lock_path(blob: Path) -> Path:
    """The lock of a download to `blob`, which all Hugging Face tools use."""
    folder = blob.parent.parent
    return folder.parent / ".locks" / folder.name / f"{blob.name}.lock"


def create_folders(cache: Path, repo: str) -> None:
    """Create the folders of a repository. Raises OSError, and DiskError when a link leads out of the cache."""
    if cache.parts[:1] == ("~",):  # the system does not know the user's home
        raise DiskError("this user has no home folder for the model cache", "set HOME, HF_HOME or HF_HUB_CACHE")
    folder = folder_of(cache, repo)
    for subfolder in (folder / "blobs", folder / "snapshots", folder / "refs", cache / ".locks" / folder.name):
        subfolder.mkdir(parents=True, exist_ok=True)
        check_inside(subfolder, cache)


def check_inside(path: Path, cache: Path) -> None:
    """Raise DiskError when a link inside the cache leads `path` out of it."""
    if not os.path.realpath(path).startswith(os.path.join(os.path.realpath(cache), "")):
        raise DiskError(f"a link leads out of the cache: {path}", "inspect the link and remove it")


def publish(blob: Path, pointer: Path, cache: Path) -> None:
    """Link a blob as a file of a commit.

    Raises OSError (the link cannot be created) and DiskError (a link leads out of the cache).
    """
    pointer.parent.mkdir(parents=True, exist_ok=True)
    check_inside(pointer.parent, cache)
    if pointer.exists() and os.path.realpath(pointer) == os.path.realpath(blob):
        return
    fresh = pointer.with_name(f".{os.urandom(4).hex()}.llmcli")
    try:
        os.symlink(os.path.relpath(blob, pointer.parent), fresh)
    except (OSError, NotImplementedError):
        os.replace(blob, pointer)  # no links (Windows without the privilege): use the file itself, as the Hub does
        return
    try:
        os.replace(fresh, pointer)
    finally:
        fresh.unlink(missing_ok=True)


def write_ref(cache: Path, repo: str, revision: str, commit: str) -> None:
    """Write the commit of a branch or tag; do nothing if the revision is a commit. Raises OSError."""
    if read_ref(cache, repo, revision) == commit:
        return
    ref = folder_of(cache, repo).joinpath("refs", *revision.split("/"))
    ref.parent.mkdir(parents=True, exist_ok=True)
    check_inside(ref.parent, cache)
    fresh = ref.with_name(f"{ref.name}.{os.urandom(4).hex()}.tmp")
    try:
        fresh.write_text(commit)
        os.replace(fresh, ref)
    finally:
        fresh.unlink(missing_ok=True)  # the Hub's tools see an incomplete ref as a damaged cache


def read_ref(cache: Path, repo: str, revision: str) -> str:
    """The recorded commit of `revision`; "" when it is not known."""
    if _COMMIT.fullmatch(revision):
        return revision
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = folder_of(cache, repo).joinpath("refs", *revision.split("/")).read_text()[:64].strip()
        return text if _COMMIT.fullmatch(text) else ""
    return ""


@dataclass(frozen=True)
class CachedModel:
    """A model at one commit. Sizes are in bytes; `sha256` of a part is "" if the cache does not have it."""

    cache: Path
    repo: str
    commit: str
    variant: Quantization
    projector: RepoFile | None

    @property
    def parts(self) -> tuple[Path, ...]:
        return tuple(map(self.path_of, self.variant.parts))

    def is_same(self, other: "CachedModel") -> bool:
        """Whether both are the same files of one repository; at two commits, only checksums can prove it."""
        comparable = self.commit == other.commit or all(part.sha256 for part in self.variant.parts)
        return comparable and (self.repo, self.variant) == (other.repo, other.variant)

    def path_of(self, file: RepoFile) -> Path:
        return pointer_path(self.cache, self.repo, self.commit, file.path)


def cached_models(cache: Path) -> list[CachedModel]:
    """Every model of the cache, sorted by name; [] if the cache cannot be read."""
    with contextlib.suppress(OSError):
        names = sorted(filter(is_repo, map(repo_of, os.listdir(cache))))
        return [model for name in names for model in models_of_repo(cache, name)]
    return []


def models_of_repo(cache: Path, repo: str, whole: bool = True) -> list[CachedModel]:
    """The models of one repository: first those at the commit of `main`, then the newest.

    They are complete, or (with `whole=False`) lack parts because a pull was interrupted.
    """
    main, snapshots = read_ref(cache, repo, "main"), folder_of(cache, repo) / "snapshots"
    commits: list[tuple[bool, float, str]] = []
    with contextlib.suppress(OSError), os.scandir(snapshots) as entries:
        folders = (entry for entry in entries if entry.is_dir(follow_symlinks=False))
        commits = sorted((entry.name != main, -entry.stat().st_mtime, entry.name) for entry in folders)
    models: list[CachedModel] = []
    for *_order, commit in commits:
        files = list(_files(snapshots / commit))
        projector = next(iter(projectors(files)), None)
        variants = (variant for variant in quantizations(files) if variant.complete == whole)
        models += [CachedModel(cache, repo, commit, variant, projector) for variant in variants]
    return models


def _files(snapshot: Path) -> Iterator[RepoFile]:
    """The .gguf files below a snapshot that are not broken links; the name of a blob is the sha256."""
    for folder, below, names in os.walk(snapshot):
        inside = Path(folder).relative_to(snapshot)
        if len(inside.parts) == _MAX_DEPTH:
            below.clear()
        paths = (Path(folder, name) for name in names if name.lower().endswith(".gguf"))
        for path in filter(Path.is_file, paths):
            with contextlib.suppress(OSError):  # removed meanwhile
                blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
                sha256 = blob if _SHA256.fullmatch(blob) else ""
                yield RepoFile((inside / path.name).as_posix(), path.stat().st_size, sha256)


@dataclass(frozen=True)
class PulledRevision:
    """The revision and files of `reference` when it was pulled; `time` is in seconds since 1970."""

    reference: str
    repo: str
    commit: str
    files: tuple[RepoFile, ...]
    projector: RepoFile | None
    license: str
    time: float


def revision_path(data_dir: Path, reference: str) -> Path:
    """The file with the record of a reference."""
    return note_path(data_dir / "pulled", reference)


def save_revision(data_dir: Path, record: PulledRevision) -> None:
    """Write the record; it replaces an older one. Raises OSError."""
    write_json(revision_path(data_dir, record.reference), asdict(record))


def all_revisions(data_dir: Path) -> list[PulledRevision]:
    """Every record, the newest first."""
    found = filter(None, map(read_revision, (data_dir / "pulled").glob("*.json")))
    return sorted(found, key=lambda record: -record.time)


def read_revision(path: Path) -> PulledRevision | None:
    """The record in a file; None if there is none or it is not valid."""
    import msgspec  # imported here: it costs 8 ms, and most starts read no record

    data = read_json(path)
    try:  # `licence` is the name in older records
        record = msgspec.convert({"license": data.get("licence"), **data}, PulledRevision)
    except msgspec.ValidationError:
        return None
    files = [*record.files, record.projector] if record.projector else record.files
    is_valid = record.files and _COMMIT.fullmatch(record.commit) and all(is_safe_path(file.path) for file in files)
    return record if is_valid else None
