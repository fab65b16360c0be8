"""What is known of a file: the notes about models and downloads, in one small JSON file for each; the sha256.

A note only saves work. A missing, damaged or unknown one means that nothing is known, and a folder that cannot be
written is ignored. Two processes that write the same note at once can lose a fact, but never damage the file.
"""

import contextlib
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from llmcli.errors import DiskError
from llmcli.files import read_error, read_json, write_json
from llmcli.models.locations import STARTER, STARTER_SHA256, ModelFile, Progress

FOLDER = "notes"  # in the data folder
_BLOCK = 4 << 20
_N_SAMPLES, _SAMPLE = 16, 4096  # of a file, and the bytes of each
_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")  # the Hub's cache and Ollama's store name a file after its sha256
# Facts that end when the file changes.
_OF_BYTES = {"probed", "damage", "sha256", "hashed", "fastest", "machine", "steps", "divisible", "arrays"}


class FileNote(TypedDict, total=False):
    """The facts about one file; an unknown one is absent. Times are in seconds since 1970."""

    used: float  # when a command last opened the model
    probed: str  # the release of llama.cpp that was tested with it, and the steps of the test
    damage: str  # why its header does not fit its bytes; "" if it does
    sha256: str  # of its bytes
    hashed: float  # when the sha256 was computed
    fastest: str  # settings that `llmcli bench --save` found, as KEY=VALUE with blanks between them
    machine: str  # where it found them
    reference: str  # what `llmcli pull` downloaded or, of a download that is not complete, resumes
    size: int  # of the complete download, in bytes
    version: str  # of a file from a URL: its ETag or Last-Modified
    published: str  # of a file from a URL: the sha256 that the URL gave
    steps: str  # JSON: what steps of several tokens cost, and whether they round as single ones
    divisible: str  # JSON: which batches can be evaluated in two parts with the same results, by the place and settings
    arrays: str  # JSON: where the long arrays of its header begin and end
    received: str  # of a file from a URL: the sha256 of the bytes that the server sent


def read(data_dir: Path, file: Path) -> FileNote:
    """What is known of a file."""
    types = FileNote.__annotations__  # compared here: msgspec would take 8 ms of each list of models
    note = {key: value for key, value in _load(data_dir, file)[1].items() if key in types}
    is_valid = all(type(value) is types[key] for key, value in note.items())
    return cast(FileNote, note) if is_valid else {}


def update(data_dir: Path, file: Path, **facts: Unpack[FileNote]) -> None:
    """Remember facts about the file as it is now, and keep the others."""
    path, note = _load(data_dir, file)
    with contextlib.suppress(OSError):
        write_json(path, note | facts)


def array_ends(data_dir: Path, file: Path) -> dict[int, int]:
    """The ends of the long arrays in its header, by where they begin: to skip a vocabulary takes 6 to 20 ms."""
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        found = json.loads(read(data_dir, file).get("arrays", "{}")).items()
        return {int(begin): end for begin, end in found if isinstance(end, int)}
    return {}


def forget(data_dir: Path, file: Path) -> None:
    """Remove the note about a file."""
    with contextlib.suppress(OSError):
        note_path(data_dir / FOLDER, os.path.realpath(file)).unlink(missing_ok=True)


def is_probed(data_dir: Path, parts: Iterable[Path], record: str) -> bool:
    """True when these files have passed the test that `record` describes, and none has changed since."""
    return all(_load(data_dir, part)[1].get("probed") == record for part in parts)


def record_probed(data_dir: Path, parts: Iterable[Path], record: str) -> None:
    """Remember that these files have passed the test that `record` describes."""
    for part in parts:
        update(data_dir, part, probed=record)


def record_sha256(data_dir: Path, file: Path, sha256: str) -> None:
    """Remember that the file has this sha256 now."""
    update(data_dir, file, sha256=sha256, hashed=time.time())


def note_path(folder: Path, key: str) -> Path:
    """The path of the note with this key, which people can recognize in it."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", key).lstrip("-")[:80]
    return folder / f"{slug}-{zlib.crc32(os.fsencode(key)):08x}.json"


def _load(data_dir: Path, file: Path) -> tuple[Path, dict[str, Any]]:
    """The path of the note, and what it says that still holds. The types of its values are not checked."""
    real, state = os.path.realpath(file), None
    path = note_path(data_dir / FOLDER, real)
    note = read_json(path)
    if note.get("path") != real:  # of another file, whose path has the same checksum
        note = {}
    with contextlib.suppress(OSError):
        info = os.stat(real)
        state = [info.st_size, info.st_mtime_ns]  # they change when the file changes
    if note.get("state") != state:
        note = {fact: value for fact, value in note.items() if fact not in _OF_BYTES}
    return path, note | {"path": real, "state": state}


def sha256_of(path: Path, progress: Progress, stop: Callable[[], bool] = lambda: False) -> str:
    """The sha256 of a file, in hex; "" if `stop()` returns True. Raises DiskError when the file cannot be read."""
    import hashlib  # 4 ms that a start does not need

    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    view, done = memoryview(buffer), 0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while n_bytes := file.readinto(buffer):
                if stop():
                    return ""
                digest.update(view[:n_bytes])
                done += n_bytes
                progress(done, size)
    except OSError as error:
        raise read_error(path, error) from None
    return digest.hexdigest()


def fingerprint(parts: Iterable[Path]) -> str:
    """What tells a model from others without reading all of it (1 ms): sizes, times, and samples of the files.

    It is empty where they cannot be read.
    """
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    with contextlib.suppress(OSError):
        for part in parts:
            with part.open("rb", buffering=0) as file:
                about = os.fstat(file.fileno())
                digest.update(f"{about.st_size} {about.st_mtime_ns} ".encode())
                for number in range(_N_SAMPLES):
                    file.seek(max(about.st_size - _SAMPLE, 0) * number // (_N_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE))
        return digest.hexdigest()
    return ""


class ModelHasher:
    """The sha256 of one model; `start` computes it in a thread if it is not known."""

    def __init__(self, file: ModelFile, data_dir: Path) -> None:
        self._file, self._data_dir = file, data_dir
        self._digests: dict[Path, str] = {}  # of the parts
        if file.trusted and file.name == STARTER:  # its own, unless it was found to have another one
            self._digests[file.path] = read(data_dir, file.path).get("sha256") or STARTER_SHA256
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> str:
        """The sha256 if no model file must be read for it, otherwise "". Of several parts, that of the list."""
        digests = [self._known_part(part) for part in self._file.parts]
        if len(digests) == 1 or not all(digests):
            return digests[0] if all(digests) else ""
        import hashlib

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

    def sha256(self, progress: Progress = lambda _done, _total: None, stop: Callable[[], bool] = lambda: False) -> str:
        """The sha256 in hex, computed if necessary; "" when the files cannot be read or `stop()` returns True."""
        with self._lock, contextlib.suppress(DiskError):
            for part in self._file.parts:
                if not self._known_part(part) and (digest := sha256_of(part, progress, stop)):
                    self._digests[part] = digest
                    record_sha256(self._data_dir, part, digest)
        return self.known

    def _known_part(self, part: Path) -> str:
        if part not in self._digests:
            path = Path(os.path.realpath(part))
            blob = _BLOB.fullmatch(path.name) if path.parent.name == "blobs" else None
            digest = read(self._data_dir, path).get("sha256") or (blob[1] if blob else "")
            self._digests.setdefault(part, digest)  # the thread can have computed it by now
        return self._digests[part]
