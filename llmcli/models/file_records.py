"""What the program remembers of a model file: when it was used, that it loads safely, and its sha256."""

import contextlib
import hashlib
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcli.errors import DiskError
from llmcli.files import make_private_folder, read_error, read_note, write_note
from llmcli.models.locations import STARTER, STARTER_SHA256, ModelFile, Progress

PROBED = "probed.json"
MAX_PROBED = 512  # entries; older ones are dropped
_BLOCK = 4 << 20
# The Hub's cache and Ollama's store name a file after its sha256.
_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")


def record_use(data_dir: Path, file: Path) -> None:
    """Record that a model file is used now; errors are ignored."""
    marker = _use_marker(data_dir, file)
    with contextlib.suppress(OSError):
        try:
            os.utime(marker)
        except FileNotFoundError:
            make_private_folder(marker.parent)
            marker.touch(mode=0o600)


def last_use(data_dir: Path, file: Path) -> float | None:
    """When a model file was last used, in seconds since 1970; None when it was never used."""
    try:
        return _use_marker(data_dir, file).stat().st_mtime
    except OSError:
        return None


def _use_marker(data_dir: Path, file: Path) -> Path:
    path = os.fsencode(os.path.realpath(file))
    return data_dir / "used" / f"{zlib.crc32(path):08x}{zlib.adler32(path):08x}"


def is_safe(file: ModelFile, cache_dir: Path, build: str) -> bool:
    """True when the file needs no probe: llmcli downloaded and verified it, or it was probed and is unchanged."""
    return file.trusted or is_probed(cache_dir, file.parts, build)


def is_probed(cache_dir: Path, parts: Sequence[Path], build: str) -> bool:
    """True when these files were probed with this build and none has changed since."""
    try:
        key, entry = _probed_entry(parts, build)
    except OSError:
        return False
    return read_note(cache_dir / PROBED).get(key) == entry


def record_probed(cache_dir: Path, parts: Sequence[Path], build: str) -> None:
    """Record that these files loaded with this build. Raises OSError when the record cannot be written.

    Two processes that write at the same moment can lose one entry, but never damage the file.
    """
    key, entry = _probed_entry(parts, build)
    entries = read_note(cache_dir / PROBED)
    entries.pop(key, None)
    entries[key] = entry
    write_note(cache_dir / PROBED, dict(list(entries.items())[-MAX_PROBED:]))


def _probed_entry(parts: Sequence[Path], build: str) -> tuple[str, dict[str, Any]]:
    """The key and the value of these files in the note. Raises OSError."""
    return str(parts[0].resolve()), {"build": build, "parts": [_state(part) for part in parts]}


def record_sha256(data_dir: Path, path: Path, sha256: str) -> None:
    """Record that the file has this sha256 now; a folder that cannot be written is ignored."""
    with contextlib.suppress(OSError):
        data = {"path": os.path.realpath(path), "sha256": sha256, "state": _state(path), "time": time.time()}
        write_note(_sha256_note(data_dir, path), data)


def recorded_sha256(data_dir: Path, path: Path) -> tuple[str, float] | None:
    """The recorded sha256 of the unchanged file, and when it was computed (seconds since 1970)."""
    data = read_note(_sha256_note(data_dir, path))
    try:
        if data and data.get("state") == _state(path):
            return str(data["sha256"]), float(data["time"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return None


def is_verified(data_dir: Path, path: Path, sha256: str) -> bool:
    """True when the file is unchanged since it was found to have this sha256."""
    recorded = recorded_sha256(data_dir, path)
    return recorded is not None and recorded[0] == sha256


def _sha256_note(data_dir: Path, path: Path) -> Path:
    name = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return data_dir / "verified" / f"{name}.json"


def _state(path: Path) -> list[int]:
    """What changes when the file changes. Raises OSError."""
    info = path.stat()
    return [info.st_size, info.st_mtime_ns]


def sha256_of(path: Path, progress: Progress) -> str:
    """The sha256 of a file, in hex. Raises DiskError when the file cannot be read."""
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    view, done = memoryview(buffer), 0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while n_bytes := file.readinto(buffer):
                digest.update(view[:n_bytes])
                done += n_bytes
                progress(done, size)
    except OSError as error:
        raise read_error(path, error) from None
    return digest.hexdigest()


class HashCancelledError(Exception):
    """The computation of the sha256 was canceled."""


class ModelHasher:
    """The sha256 of one model; `start` computes it in a thread if it is not known."""

    def __init__(self, file: ModelFile, data_dir: Path) -> None:
        self._file = file
        self._data_dir = data_dir
        self._digests: dict[Path, str] = {}  # of the parts
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> str:
        """The sha256 if no model file must be read for it, otherwise "". Of several parts, that of the list."""
        digests = [self._known_part(part) for part in self._file.parts]
        if len(digests) == 1 or not all(digests):
            return digests[0] if all(digests) else ""
        return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()

    def start(self) -> None:
        """Compute it in the background, unless it is known."""
        if not self.known and not self._thread:
            self._thread = threading.Thread(target=self.sha256, daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> str:
        """Wait for the result of `start`; "" when it takes longer or the files cannot be read."""
        if self._thread:
            self._thread.join(seconds)
        return self.known

    def sha256(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> str:
        """The sha256 in hex, computed if necessary; "" when the files cannot be read or `stop()` returns True."""

        def report(done: int, total: int) -> None:
            if stop():
                raise HashCancelledError
            if progress:
                progress(done, total)

        with self._lock, contextlib.suppress(DiskError, HashCancelledError):
            for part in self._file.parts:
                if not self._known_part(part):
                    self._digests[part] = sha256_of(part, report)
                    record_sha256(self._data_dir, part, self._digests[part])
        return self.known

    def _known_part(self, part: Path) -> str:
        if self._file.trusted and self._file.name == STARTER:
            return STARTER_SHA256
        if part not in self._digests:
            path, recorded = Path(os.path.realpath(part)), recorded_sha256(self._data_dir, part)
            blob = _BLOB.fullmatch(path.name)
            if recorded:
                self._digests[part] = recorded[0]
            elif blob and path.parent.name == "blobs":
                self._digests[part] = blob[1]
        return self._digests.get(part, "")
