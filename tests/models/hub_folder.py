"""Write the cache of the Hub for tests, with the layout of huggingface_hub 2.4."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

OLD, NEW, THIRD = "a" * 40, "b" * 40, "c" * 40  # commits
REPO = "owner/repo-GGUF"


def repo_folder(cache: Path, repo: str = REPO) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def add_file(
    cache: Path, path: str, data: bytes, commit: str = NEW, repo: str = REPO, ref: str = "", plain: bool = False
) -> Path:
    """Put a file into the cache and give its place in the snapshot: a relative link, or (`plain`) the file itself.

    `ref` is the branch or tag that stands for the commit from now on.
    """
    folder = repo_folder(cache, repo)
    pointer = folder / "snapshots" / commit / path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    (folder / "blobs").mkdir(exist_ok=True)
    if plain:
        pointer.write_bytes(data)
    else:
        blob = folder / "blobs" / sha256(data)
        blob.write_bytes(data)
        pointer.unlink(missing_ok=True)
        _link(pointer, blob)
    if ref:
        set_ref(cache, ref, commit, repo)
    return pointer


def add_parts(cache: Path, stem: str, count: int, commit: str = NEW, leave_out: Iterable[int] = ()) -> list[Path]:
    """The parts of a split model, without those of `leave_out`; each holds its own name."""
    names = [f"{stem}-{k:05d}-of-{count:05d}.gguf" for k in range(1, count + 1) if k not in set(leave_out)]
    return [add_file(cache, name, name.encode(), commit) for name in names]


def set_ref(cache: Path, ref: str, commit: str, repo: str = REPO) -> Path:
    path = repo_folder(cache, repo) / "refs" / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)
    return path


def touch_commit(cache: Path, commit: str, age: float, repo: str = REPO) -> None:
    """Let the folder of a commit have changed `age` seconds ago."""
    then = time.time() - age
    os.utime(repo_folder(cache, repo) / "snapshots" / commit, (then, then))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(*folders: Path) -> dict[str, str]:
    """Everything in some folders: of a link where it leads, of a file what it holds."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                found[str(path)] = f"-> {os.readlink(path)}"
            else:
                found[str(path)] = sha256(path.read_bytes()) if path.is_file() else "folder"
    return found


def share_blob(cache: Path, pointer: Path) -> Path:
    """Move the blob of a pointer into the store that repositories share, as the hub does with Xet files."""
    store = cache / "blobs"
    store.mkdir(exist_ok=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    blob = Path(os.path.abspath(pointer.parent / os.readlink(pointer)))
    payload = store / blob.name[:2] / blob.name
    payload.parent.mkdir(exist_ok=True)
    os.replace(blob, payload)
    _link(blob, payload)
    return payload


def _link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(os.path.relpath(target, link.parent))
    except OSError:
        pytest.skip("links are not allowed here")
