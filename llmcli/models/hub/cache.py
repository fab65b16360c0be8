"""The layout of the cache that all Hugging Face tools share, and how a file is published in it.

models--owner--name/blobs/<sha256>                  the file's bytes
                    snapshots/<commit>/<path>       a link to the blob (the file itself where links are impossible)
                    refs/<revision>                 the commit of a branch or tag at the last request
.locks/models--owner--name/<sha256>.lock            locked by any tool while it downloads the blob
"""

import contextlib
import os
import re
from pathlib import Path

from llmcli.errors import DiskError

PARTIAL = ".llmcli.incomplete"  # the Hub's own tools list and prune files that end in .incomplete
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_of(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def repo_of(folder_name: str) -> str:
    """The repository of a folder in the cache; "" if it is not the folder of a model."""
    owner, dashes, name = folder_name.removeprefix("models--").partition("--")
    return f"{owner}/{name}" if folder_name.startswith("models--") and dashes and owner and name else ""


def blob_path(cache: Path, repo: str, sha256: str) -> Path:
    return folder_of(cache, repo) / "blobs" / sha256


def partial_path(cache: Path, repo: str, sha256: str) -> Path:
    return folder_of(cache, repo) / "blobs" / (sha256 + PARTIAL)


def pointer_path(cache: Path, repo: str, commit: str, path: str) -> Path:
    return folder_of(cache, repo).joinpath("snapshots", commit, *path.split("/"))


def lock_path(cache: Path, repo: str, sha256: str) -> Path:
    return cache / ".locks" / folder_of(cache, repo).name / f"{sha256}.lock"


def prepare(cache: Path, repo: str) -> None:
    """Create the folders of a repository, and check that no link leads out of the cache.

    Raises:
        DiskError: a folder cannot be created, or a link leads out of the cache.
    """
    if cache.parts[:1] == ("~",):  # the system does not know the user's home
        raise DiskError("this user has no home folder for the model cache", "set HOME, HF_HOME or HF_HUB_CACHE")
    folder = folder_of(cache, repo)
    inner = [folder / "blobs", folder / "snapshots", folder / "refs", cache / ".locks" / folder.name]
    try:
        for subfolder in inner:
            subfolder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"cannot create {error.filename or folder}: {error.strerror}", "move the cache with HF_HUB_CACHE or HF_HOME"
        ) from None
    for subfolder in inner:
        check_inside(subfolder, cache)


def check_inside(path: Path, cache: Path) -> None:
    """Raise DiskError when a link inside the cache leads `path` out of it."""
    if not os.path.realpath(path).startswith(os.path.join(os.path.realpath(cache), "")):
        raise DiskError(f"a link leads out of the cache: {path}", "inspect the link and remove it")


def publish(cache: Path, repo: str, commit: str, path: str, sha256: str) -> Path:
    """Link a blob as `path` of a commit, and give the path of the link.

    Raises:
        OSError: the link cannot be created.
        DiskError: a link leads out of the cache.
    """
    blob, pointer = blob_path(cache, repo, sha256), pointer_path(cache, repo, commit, path)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    check_inside(pointer.parent, cache)
    if os.path.lexists(pointer) and os.path.realpath(pointer) == os.path.realpath(blob) and pointer.exists():
        return pointer
    fresh = pointer.with_name(f".{os.urandom(4).hex()}.llmcli")
    try:
        os.symlink(os.path.relpath(blob, pointer.parent), fresh)
    except (OSError, NotImplementedError):
        os.replace(blob, pointer)  # no links (Windows without the privilege): use the file itself, as the Hub does
        return pointer
    try:
        os.replace(fresh, pointer)
    finally:
        fresh.unlink(missing_ok=True)
    return pointer


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
