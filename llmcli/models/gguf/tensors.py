"""Read the tensor table of a GGUF file and validate it by llama.cpp's rules."""

from math import prod
from typing import NamedTuple

from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.cursor import Cursor, damaged, quote
from llmcli.models.gguf.ggml_types import TYPES

MAX_NAME = 63  # bytes: GGML_MAX_NAME is 64 with the terminating zero
MAX_DIMS = 4
_INT64_MAX = (1 << 63) - 1


class TensorInfo(NamedTuple):
    """One tensor. The first dimension of `shape` varies fastest; `offset` is in bytes from the data section."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int

    @property
    def type_name(self) -> str:
        return TYPES[self.type_id].name

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


def read_tensors(cursor: Cursor, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    """The tensor table: `count` entries from the cursor. Raises ModelInvalidError.

    As in llama.cpp, the tensors must be adjacent and in the order of the table, each padded to `alignment` bytes.
    """
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in seen:
            raise damaged(f"duplicate tensor {quote(tensor.name)}")
        if tensor.offset != expected:
            raise damaged(f"tensor {quote(tensor.name)} is at offset {tensor.offset}, expected {expected}")
        seen.add(tensor.name)
        tensors.append(tensor)
        expected += padded(tensor.n_bytes, alignment)
    return tuple(tensors)


def padded(n_bytes: int, alignment: int) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`, which is a power of two."""
    return (n_bytes + alignment - 1) & -alignment


def _read_tensor(cursor: Cursor) -> TensorInfo:
    name = cursor.text("a tensor name", MAX_NAME)
    n_dims = cursor.u32()
    if n_dims > MAX_DIMS:
        raise damaged(f"tensor {quote(name)} has {n_dims} dimensions, the limit is {MAX_DIMS}")
    shape = tuple(cursor.u64() for _ in range(n_dims))
    type_id = cursor.u32()
    return TensorInfo(name, shape, type_id, cursor.u64(), _size(name, shape, type_id))


def _size(name: str, shape: tuple[int, ...], type_id: int) -> int:
    """The bytes of a tensor. As in llama.cpp, a dimension can be 0: converters use empty tensors as markers."""
    # Zeros count as ones: a zero must not hide a huge factor in the product.
    if prod(n or 1 for n in shape) > _INT64_MAX:
        raise damaged(f"tensor {quote(name)} has the invalid shape {shape}")
    kind = TYPES.get(type_id)
    if kind is None:
        raise ModelInvalidError(
            f"tensor {quote(name)} has the unknown type {type_id}",
            "get another version of the model: this file is damaged, or for another version of llama.cpp",
        )
    row = shape[0] if shape else 1
    if row % kind.block:
        raise damaged(f"tensor {quote(name)} has rows of {row} elements; {kind.name} needs multiples of {kind.block}")
    n_bytes = prod(shape) // kind.block * kind.size
    if n_bytes > _INT64_MAX:
        raise damaged(f"tensor {quote(name)} has the invalid shape {shape}")
    return n_bytes
