"""The header of a GGUF file, strictly and with limits; the parts of a split model."""

import codecs
import contextlib
import json
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmcli.errors import LlmcliError, ModelInvalidError, ModelNotFoundError
from llmcli.files import read_error
from llmcli.models.gguf.header import Cursor, GGUFHeader, TruncatedHeaderError, Value, damaged, quote, read_tensors

MAGIC = b"GGUF"
MAX_TENSORS = 1 << 16  # the largest published models have a few thousand
MAX_KEYS = 1 << 16
MAX_KEY = 65535  # bytes
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_TEMPLATE = 1 << 20  # characters; the longest known chat templates have about 20,000
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32
MAX_READ = 32 << 20  # bytes of a remote header; a vocabulary of 256,000 with its merges takes about 10 MiB
_ENDS = tuple(MAX_READ >> halvings for halvings in range(5, -1, -1))  # 1 MiB, then twice as much each time
_HEAD_BYTES = 1024  # of a file that is not GGUF: they tell what it is
_SUMMARY_BYTES = 64 << 10  # in most files the general facts come before the vocabulary
_SUMMARY_KEYS = 200
_MAX_UNMAPPABLE = 64 << 20  # bytes read from a file system that cannot map files
_NOT_LOADABLE = "get another version of the model: llama.cpp cannot load this file"
_AGAIN = "download the model again"
_OTHER_FORMAT = "get a GGUF version of the model: run `llmcli models search NAME`"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error")
# Models named X.GGUF exist.
FILE_NAME = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?\.gguf", re.I | re.A | re.S)


def read_header(path: Path, ends: dict[int, int] | None = None) -> GGUFHeader:
    """The validated header of a GGUF file; `ends` as in `Cursor`.

    Raises ModelInvalidError (not a valid GGUF file: the message says what it is instead, or where the error is),
    ModelNotFoundError (no such file, a folder, a pipe) or DiskError (it cannot be read).
    """
    try:
        with _map_file(path) as (view, size):
            return parse_header(view, size, ends)
    except ModelInvalidError as error:
        raise ModelInvalidError(f"{path}: {error}", error.hint) from None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"file not found: {path}", "check the path") from error
    except OSError as error:
        raise read_error(path, error) from error


def read_remote_header(read_range: Callable[[int, int], bytes], size: int, name: str) -> GGUFHeader:
    """The validated header of the file `name` of `size` bytes, equal to the result of `read_header`.

    `read_range` gives the bytes from a start to an end (exclusive). Raises ModelInvalidError (not a valid GGUF file,
    or a header over 32 MiB) and what `read_range` raises.
    """
    head = b""
    for end in _ENDS:
        if len(head) < min(end, size):
            head += read_range(len(head), min(end, size))
        try:
            return parse_header(head, size)
        except TruncatedHeaderError as cut:
            if cut.needed > MAX_READ:
                break
        except ModelInvalidError as error:
            # It is not downloaded yet, so downloading it again cannot help.
            is_damaged = "again" in error.hint
            hint = "choose another file: this one is damaged on its server" if is_damaged else error.hint
            raise ModelInvalidError(f"{name}: {error}", hint) from None
    raise ModelInvalidError(
        f"the header of {name} is longer than {MAX_READ >> 20} MiB, the limit for a remote file",
        "download the file if you trust its publisher; it may be damaged",
    )


def read_summary(path: Path) -> GGUFHeader:
    """A header with the general facts of a GGUF file; an empty one if the file cannot be read or is not GGUF."""
    metadata: dict[str, Value] = {}
    with contextlib.suppress(OSError, LlmcliError):  # the vocabulary goes beyond these bytes
        with path.open("rb") as file:
            head = file.read(_SUMMARY_BYTES)
        if head.startswith(MAGIC):
            cursor = Cursor(head)
            _version, _n_tensors, n_keys = cursor.u32(), cursor.u64(), cursor.u64()
            _read_metadata(cursor, min(n_keys, _SUMMARY_KEYS), metadata)
    header = GGUFHeader(0, metadata, (), DEFAULT_ALIGNMENT, 0, 0)
    if header.n_ctx_train is None or not header.quantization:
        # Some programs write the file type after the vocabulary, or not at all.
        with contextlib.suppress(LlmcliError):
            return read_header(path)
    return header


def parse_header(view: mmap.mmap | bytes, size: int, ends: dict[int, int] | None = None) -> GGUFHeader:
    """The validated header of a file of `size` bytes that begins with the bytes of `view`; `ends` as in `Cursor`.

    Raises ModelInvalidError; it is a TruncatedHeaderError when `view` ends inside the header.
    """
    if view[:4] != MAGIC:
        raise ModelInvalidError(*_describe(view[:_HEAD_BYTES], size))
    cursor = Cursor(view, size, ends)
    version = cursor.u32()
    _check_version(version)
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    for count, what, limit in ((n_tensors, "tensors", MAX_TENSORS), (n_keys, "metadata keys", MAX_KEYS)):
        if count > limit:
            raise damaged(f"the header has {count} {what}, the limit is {limit}")
    metadata: dict[str, Value] = {}
    _read_metadata(cursor, n_keys, metadata)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)  # in bytes
    if not isinstance(alignment, int) or alignment & (alignment - 1) or not 1 <= alignment <= MAX_ALIGNMENT:
        raise damaged(f"general.alignment is {alignment!r}, not a power of two up to 1 MiB")
    tensors, data_offset = read_tensors(cursor, n_tensors, alignment)
    _check_metadata(metadata, n_tensors)
    needed = max((data_offset + tensor.offset + tensor.n_bytes for tensor in tensors), default=data_offset)
    if needed > size:
        raise ModelInvalidError(f"the file is truncated: {size} of {needed} bytes", "download it again")
    return GGUFHeader(version, metadata, tensors, alignment, data_offset, size)


def _check_metadata(metadata: Mapping[str, Value], n_tensors: int) -> None:
    parts, part = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if isinstance(parts, int) and isinstance(part, int) and 0 < part < parts:
        return  # only the first part of a split model describes it
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        if metadata.get("general.type") == "imatrix":
            raise ModelInvalidError("this is calibration data (imatrix) for quantizing, not a model", _NOT_LOADABLE)
        raise ModelInvalidError("this GGUF file is not a model (no general.architecture)", _NOT_LOADABLE)
    if not n_tensors and "split.count" not in metadata and "tokenizer.ggml.model" not in metadata:
        raise ModelInvalidError("the file has neither tensors nor a vocabulary", _NOT_LOADABLE)
    for key, value in metadata.items():
        if key.startswith("tokenizer.chat_template") and isinstance(value, str) and len(value) > MAX_TEMPLATE:
            raise damaged(f"{quote(key)} has {len(value)} characters, the limit is {MAX_TEMPLATE}")
    _check_experts(metadata, architecture)
    layers = metadata.get(f"{architecture}.block_count")
    if not isinstance(layers, int):
        return  # llama.cpp has a clean error for a missing value
    if not 1 <= layers <= MAX_LAYERS:
        raise damaged(f"block_count must be 1 to {MAX_LAYERS}, got {layers}")
    for key in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
        extra = metadata.get(f"{architecture}.{key}", 0)
        if isinstance(extra, int) and extra > layers:
            raise damaged(f"{key} must be at most block_count ({layers}), got {extra}")


@contextmanager
def _map_file(path: Path) -> Iterator[tuple[mmap.mmap | bytes, int]]:
    info = path.stat()
    # Check before opening: opening a pipe waits forever.
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
        raise ModelNotFoundError(f"{path} is {kind}", "give the path of a .gguf file")
    with path.open("rb") as file:
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError):  # also for an empty file
            yield file.read(_MAX_UNMAPPABLE), info.st_size
            return
        with view:
            yield view, len(view)


def _check_version(version: int) -> None:
    if version in (2, 3):
        return
    if version == 1:
        raise ModelInvalidError("llama.cpp no longer reads GGUF version 1", "get a newer version of the model")
    if version & 0xFFFF == 0 and version:
        raise ModelInvalidError("the file is big-endian", "get the little-endian version of the model")
    if 3 < version < 256:
        raise ModelInvalidError(f"GGUF version {version} is not supported yet", "update llmcli")
    raise damaged(f"GGUF version {version} does not exist")


def _read_metadata(cursor: Cursor, count: int, metadata: dict[str, Value]) -> None:
    """Read `count` keys into `metadata`. Raises ModelInvalidError; the keys before the error are there."""
    for _ in range(count):
        start = cursor.position
        key = cursor.text("a metadata key", MAX_KEY)
        if not key:
            raise damaged(f"empty metadata key at byte {start}")
        if key in metadata:
            raise damaged(f"duplicate metadata key {quote(key)}")
        kind = cursor.u32()
        if key == "general.alignment" and kind != 4:  # uint32
            raise damaged("general.alignment is not of type uint32")
        metadata[key] = cursor.value(kind)


def _check_experts(metadata: Mapping[str, Value], architecture: str) -> None:
    experts = _largest(metadata.get(f"{architecture}.expert_count"))
    used = _largest(metadata.get(f"{architecture}.expert_used_count"))
    groups = _largest(metadata.get(f"{architecture}.expert_group_count"))
    used_groups = _largest(metadata.get(f"{architecture}.expert_group_used_count"))
    is_valid = experts <= MAX_EXPERTS and used <= experts and (used > 0) == (experts > 0)
    is_valid = is_valid and (groups == 0 or groups < experts)
    if groups > 1:
        is_valid = is_valid and experts % groups == 0 and 0 < used_groups < groups
    if not is_valid:
        raise damaged(f"invalid expert counts: {used} of {experts} used, {used_groups} of {groups} groups")


def _largest(value: Value | None) -> int:
    """The largest value of a setting that is one number or a list with one per layer; 0 if it is missing."""
    return max((one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)), default=0)


def _describe(head: bytes, size: int) -> tuple[str, str]:
    """What a file is that does not begin with the bytes of a GGUF file, and a hint."""
    if size == 0:
        return "the file is empty: the download failed", _AGAIN
    # A safetensors file begins with the length of its JSON header in 8 bytes, then that JSON.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(size - 8, 2):
        return "this is a safetensors file, not a GGUF model", _OTHER_FORMAT
    formats = json.loads(Path(__file__).with_name("other_formats.json").read_text(encoding="utf-8"))
    for start, message, hint in formats:
        if head.startswith(start.encode("latin-1")):  # a character for each byte
            return message, hint
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.lower().startswith(_PAGES):
        return "this is a web page, not a model: the download failed", _AGAIN
    if text[:1] in (b"{", b"["):
        return "this is JSON text, not a model: the server sent an error or an index", _AGAIN
    if not head.strip(b"\x00"):
        return "the file begins with zeros: its download is incomplete", _AGAIN
    if text and _is_text(head[:64]):
        return "this is plain text, not a model", _AGAIN
    return f"this is not a GGUF file: it begins with {head[:4]!r} instead of b'GGUF'", _OTHER_FORMAT


def _is_text(data: bytes) -> bool:
    """Whether the bytes are text in UTF-8; the last character can be incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in data)


def stem_of(path: Path) -> str:
    """The file name without `.gguf` and without the part number."""
    match = FILE_NAME.fullmatch(path.name)
    return match["stem"] if match else path.name


def is_later_part(name: str) -> bool:
    """True for a file name such as X-00002-of-00003.gguf: not the first part of a model."""
    match = FILE_NAME.fullmatch(name)
    return match is not None and match["number"] not in (None, "00001")


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the model to which `path` belongs, in order; only `path` if its name is not that of a part.

    Raises ModelNotFoundError when a part is missing, DiskError when the folder cannot be read, and
    ModelInvalidError for a name such as 3 of 2. It checks only names: `read_headers` checks the contents.
    """
    match = FILE_NAME.fullmatch(path.name)
    if not match or not match["number"] or path.suffix != ".gguf":  # llama.cpp finds no parts named X.GGUF
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelInvalidError(f"{path}: part {number} of {count} is not possible", "check the name of the file")
    parts = tuple(path.with_name(f"{match['stem']}-{k:05d}-of-{count:05d}.gguf") for k in range(1, count + 1))
    try:
        missing = [part.name for part in parts if not part.is_file()]
    except OSError as error:
        raise read_error(path.parent, error) from error
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelNotFoundError(
            f"the model has {count} parts, but {missing[0]}{more} is missing from {path.parent}",
            "download the missing parts into the same folder",
        )
    return parts


def read_headers(parts: Sequence[Path], ends: dict[int, int] | None = None) -> tuple[GGUFHeader, ...]:
    """The validated headers of all parts, in order; the first one has the metadata of the model, and `ends` (`Cursor`).

    Raises what `read_header` raises, and ModelInvalidError when a part does not match its name.
    """
    headers = (read_header(parts[0], ends), *map(read_header, parts[1:]))
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        if (header.split_count, header.split_no) == (len(parts), number):
            continue
        found = f"{part} is part {header.split_no + 1} of {header.split_count}"
        if len(parts) == 1:
            hint = f"rename the parts to NAME-00001-of-{header.split_count:05d}.gguf and so on"
            raise ModelInvalidError(f"{found}, but its name has no part number", hint)
        raise ModelInvalidError(f"{found}, which does not match its name", "download this part again")
    seen: set[str] = set()
    for name in (tensor.name for header in headers for tensor in header.tensors):
        if name in seen:
            raise ModelInvalidError(f"{parts[0]}: tensor {quote(name)} is in two parts", "download the model again")
        seen.add(name)
    expected = headers[0].metadata.get("split.tensors.count")
    if isinstance(expected, int) and expected != len(seen):
        raise ModelInvalidError(
            f"{parts[0]}: the parts have {len(seen)} tensors, expected {expected}", "download the model again"
        )
    return headers


def model_files_in(folder: Path) -> list[str]:
    """The sorted .gguf file names in a folder (the first part of a split model); [] if it cannot be read."""
    with contextlib.suppress(OSError):
        return sorted(name for name in os.listdir(folder) if name.endswith(".gguf") and not is_later_part(name))
    return []
