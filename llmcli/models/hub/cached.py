"""List the models in the Hub's cache, whichever program downloaded them."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.models.hub import cache as layout
from llmcli.models.hub.repo_files import RepoFile, Variant, projectors, variants
from llmcli.models.reference import is_repo

_MAX_DEPTH = 4  # folders below a snapshot


@dataclass(frozen=True)
class CachedModel:
    """A model at one commit. Sizes are in bytes; `sha256` of a part is "" if the cache does not have it."""

    cache: Path
    repo: str
    commit: str
    variant: Variant
    projector: RepoFile | None

    @property
    def parts(self) -> tuple[Path, ...]:
        return tuple(self.place(part) for part in self.variant.parts)

    def is_same(self, other: "CachedModel") -> bool:
        """Whether both are the same files of one repository; at two commits, only checksums can prove it."""
        comparable = self.commit == other.commit or all(part.sha256 for part in self.variant.parts)
        return comparable and (self.repo, self.variant) == (other.repo, other.variant)

    def place(self, file: RepoFile) -> Path:
        return layout.pointer_path(self.cache, self.repo, self.commit, file.path)


def cached_models(cache: Path) -> list[CachedModel]:
    """Every model of the cache, sorted by name; [] if the cache cannot be read."""
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(cache) as entries:
        names = sorted(filter(is_repo, (layout.repo_of(entry.name) for entry in entries)))
    return [model for name in names for model in models_of(cache, name)]


def models_of(cache: Path, repo: str, whole: bool = True) -> list[CachedModel]:
    """The models of one repository: first those at the commit of `main`, then the newest.

    They are complete, or (with `whole=False`) lack parts because a pull was interrupted.
    """
    main = layout.read_ref(cache, repo, "main")
    commits = sorted(_commits(cache, repo), key=lambda pair: (pair[0] != main, -pair[1]))
    return [model for commit, _time in commits for model in _models_at(cache, repo, commit, whole)]


def _models_at(cache: Path, repo: str, commit: str, whole: bool) -> Iterator[CachedModel]:
    folder = layout.folder_of(cache, repo) / "snapshots" / commit
    files = list(_files(folder, "", _MAX_DEPTH))
    projector = next(iter(projectors(files)), None)
    for variant in variants(files):
        if variant.complete == whole:
            yield CachedModel(cache, repo, commit, variant, projector)


def _commits(cache: Path, repo: str) -> list[tuple[str, float]]:
    """The commits in the cache, each with the modification time of its folder."""
    with contextlib.suppress(OSError), os.scandir(layout.folder_of(cache, repo) / "snapshots") as entries:
        return [(entry.name, entry.stat().st_mtime) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _files(folder: Path, prefix: str, depth: int) -> Iterator[RepoFile]:
    """The .gguf files below a snapshot that are not broken links; the name of a blob is the sha256."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and depth:
            yield from _files(folder / entry.name, f"{prefix}{entry.name}/", depth - 1)
        if not entry.name.lower().endswith(".gguf"):
            continue
        with contextlib.suppress(OSError):
            if entry.is_file():
                yield RepoFile(prefix + entry.name, entry.stat().st_size, _digest(entry))


def _digest(entry: "os.DirEntry[str]") -> str:
    if not entry.is_symlink():
        return ""
    name = os.path.basename(os.readlink(entry.path))
    return name if len(name) == 64 and all(c in "0123456789abcdef" for c in name) else ""
