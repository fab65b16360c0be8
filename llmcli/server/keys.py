"""Keys of a server: their file, which is read again when it changes, and the tokens that each may use in a minute."""

import hashlib
import hmac
import os
import re
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError, UsageError, labeled
from llmcli.files import check_name, read_error

WINDOW = 60.0  # seconds, of the limit of tokens
_MOST_BYTES = 1 << 20  # of a file
SHORT = 16  # characters; a key with fewer can be guessed
_CHECK_EVERY = 1.0  # seconds, between two looks at the file
_FORM = "write NAME: KEY on each line, then models=A,B or tokens=N where it is limited"


@dataclass(frozen=True)
class Key:
    """A key, without its text: who has it, and what it may do."""

    name: str
    digest: bytes  # sha256 of its text
    models: tuple[str, ...] = ()  # names of the models that it may use; empty: all
    tokens_per_minute: int = 0  # 0: no limit


def make_key(name: str, text: str, models: tuple[str, ...] = (), tokens_per_minute: int = 0) -> Key:
    """The key with this text. Raises UsageError for one that no client can send; without the text."""
    if not re.fullmatch("[!-~]+", text):
        raise UsageError(f"the key of {name} has characters that a header cannot have", "use letters, digits, - and _")
    return Key(name, _digest(text), models, tokens_per_minute)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """All keys of a server; without any of them, everybody may use it."""

    def __init__(self, path: Path | None, own: Iterable[Key], warn: Callable[[str, str], None]) -> None:
        """The keys of a file, and some others. `warn` gets what is wrong with the file, and a hint.

        Raises UsageError or DiskError for a file that is not valid.
        """
        self._path, self._own, self._warn = path, tuple(own), warn
        self._seen: object = None  # what tells whether the file has changed
        self._looked_at = time.monotonic()
        self._keys = (*self._own, *self._read())

    @property
    def names(self) -> list[str]:
        """Who has a key."""
        return [one.name for one in self._keys]

    def restrictions(self) -> Iterator[tuple[str, str]]:
        """The names of the models that keys are limited to, each after the name of its key."""
        for key in self._keys:
            for model in key.models:
                yield key.name, model

    def find(self, text: str) -> Key | None:
        """The key with this text. The time that it takes tells nothing about the keys."""
        self._read_if_changed()
        digest, found = _digest(text), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def read_again(self) -> None:
        """Take the keys that the file has now. If it is not valid, the keys before stay, with a warning."""
        try:
            self._keys = (*self._own, *self._read())
        except (UsageError, DiskError) as error:
            self._warn(f"the keys stay as they were: {error}", error.hint)

    def _read_if_changed(self) -> None:
        now = time.monotonic()
        if not self._path or now - self._looked_at < _CHECK_EVERY:
            return
        self._looked_at = now
        try:
            seen = _fingerprint(os.stat(self._path))
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            self.read_again()

    def _read(self) -> list[Key]:
        if not self._path:
            return []
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                _check_private(self._path, about)
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise read_error(self._path, error) from None
        if stat.S_ISREG(about.st_mode):
            self._seen = _fingerprint(about)
        else:  # a pipe has nothing to read again
            self._own, self._path = (*self._own, *self._parse(self._path, data)), None
            return []
        return self._parse(self._path, data)

    def _parse(self, path: Path, data: bytes) -> list[Key]:
        if len(data) > _MOST_BYTES:
            raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MiB", _FORM)
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not UTF-8", _FORM) from None
        keys: list[Key] = []
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                keys.append(self._parse_line(line, f"{path}, line {number}"))
                _check_new(keys[-1], [*self._own, *keys[:-1]], f"{path}, line {number}")
        if not keys:
            raise UsageError(f"{path} has no key", _FORM)
        return keys

    def _parse_line(self, line: str, place: str) -> Key:
        """The key of a line. An error never quotes it, as any part of it may be the key."""
        name, colon, rest = line.partition(":")
        words = rest.split()
        if not colon or not words:
            raise UsageError(f"{place} is not valid", _FORM)
        try:
            check_name(name.strip(), "key")
        except UsageError as error:
            raise UsageError(f"{place}: the name of the key is not valid", error.hint) from None
        models: tuple[str, ...] = ()
        tokens = 0
        for word in words[1:]:
            kind, _, value = word.partition("=")
            if kind == "models" and value:
                models = tuple(filter(None, value.split(",")))
            elif kind == "tokens" and value.isascii() and value.isdigit() and 0 < int(value[:12]) < 10**11:
                tokens = int(value)
            else:
                raise UsageError(f"{place}: what follows the key is not valid", _FORM)
        if len(words[0]) < SHORT:
            warn_short(self._warn, f"{place}: the key of {name.strip()}")
        with labeled(place):
            return make_key(name.strip(), words[0], models, tokens)


def warn_short(warn: Callable[[str, str], None], what: str) -> None:
    """Warn of a key with fewer characters than `SHORT`."""
    hint = 'make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
    warn(f"{what} has less than {SHORT} characters: it can be guessed", hint)


def _fingerprint(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode


def _check_private(path: Path, about: os.stat_result) -> None:
    """Raise UsageError for a file that others can read. Windows has no such bits: there its folder protects it."""
    if sys.platform != "win32" and stat.S_IMODE(about.st_mode) & 0o077:
        raise UsageError(f"{path} contains keys, and other users can read it", f"run: chmod 600 {path}")


def _check_new(key: Key, before: Iterable[Key], place: str) -> None:
    for one in before:
        if one.name == key.name:
            raise UsageError(f"{place}: there is a key with the name {key.name!r} already", "give it another name")
        if hmac.compare_digest(one.digest, key.digest):
            raise UsageError(f"{place}: {one.name!r} has the same key", "give each name a key of its own")


class TokenMeter:
    """The tokens that each key has used within the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, deque[tuple[float, int]]] = {}

    def add(self, key: Key, n_tokens: int) -> None:
        """Count tokens that have been used now."""
        if key.tokens_per_minute and n_tokens:
            self._used.setdefault(key.name, deque()).append((self._clock(), n_tokens))

    def wait(self, key: Key, n_running: int = 0) -> float:
        """The seconds until the key is below its limit again; `n_running` tokens of it are not counted yet."""
        used, now = self._used.get(key.name, deque()), self._clock()
        while used and used[0][0] <= now - WINDOW:
            used.popleft()
        total = n_running + sum(n for _, n in used)
        if not key.tokens_per_minute or total < key.tokens_per_minute:
            return 0.0
        for at, n_tokens in used:
            total -= n_tokens
            if total < key.tokens_per_minute:
                return at + WINDOW - now
        return WINDOW
