"""The folder of stored states: found by the beginning of a prompt, limited in size, removed with their sessions.

A state only saves time. What cannot be read is passed over, and several processes may use the folder at once: a file
is replaced as a whole or not at all.

A file is named `IDENTITY-BEGINNING-SESSION-TOKENS.state`, by four digests: of what it was made with, of its first
tokens, of the name of its session (zeros for none), and of all its tokens. So most files need not be opened to see that
they do not fit.
"""

import hashlib
import json
import math
import os
import shutil
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.engine.events import Batches
from llmcli.errors import DiskError
from llmcli.files import cache_dir, make_private_folder
from llmcli.inference.state_file import Identity, StoredState, read_header, write_state
from llmcli.text import plural

MIN_TOKENS = 64  # of a state; so many are in the name of its file
_SUFFIX = ".state"
_NO_SESSION = "0" * 16
_FREE_SHARE = 10  # the states take a tenth of the free disk at most
_HALF_LIFE = 7 * 24 * 3600.0  # seconds without use after which a state counts half
_LEFT_OVER = 3600.0  # seconds after which a file that is being written belongs to a process that was killed


@dataclass(frozen=True)
class Entry:
    """A file in the folder."""

    path: Path
    size: int  # bytes
    used: float  # when it was last written or read; seconds since 1970


class StateStore:
    """The states of all models of this user."""

    def __init__(self, limit: int = 0) -> None:
        """All of them have `limit` bytes at most; with 0, none can be added."""
        self._limit, self._folder = limit, cache_dir() / "contexts"

    def find(self, identity: Identity, tokens: Sequence[int]) -> Iterator[StoredState]:
        """The states that begin as these tokens do, and were made with the same, whatever the model's name is.

        Their headers are checked, their data is not.
        """
        start = f"{_identity_key(identity)}-{_beginning_key(tokens)}-"
        for entry in self.entries():
            stored = read_header(entry.path) if entry.path.name.startswith(start) else None
            if stored and not differences(stored.identity, identity) and len(stored.tokens) >= MIN_TOKENS:
                yield stored

    def find_others(self, identity: Identity, tokens: Sequence[int]) -> Iterator[StoredState]:
        """The states that begin as these tokens do, and were made with something else."""
        key, beginning = _identity_key(identity), _beginning_key(tokens)
        for entry in self.entries():
            other, begin, *_ = entry.path.name.split("-")
            if begin == beginning and other != key and (stored := read_header(entry.path)):
                yield stored

    def add(
        self,
        identity: Identity,
        tokens: Sequence[int],
        batches: Batches,
        seconds: float,
        size: int,
        write: Callable[[Path], None],
        session: str = "",
    ) -> bool:
        """Store a state; it replaces the one that its session has. Returns whether there was room.

        `seconds` is what its evaluation took. `write` writes its `size` bytes to a path. Raises OSError if it cannot be
        written.
        """
        mark = _session_mark(session)
        key = hashlib.blake2b(_bytes_of(tokens), digest_size=8).hexdigest()
        name = f"{_identity_key(identity)}-{_beginning_key(tokens)}-{mark}-{key}{_SUFFIX}"
        size += 8 * len(tokens) + 4096  # with the tokens, which llama.cpp writes too, and the header
        make_private_folder(self._folder)
        if not self._make_room(size, self._folder / name):
            return False
        write_state(self._folder / name, identity, tokens, batches, seconds, write)
        if session:
            self._remove([one for one in self.entries() if _mark_of(one.path) == mark and one.path.name != name])
        return True

    def is_of(self, stored: StoredState, session: str) -> bool:
        """As `is_of_session`."""
        return is_of_session(stored.path, session)

    def touch(self, stored: StoredState) -> None:
        """Let a state that was used stay longer."""
        with suppress(OSError):
            os.utime(stored.path)

    def drop(self, stored: StoredState) -> None:
        """Remove a state that is damaged, or that another one makes useless; where that fails, it only takes room."""
        with suppress(OSError):
            stored.path.unlink()

    def entries(self) -> list[Entry]:
        """All files, without a look into them; what is not a file, such as a link or a pipe, is passed over."""
        found = []
        with suppress(OSError), os.scandir(self._folder) as files:
            for file in files:
                if file.name.endswith(_SUFFIX) and file.name.count("-") == 3 and not file.name.startswith("."):
                    with suppress(OSError):  # removed meanwhile
                        about = file.stat(follow_symlinks=False)
                        if stat.S_ISREG(about.st_mode):
                            found.append(Entry(Path(file.path), about.st_size, about.st_mtime))
        return found

    def check(self) -> None:
        """Raise DiskError if the folder cannot be read: `entries` has none then."""
        try:
            with suppress(FileNotFoundError), os.scandir(self._folder):
                pass
        except OSError as error:
            raise DiskError(f"cannot read {self._folder}: {error.strerror}") from None

    def capacity(self) -> int:
        """The most bytes that all states may have now: the limit, or less on a disk that is nearly full."""
        used = sum(entry.size for entry in self.entries())
        folder = self._folder
        while not folder.exists() and folder.parent != folder:
            folder = folder.parent
        return min(self._limit, (shutil.disk_usage(folder).free + used) // _FREE_SHARE)

    def clear(self) -> int:
        """Remove all states; returns how many. Raises DiskError if one of them cannot be removed."""
        self._remove_left_overs()
        return self.delete(self.entries())

    def delete(self, entries: Sequence[Entry]) -> int:
        """Remove states that must not stay; returns how many. Raises DiskError if one of them is there afterwards."""
        n_removed = self._remove(entries)
        if left := {entry.path for entry in entries} & {entry.path for entry in self.entries()}:
            message = f"cannot delete {plural(len(left), 'stored context')} in {self._folder}"
            raise DiskError(message, "make the folder writable, or end the programs that use them")
        return n_removed

    def _make_room(self, size: int, path: Path) -> bool:
        """Remove the least valuable states, so that one of `size` bytes fits, which replaces that of a `path`."""
        self._remove_left_overs(_LEFT_OVER)
        capacity, entries = self.capacity(), [entry for entry in self.entries() if entry.path != path]
        if size > capacity:
            return False
        excess = sum(entry.size for entry in entries) + size - capacity
        if excess > 0:  # the value of each is in its file
            entries.sort(key=_value)
        for entry in entries:
            if excess <= 0:
                break
            excess -= entry.size
            self._remove([entry])
        return True

    def _remove_left_overs(self, age: float = -math.inf) -> None:
        """Remove files that were not written to the end, and are so old in seconds."""
        for path in self._folder.glob(f".*{_SUFFIX}.*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= age:  # below 0 if the clock was set back
                    path.unlink()

    def _remove(self, entries: Iterable[Entry]) -> int:
        n_removed = 0
        for entry in entries:
            with suppress(OSError):  # another process has removed it, or Windows has it open
                entry.path.unlink()
                n_removed += 1
        return n_removed


def remove_session(name: str) -> None:
    """Remove the states of a session, which are as private as it is. Raises DiskError if one cannot be removed."""
    store = StateStore()
    store.delete([entry for entry in store.entries() if is_of_session(entry.path, name)])


def rename_session(old: str, new: str) -> None:
    """Let the states of a session be those of its new name; where that fails, they only take room."""
    for entry in StateStore().entries():
        if is_of_session(entry.path, old):
            identity, beginning, _, rest = entry.path.name.split("-")
            with suppress(OSError):
                entry.path.replace(entry.path.with_name(f"{identity}-{beginning}-{_session_mark(new)}-{rest}"))


def is_of_session(path: Path, session: str) -> bool:
    """Whether a state belongs to the session of this name; to none, if it is empty."""
    return _mark_of(path) == _session_mark(session)


def differences(one: Identity, other: Identity) -> list[str]:
    """The facts in which two identities differ. The name is none of them: a model file may have several."""
    return sorted(key for key in (one.keys() | other.keys()) - {"name"} if one.get(key) != other.get(key))


def _mark_of(path: Path) -> str:
    return path.name.split("-")[2]


def _session_mark(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() if name else _NO_SESSION


def _value(entry: Entry) -> float:
    """The seconds that a byte of the state saves, less for one that was not used for long."""
    stored = read_header(entry.path)
    if not stored:
        return 0.0
    age = max(time.time() - entry.used, 0.0)
    return float(stored.seconds / max(entry.size, 1) * 0.5 ** (age / _HALF_LIFE))


def _identity_key(identity: Identity) -> str:
    text = json.dumps({key: value for key, value in identity.items() if key != "name"}, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _beginning_key(tokens: Sequence[int]) -> str:
    return hashlib.blake2b(_bytes_of(tokens[:MIN_TOKENS]), digest_size=4).hexdigest()


def _bytes_of(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()
