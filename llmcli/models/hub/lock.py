"""One download at a time per file: the lock that the Hub's own tools use too, and the process that has it."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcli.models.hub.retries import Say


@contextmanager
def only_one(lock: Path, what: str, say: Say, waiting: Callable[[], None]) -> Iterator[None]:
    """Lock for the time of the block. While another process has the lock, report it once and call `waiting`.

    The lock only saves work: on a file system with broken locks, the checksum at the end still protects the file.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # imported here: 70 ms that only downloads need

    holder = lock.with_suffix(".llmcli")
    kind: type[FileLock] | type[SoftFileLock] = FileLock
    guard = kind(lock)
    reported = False
    while True:
        try:
            guard.acquire(timeout=0.5 if reported else 0)
            break
        except Timeout:
            if not reported:
                say(f"waiting for {_holder_name(holder)} to download {what}")
            reported = True
            waiting()
        except NotImplementedError:  # a file system without locks
            guard = SoftFileLock(lock)
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


@contextmanager
def if_free(lock: Path) -> Iterator[bool]:
    """Lock for the time of the block if no other process has the lock; gives whether it was free."""
    from filelock import FileLock, Timeout

    guard = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except NotImplementedError:  # a file system without locks
        yield True
        return
    try:
        yield True
    finally:
        guard.release()


def _holder_name(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid, host = holder.read_text()[:300].split()
        is_local = host == socket.gethostname()
        if is_local and not _is_running(int(pid)):
            return "another program"
        return f"process {int(pid)}" + ("" if is_local else f" on {host}")
    return "another program"


def _is_running(pid: int) -> bool:
    """Whether the process exists; a killed process leaves its file behind."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
