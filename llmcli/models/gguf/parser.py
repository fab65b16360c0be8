"""Read and validate the header of a GGUF file without loading the model.

The rules are those of llama.cpp's reader (ggml/src/gguf.cpp), but stricter where a damaged file would abort the
process or use up the memory. The file is memory-mapped: about 10 ms for a vocabulary of 50,000.
"""

import mmap
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError
from llmcli.models.gguf import sniff
from llmcli.models.gguf.cursor import ArraySummary, Cursor, HeaderCutError, Value, damaged, quote
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.limits import alignment_of, check_metadata
from llmcli.models.gguf.tensors import TensorInfo, padded, read_tensors

__all__ = ["ArraySummary", "GGUFHeader", "HeaderCutError", "TensorInfo", "Value", "parse_header", "read_header"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16  # the largest published models have a few thousand
MAX_KEYS = 1 << 16
MAX_KEY = 65535  # bytes
_UINT32 = 4
_MAX_UNMAPPABLE = 64 << 20  # bytes read from a file system that cannot map files


def read_header(path: Path) -> GGUFHeader:
    """The validated header of a GGUF file.

    Raises ModelInvalidError (not a valid GGUF file: the message says what it is instead, or where the error is),
    ModelNotFoundError (no such file, a folder, a pipe) or DiskError (it cannot be read).
    """
    try:
        with _mapped(path) as (view, size):
            return parse_header(view, size)
    except ModelInvalidError as error:
        raise ModelInvalidError(f"{path}: {error}", error.hint) from None
    except OSError as error:
        raise _os_error(path, error) from error


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[mmap.mmap | bytes, int]]:
    """The bytes of a regular file, and its size."""
    info = path.stat()
    # Check before opening: opening a pipe waits forever.
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
        raise ModelNotFoundError(f"{path} is {kind}", "give the path of a .gguf file")
    with path.open("rb") as file:
        if info.st_size == 0:
            yield b"", 0
            return
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError):
            yield file.read(_MAX_UNMAPPABLE), info.st_size
            return
        with view:
            yield view, len(view)


def parse_header(view: mmap.mmap | bytes, size: int) -> GGUFHeader:
    """The validated header of a file of `size` bytes that begins with the bytes of `view`.

    Raises ModelInvalidError; it is a HeaderCutError when `view` ends inside the header.
    """
    if view[:4] != MAGIC:
        raise sniff.explain(view[: sniff.HEAD_BYTES], size)
    cursor = Cursor(view, len(MAGIC), size)
    version = cursor.u32()
    _check_version(version)
    n_tensors = _count(cursor, "tensors", MAX_TENSORS)
    n_keys = _count(cursor, "metadata keys", MAX_KEYS)
    metadata = _read_metadata(cursor, n_keys)
    alignment = alignment_of(metadata)
    tensors = read_tensors(cursor, n_tensors, alignment)
    check_metadata(metadata, n_tensors)
    data_offset = padded(cursor.position, alignment) if tensors else cursor.position
    needed = max((data_offset + tensor.offset + tensor.n_bytes for tensor in tensors), default=data_offset)
    if needed > size:
        raise ModelInvalidError(f"the file is truncated: {size} of {needed} bytes", "download it again")
    return GGUFHeader(version, metadata, tensors, alignment, data_offset, size)


def _check_version(version: int) -> None:
    if version in VERSIONS:
        return
    if version == 1:
        raise ModelInvalidError("llama.cpp no longer reads GGUF version 1", "get a newer version of the model")
    if version & 0xFFFF == 0 and version:
        raise ModelInvalidError("the file is big-endian", "get the little-endian version of the model")
    if 3 < version < 256:
        raise ModelInvalidError(f"GGUF version {version} is not supported yet", "update llmcli")
    raise damaged(f"GGUF version {version} does not exist")


def _count(cursor: Cursor, what: str, limit: int) -> int:
    count = cursor.u64()
    if count > limit:
        raise damaged(f"the header has {count} {what}, the limit is {limit}")
    return count


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        start = cursor.position
        key = cursor.text("a metadata key", MAX_KEY)
        if not key:
            raise damaged(f"empty metadata key at byte {start}")
        if key in metadata:
            raise damaged(f"duplicate metadata key {quote(key)}")
        kind = cursor.u32()
        if key == "general.alignment" and kind != _UINT32:
            raise damaged("general.alignment is not of type uint32")
        metadata[key] = cursor.value(kind)
    return metadata


def _os_error(path: Path, error: OSError) -> LlmcliError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelNotFoundError(f"file not found: {path}", "check the path")
    return DiskError(f"cannot read {path}: {error.strerror or error}", "check its permissions")
