"""Notes about files: what llmcli remembers of a model or a download, in one small JSON file for each of them.

A note only saves work. A missing, damaged or unknown one means that nothing is known, and a folder that cannot be
written is ignored. Two processes that write the same note at once can lose a fact, but never damage the file.
"""

import contextlib
import os
import re
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from llmcli.files import read_json, write_json

FOLDER = "notes"  # in the data folder
_OF_BYTES = {"probed", "sha256", "hashed"}  # facts that end when the file changes


class FileNote(TypedDict, total=False):
    """The facts about one file; an unknown one is absent. Times are in seconds since 1970."""

    used: float  # when a command last opened the model
    probed: str  # the release of llama.cpp that has loaded it safely
    sha256: str  # of its bytes
    hashed: float  # when the sha256 was computed
    reference: str  # of a download that is not complete: what `llmcli pull` resumes
    size: int  # of the complete download, in bytes
    version: str  # of a file from a URL: its ETag or Last-Modified
    published: str  # of a file from a URL: the sha256 that the URL gave


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


def forget(data_dir: Path, file: Path) -> None:
    """Remove the note about a file."""
    with contextlib.suppress(OSError):
        note_path(data_dir / FOLDER, os.path.realpath(file)).unlink(missing_ok=True)


def is_probed(data_dir: Path, parts: Iterable[Path], build: str) -> bool:
    """True when this release of llama.cpp has loaded these files, and none has changed since."""
    return all(_load(data_dir, part)[1].get("probed") == build for part in parts)


def record_probed(data_dir: Path, parts: Iterable[Path], build: str) -> None:
    """Remember that this release of llama.cpp has loaded these files."""
    for part in parts:
        update(data_dir, part, probed=build)


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
