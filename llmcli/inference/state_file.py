"""The file of a stored state: what it was made with, its tokens, and the data of llama.cpp.

It has a prefix of fixed size: the magic number, the version, the sizes and the digest of the header; the header: JSON
and the tokens; and the data. Nothing of it is used before all of it is checked: where anything differs, it is as if the
file were not there.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.engine.events import Batches
from llmcli.files import OPEN_SAFE, replace_private

VERSION = 1
_MAGIC = b"llmcliKV"
_PREFIX = struct.Struct("<8sHHIIQ16s")  # magic, version, 0, bytes of the JSON, number of tokens, bytes of data, digest
_MOST_JSON, _MOST_TOKENS = 1 << 22, 1 << 24
Identity = Mapping[str, object]


@dataclass(frozen=True)
class StoredState:
    """The header of a file that was checked; `read` checks and returns the data."""

    path: Path
    identity: Identity  # what the state depends on beside the tokens
    tokens: Sequence[int]
    batches: Batches  # in which they were evaluated
    seconds: float  # that it took
    n_bytes: int  # of the data
    crc: int
    start: int  # of the data in the file

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.start + self.n_bytes

    def read(self) -> bytearray | None:
        """The data; None where it is not what was written."""
        try:
            data = bytearray(self.n_bytes)
            with open(self.path, "rb", buffering=0, opener=_open) as file:
                file.seek(self.start)
                view, done = memoryview(data), 0
                while n_read := file.readinto(view[done : done + (1 << 30)]):
                    done += n_read
                is_whole = done == self.n_bytes and not file.read(1)
        except (OSError, MemoryError):
            return None
        return data if is_whole and zlib.crc32(data) == self.crc else None


def write_state(
    path: Path, identity: Identity, tokens: Sequence[int], batches: Batches, seconds: float, data: bytearray
) -> None:
    """Write a private file, which replaces another one at once. Raises OSError."""
    facts = {"identity": identity, "batches": batches, "seconds": seconds, "crc32": zlib.crc32(data)}
    text = json.dumps(facts).encode()
    numbers = array("i", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    header = text + numbers.tobytes()
    prefix = _PREFIX.pack(_MAGIC, VERSION, 0, len(text), len(numbers), len(data), _digest(header))
    # Without `sync`: after a power cut the file may be empty, which is found like any other damage.
    replace_private(path, prefix, header, data, sync=False)


def read_header(path: Path) -> StoredState | None:
    """The header of a file; None where it is damaged, of another program, or of another version."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError, struct.error):
        with open(path, "rb", opener=_open) as file:
            magic, version, _, n_text, n_tokens, n_bytes, digest = _PREFIX.unpack(file.read(_PREFIX.size))
            if (magic, version) != (_MAGIC, VERSION) or n_text > _MOST_JSON or not 0 < n_tokens <= _MOST_TOKENS:
                return None
            header = file.read(n_text + 4 * n_tokens)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
        if _digest(header) != digest or size != start + n_bytes:
            return None
        numbers = array("i")
        numbers.frombytes(header[n_text:])
        if sys.byteorder == "big":
            numbers.byteswap()
        facts, tokens = json.loads(header[:n_text]), numbers.tolist()
        batches = [(int(rows), int(kept), int(times)) for rows, kept, times in facts["batches"]]
        if sum(kept * times for _, kept, times in batches) != n_tokens or min(tokens) < 0:
            return None
        if not all(0 < kept <= rows and times > 0 for rows, kept, times in batches):
            return None
        seconds, crc = float(facts["seconds"]), int(facts["crc32"])
        return StoredState(path, dict(facts["identity"]), tokens, batches, seconds, n_bytes, crc, start)
    return None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | OPEN_SAFE)


def _digest(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=16).digest()
