"""Write GGUF files for tests: valid ones in one line, and invalid ones that name what is wrong."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmcli.models.gguf.header import TYPES

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}

# The least that read_header takes for a model.
MODEL: dict[str, Any] = {"general.architecture": "llama", "llama.block_count": 2}


class Typed(NamedTuple):
    """A metadata value with its type number spelled out; for an array, the element type and a list."""

    kind: int
    value: Any


class Raw(NamedTuple):
    """A metadata value as bytes, sound or not."""

    kind: int
    data: bytes


class Tensor(NamedTuple):
    """A tensor to write; without `offset` it follows the one before it, as it should."""

    name: str
    shape: Sequence[int] = (32,)
    type_id: int = 0
    offset: int | None = None
    n_dims: int | None = None


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    tensors: Sequence[Tensor] = (Tensor("token_embd.weight"),),
    **faults: Any,
) -> Path:
    """Write a GGUF file and give its path; the arguments are those of `gguf_bytes`."""
    path.write_bytes(gguf_bytes(metadata, tensors, **faults))
    return path


def gguf_bytes(
    metadata: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    tensors: Sequence[Tensor] = (Tensor("token_embd.weight"),),
    **faults: Any,
) -> bytes:
    """The bytes of a GGUF file. `metadata` (default MODEL) may be pairs: keys can stand twice.

    Faults: magic, version, n_tensors, n_keys (what the header claims), align (padding really written, 32),
    missing (bytes cut from the end), keep (bytes kept from the start), extra (bytes appended).
    """
    given = MODEL if metadata is None else metadata
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    align = faults.get("align", 32)
    head = faults.get("magic", b"GGUF") + struct.pack("<I", faults.get("version", 3))
    head += struct.pack("<QQ", faults.get("n_tensors", len(tensors)), faults.get("n_keys", len(pairs)))
    head += b"".join(_string(key) + _value(value) for key, value in pairs)
    sizes = [_size(tensor) for tensor in tensors]
    offset = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        head += _entry(tensor, offset)
        offset += size + -size % align
    data = head + bytes(-len(head) % align) + bytes(min(offset, 1 << 20))
    cut: bytes = data[: len(data) - faults.get("missing", 0)][: faults.get("keep")]
    return cut + bytes(faults.get("extra", b""))


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, Raw):
        return struct.pack("<I", value.kind) + value.data
    if isinstance(value, Typed) and isinstance(value.value, list):
        return struct.pack("<IIQ", ARRAY, value.kind, len(value.value)) + _elements(value.kind, value.value)
    if isinstance(value, Typed):
        return struct.pack("<I", value.kind) + _elements(value.kind, [value.value])
    if isinstance(value, list):
        return _value(Typed(_kind(value[0]), value))
    return _value(Typed(_kind(value), value))


def _elements(kind: int, values: list[Any]) -> bytes:
    if kind == STRING:
        return b"".join(_string(value) for value in values)
    return struct.pack(f"<{len(values)}{_FORMS[kind]}", *values)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if value >= 0 else I32
    return F32 if isinstance(value, float) else STRING


def _size(tensor: Tensor) -> int:
    _, block, size = TYPES.get(tensor.type_id, ("", 1, 0))
    elements = 1
    for length in tensor.shape:
        elements *= length
    return elements * size // block if size else 32


def _entry(tensor: Tensor, offset: int) -> bytes:
    n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
    shape = struct.pack(f"<{len(tensor.shape)}Q", *(length % (1 << 64) for length in tensor.shape))
    place = offset if tensor.offset is None else tensor.offset
    place %= 1 << 64
    return _string(tensor.name) + struct.pack("<I", n_dims) + shape + struct.pack("<IQ", tensor.type_id, place)
