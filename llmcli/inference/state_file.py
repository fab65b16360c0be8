"""The file of a stored state: the data of llama.cpp, what it was made with, and its tokens.

The data comes first, as llama.cpp writes it itself: so no copy of it is in memory. The header follows, JSON and the
tokens, and then a trailer of fixed size: the magic number, the version, the sizes and the digest of the header. Nothing
is used before all of it is checked: where anything differs, it is as if the file were not there.
"""

import hashlib
import json
import math
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llmcli.engine.events import Batches
from llmcli.files import OPEN_SAFE, make_private_folder, open_new_private

VERSION = 1
_MAGIC = b"llmcliKV"
_TRAILER = struct.Struct("<IIQ16sHH8s")  # bytes of the JSON, number of tokens, bytes of data, digest, version, 0, magic
_CHUNK = 1 << 20  # bytes that are read at a time
_MOST_JSON, _MOST_TOKENS = 1 << 22, 1 << 24  # bytes, tokens: what a damaged trailer can make us read
Identity = Mapping[str, object]  # what a state depends on beside its tokens: model, llama.cpp, settings, machine


@dataclass(frozen=True)
class StoredState:
    """The header of a file, which was checked; the data was not: `is_sound` reads it."""

    path: Path
    identity: Identity
    tokens: Sequence[int]
    batches: Batches  # in which they were evaluated
    seconds: float  # that it took
    n_bytes: int  # of the data
    crc: int  # CRC-32 of the data

    def is_sound(self) -> bool:
        """Whether the data is what was written."""
        with suppress(OSError), open(self.path, "rb", buffering=0, opener=_open) as file:
            return _crc_of(file, self.n_bytes) == self.crc
        return False


def write_state(
    path: Path,
    identity: Identity,
    tokens: Sequence[int],
    batches: Batches,
    seconds: float,
    write: Callable[[Path], None],
) -> None:
    """Make a private file, which replaces another one at once; `write` writes the data. Raises OSError."""
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        open_new_private(temporary).close()
        write(temporary)
        # Without `sync`: after a power cut the file may be damaged, which is found like any other damage.
        with temporary.open("r+b") as file:
            n_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            facts = {"identity": identity, "batches": batches, "seconds": seconds, "crc32": _crc_of(file, n_bytes)}
            text, numbers = json.dumps(facts).encode(), array("i", tokens)
            if sys.byteorder == "big":
                numbers.byteswap()
            header = text + numbers.tobytes()
            file.seek(n_bytes)
            file.write(header)
            file.write(_TRAILER.pack(len(text), len(numbers), n_bytes, _digest(header), VERSION, 0, _MAGIC))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_header(path: Path) -> StoredState | None:
    """The header of a file; None where it is damaged, of another program, or of another version."""
    # What a damaged or foreign header can raise, here and in `_parse`.
    with suppress(OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error):
        with open(path, "rb", opener=_open) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _TRAILER.size, 0))
            n_text, n_tokens, n_bytes, digest, version, zero, magic = _TRAILER.unpack(file.read())
            is_known = (magic, version, zero) == (_MAGIC, VERSION, 0)
            if not (is_known and n_text <= _MOST_JSON and 0 < n_tokens <= _MOST_TOKENS):
                return None
            n_header = n_text + 4 * n_tokens
            file.seek(n_bytes)
            header = file.read(n_header)
        if _digest(header) != digest or size != n_bytes + n_header + _TRAILER.size:
            return None
        return _parse(path, header[:n_text], header[n_text:], n_bytes)
    return None


def _parse(path: Path, text: bytes, token_bytes: bytes, n_bytes: int) -> StoredState | None:
    """The header from its JSON and its tokens; None, or an error, where a value is not possible."""
    numbers = array("i")
    numbers.frombytes(token_bytes)
    if sys.byteorder == "big":
        numbers.byteswap()
    facts, tokens = json.loads(text), numbers.tolist()
    batches = [(int(rows), int(kept), int(times)) for rows, kept, times in facts["batches"]]
    if sum(kept * times for _, kept, times in batches) != len(tokens) or min(tokens) < 0:
        return None
    if not all(0 < kept <= rows and times > 0 for rows, kept, times in batches):
        return None
    seconds, crc = float(facts["seconds"]), int(facts["crc32"])
    if not 0 <= seconds < math.inf:
        return None
    return StoredState(path, dict(facts["identity"]), tokens, batches, seconds, n_bytes, crc)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | OPEN_SAFE)


def _crc_of(file: BinaryIO, n_bytes: int) -> int:
    """The checksum of the next bytes; -1 where there are fewer."""
    crc, buffer = 0, memoryview(bytearray(_CHUNK))
    while n_bytes and (n_read := file.readinto(buffer[: min(n_bytes, _CHUNK)])):  # type: ignore[attr-defined]
        crc, n_bytes = zlib.crc32(buffer[:n_read], crc), n_bytes - n_read
    return -1 if n_bytes else crc


def _digest(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=16).digest()
