"""How files lie in the cache that the hub's tools share, and how one is put there.

models--owner--name/blobs/<sha256>                  the bytes
                    snapshots/<commit>/<path>       a link to them (the file itself where links are not possible)
                    refs/<revision>                 the commit a name stood for when it was last asked
.locks/models--owner--name/<sha256>.lock            held while the blob is being fetched, by any tool
"""

import contextlib
import os
import re
from pathlib import Path

from llmcli.errors import DiskError

PARTIAL = ".llmcli.incomplete"  # the hub's own tools count and prune what ends in .incomplete
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_of(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def repo_of(folder_name: str) -> str:
    """The repository a folder of the cache belongs to; "" when it is none of a model."""
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
    """Make the folders of a repository, and refuse those that a link leads out of the cache.

    Raises:
        DiskError: when they cannot be made, or lead elsewhere.
    """
    if cache.parts[:1] == ("~",):  # what is left of it where the system knows no home
        raise DiskError("this user has no home folder to keep models in", "Set HOME, HF_HOME or HF_HUB_CACHE.")
    folder = folder_of(cache, repo)
    inner = [folder / "blobs", folder / "snapshots", folder / "refs", cache / ".locks" / folder.name]
    try:
        for place in inner:
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"cannot make {error.filename or folder}: {error.strerror}", "Move the cache with HF_HUB_CACHE or HF_HOME."
        ) from None
    for place in inner:
        check_inside(place, cache)


def check_inside(place: Path, cache: Path) -> None:
    """Raise DiskError where a link inside the cache leads `place` out of it."""
    if not os.path.realpath(place).startswith(os.path.join(os.path.realpath(cache), "")):
        raise DiskError(f"{place} leads out of the cache through a link", "Look at it and remove the link.")


def publish(cache: Path, repo: str, commit: str, path: str, sha256: str) -> Path:
    """Make a blob that is there visible as `path` of a commit, and give that place.

    Raises:
        OSError: when it cannot be written.
        DiskError: when a link leads out of the cache.
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
        os.replace(blob, pointer)  # no links here (Windows without the right): the file itself, as the hub does
        return pointer
    try:
        os.replace(fresh, pointer)
    finally:
        fresh.unlink(missing_ok=True)
    return pointer


def write_ref(cache: Path, repo: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag stands for; nothing for a commit itself. Raises OSError."""
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
        fresh.unlink(missing_ok=True)  # half a ref would be a damaged cache to the hub's tools


def read_ref(cache: Path, repo: str, revision: str) -> str:
    """The commit that `revision` stood for, "" when that is not known here."""
    if _COMMIT.fullmatch(revision):
        return revision
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = folder_of(cache, repo).joinpath("refs", *revision.split("/")).read_text()[:64].strip()
        return text if _COMMIT.fullmatch(text) else ""
    return ""
