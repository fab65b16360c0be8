"""One download however many processes ask: the lock that the hub's own tools take too, and who holds it."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcli.models.hub.retries import Say


@contextmanager
def only_one(lock: Path, what: str, say: Say, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `lock` for the time of the block; while another process holds it, say so once and go on `waiting`.

    It saves work and nothing hangs on it: where a file system only pretends to lock, the checksum at the end decides.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # 70 ms, for downloads only

    holder = lock.with_suffix(".llmcli")
    kind: type[FileLock] | type[SoftFileLock] = FileLock
    guard = kind(lock)
    said = False
    while True:
        try:
            guard.acquire(timeout=0.5 if said else 0)
            break
        except Timeout:
            if not said:
                say(f"{_who(holder)} is downloading {what}; waiting for it")
            said = True
            waiting()
        except NotImplementedError:  # a file system without locks
            guard = SoftFileLock(lock)
    try:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
            with holder.open("x") as file:  # "x" follows no link that somebody put there
                file.write(f"{os.getpid()} {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        guard.release()


@contextmanager
def if_free(lock: Path) -> Iterator[bool]:
    """Hold `lock` for the time of the block if nobody else does; whether that is so."""
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


def _who(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid, host = holder.read_text()[:300].split()
        here = host == socket.gethostname()
        if here and not _lives(int(pid)):
            return "another program"
        return f"process {int(pid)}" + ("" if here else f" on {host}")
    return "another program"


def _lives(pid: int) -> bool:
    """Whether there is such a process; a killed one leaves its name behind."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
