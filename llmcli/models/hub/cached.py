"""Which models does the hub's cache hold, whoever put them there?"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.models.hub import layout
from llmcli.models.hub.variants import RepoFile, Variant, projectors, variants
from llmcli.models.reference import is_repo

_DEEPEST = 4  # folders below a snapshot


@dataclass(frozen=True)
class CachedModel:
    """A complete model at one commit. Sizes are bytes; a part's `sha256` is "" where the cache does not know it."""

    cache: Path
    repo: str
    commit: str
    variant: Variant
    projector: RepoFile | None

    @property
    def parts(self) -> tuple[Path, ...]:
        return tuple(self.place(part) for part in self.variant.parts)

    def is_same(self, other: "CachedModel") -> bool:
        """Whether both are the same files of one repository; of copies at two commits nobody has said so."""
        known = self.commit == other.commit or all(part.sha256 for part in self.variant.parts)
        return known and (self.repo, self.variant) == (other.repo, other.variant)

    def place(self, file: RepoFile) -> Path:
        return layout.pointer_path(self.cache, self.repo, self.commit, file.path)


def cached_models(cache: Path) -> list[CachedModel]:
    """Every model of the cache by name; a cache that cannot be read has none."""
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(cache) as entries:
        names = sorted(filter(is_repo, (layout.repo_of(entry.name) for entry in entries)))
    return [model for name in names for model in models_of(cache, name)]


def models_of(cache: Path, repo: str, whole: bool = True) -> list[CachedModel]:
    """The models of one repository, the commit that `main` stood for first, then the newest.

    Those with all their parts, or (not `whole`) those that lack some: what an interrupted pull leaves behind.
    """
    main = layout.read_ref(cache, repo, "main")
    commits = sorted(_commits(cache, repo), key=lambda pair: (pair[0] != main, -pair[1]))
    return [model for commit, _time in commits for model in _models_at(cache, repo, commit, whole)]


def _models_at(cache: Path, repo: str, commit: str, whole: bool) -> Iterator[CachedModel]:
    folder = layout.folder_of(cache, repo) / "snapshots" / commit
    files = list(_files(folder, "", _DEEPEST))
    projector = next(iter(projectors(files)), None)
    for variant in variants(files):
        if variant.complete == whole:
            yield CachedModel(cache, repo, commit, variant, projector)


def _commits(cache: Path, repo: str) -> list[tuple[str, float]]:
    """The commits that are here, each with the time its folder changed."""
    with contextlib.suppress(OSError), os.scandir(layout.folder_of(cache, repo) / "snapshots") as entries:
        return [(entry.name, entry.stat().st_mtime) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _files(folder: Path, prefix: str, depth: int) -> Iterator[RepoFile]:
    """The .gguf files below a snapshot whose bytes are there; the name of its blob is a file's sha256."""
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
