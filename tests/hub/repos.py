"""The repositories of the test Hub: their commits, and files by their digests."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal

LFS_FROM = 1 << 20
Gating = Literal[False, "manual", "auto"]
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Content:
    """The bytes of a file, in memory or in a file that is never read whole."""

    source: bytes | Path
    size: int
    sha256: str
    blob_id: str
    lfs: bool

    @property
    def pointer_size(self) -> int:
        return len(_pointer(self.sha256, self.size))


def content_of(name: str, source: bytes | Path) -> Content:
    """The content with its digests; the Hub keeps large files and every GGUF file outside of git."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    lfs = size >= LFS_FROM or name.endswith(".gguf")
    if isinstance(source, bytes):
        sha256, small = hashlib.sha256(source).hexdigest(), source
    else:
        sha256 = _sha256_of_file(source, size, source.stat().st_mtime_ns)
        small = b"" if lfs else source.read_bytes()
    in_git = _pointer(sha256, size) if lfs else small
    blob_id = hashlib.sha1(b"blob %d\0" % len(in_git) + in_git).hexdigest()
    return Content(source, size, sha256, blob_id, lfs)


@cache
def _sha256_of_file(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one moment."""

    id: str
    date: str
    files: Mapping[str, Content]


@dataclass
class Repo:
    """A repository with its history on main; older commits stay readable."""

    id: str
    license: str | None = None
    extra_tags: tuple[str, ...] = ()
    downloads: int = 0
    likes: int = 0
    gated: Gating = False
    private: bool = False
    granted: bool = False
    parameters: int | None = None
    architecture: str = "llama"
    context_length: int = 2048
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.commits[-1].id

    @property
    def files(self) -> Mapping[str, Content]:
        return self.commits[-1].files

    def commit(self, changes: Mapping[str, bytes | Path | None]) -> str:
        """Put these files on top of those of the last commit (None deletes one); returns the new commit's id."""
        files = dict(self.commits[-1].files) if self.commits else {}
        for name, source in changes.items():
            files.pop(name, None)
            if source is not None:
                files[name] = content_of(name, source)
        number = len(self.commits)
        listing = "".join(f"{name}\0{files[name].sha256}\n" for name in sorted(files))
        name = hashlib.sha1(f"{self.id} {number}\n{listing}".encode()).hexdigest()
        self.commits.append(Commit(name, date_of(number), {name: files[name] for name in sorted(files)}))
        return name

    def tag(self, name: str, commit: str | None = None) -> None:
        """Name a commit (the last one if none is given) as a revision."""
        self.tags[name] = commit or self.head

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, an id or the beginning of an id stands for."""
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        wanted = self.tags.get(revision, revision)
        found = [commit for commit in self.commits if commit.id.startswith(wanted)]
        return found[0] if found and len(wanted) >= 7 else None

    @property
    def all_tags(self) -> list[str]:
        gguf = ["gguf"] if any(name.endswith(".gguf") for name in self.files) else []
        license_tag = [f"license:{self.license}"] if self.license else []
        return [*gguf, *self.extra_tags, *license_tag, "region:us"]


def date_of(number: int) -> str:
    """When the commit of this number was made: one a day."""
    return (_FIRST_DAY + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
