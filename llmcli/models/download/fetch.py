"""Download a file: check the disk, lock, transfer, verify, publish."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, error_text
from llmcli.models.download.partial_file import PartialFile, partial_path
from llmcli.models.download.transfer import RemoteFile, Transfer
from llmcli.models.locations import Notify, Progress

RESERVE = 64 << 20  # bytes of disk space that stay free
_GB = 10**9
_FULL = errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)  # Windows has no EDQUOT


def check_free_space(cache: Path, needed: int, hint: str) -> None:
    """Raise DiskError before the download starts if the disk does not have `needed` bytes."""
    try:
        existing = next(path for path in (cache, *cache.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise DiskError(f"cannot use {cache}: {error_text(error)}", hint) from None
    if needed and free < needed + RESERVE:
        raise DiskError(
            f"the download needs {needed / _GB:.2f} GB, but {existing} has {free / _GB:.2f} GB free",
            f"free some disk space (`llmcli models rm`), or {hint}",
        )


@contextmanager
def exclusive(lock: Path, what: str, notify: Notify, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock for the time of the block. While another process has the lock, report it once and call `on_wait`.

    The lock only saves work: on a file system with broken locks, the checksum at the end still protects the file.
    """
    from filelock import FileLock, Timeout  # imported here: 70 ms that only downloads need

    holder, guard = lock.with_suffix(".llmcli"), FileLock(lock)
    try:
        guard.acquire(blocking=False)
    except Timeout:
        notify(f"waiting for {_holder_name(holder)} to download {what}")
        while not guard.is_locked:
            on_wait()
            with contextlib.suppress(Timeout):
                guard.acquire(timeout=0.5)
    try:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
            with holder.open("x") as file:  # "x" does not follow a planted link
                file.write(f"{os.getpid()} {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        guard.release()


def download(
    remote: RemoteFile, target: Path, verify: Callable[[str], None], progress: Progress, notify: Notify
) -> str:
    """Download the missing bytes, publish the file at `target` when `verify` accepts its sha256, and give that in hex.

    Raises:
        LlmcliError: the server refuses or fails, or `verify` refuses the file, which is then deleted.
        OSError: the disk fails.
    """
    partial = PartialFile(partial_path(target), remote.size)
    digest = Transfer(remote, partial, progress, notify).run()
    try:
        verify(digest)
    except LlmcliError:
        partial.discard()
        raise
    _sync_to_disk(partial.path)
    os.replace(partial.path, target)
    partial.remove_record()
    _sync_to_disk(target.parent)
    return digest


def check_sha256(digest: str, expected: str, what: str, hint: str) -> None:
    """Raise ModelInvalidError for a downloaded file with another sha256; `what` is its name in the error."""
    if digest != expected:
        raise ModelInvalidError(f"checksum mismatch for {what}: got {digest}, expected {expected}", hint)


def write_error(error: OSError, folder: Path, path: Path, hint: str) -> DiskError:
    """The error for a download to `path` in `folder` that the disk stopped."""
    if error.errno in _FULL:
        return DiskError(f"the disk is full: {folder}", "free some disk space, then run the command again to resume")
    return DiskError(f"cannot write {error.filename or path}: {error_text(error)}", hint)


def _sync_to_disk(path: Path) -> None:
    """Sync a file or a folder to disk, if the system supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            raise
    finally:
        os.close(descriptor)


def _holder_name(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, OverflowError):
        pid, host = holder.read_text()[:300].split()
        if host != socket.gethostname():
            return f"process {int(pid)} on {host}"
        if _is_running(int(pid)):
            return f"process {int(pid)}"
    return "another program"


def _is_running(pid: int) -> bool:
    """Whether the process exists; a killed process leaves its file behind."""
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user
            return True
    return True
