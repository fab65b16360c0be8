"""Read the tensor table of a GGUF file and validate it by llama.cpp's rules."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.cursor import Cursor, damaged, quote

MAX_NAME = 63  # bytes: GGML_MAX_NAME is 64 with the terminating zero
MAX_DIMS = 4
_INT64_MAX = (1 << 63) - 1


class GGMLType(NamedTuple):
    """A tensor type: `block` elements are stored in `size` bytes."""

    name: str
    block: int
    size: int


# Type number: name, elements of a block, bytes of a block (ggml_type_traits in ggml/src/ggml.c).
_TYPES = (
    {0: ("F32", 1, 4), 1: ("F16", 1, 2), 28: ("F64", 1, 8), 30: ("BF16", 1, 2)}
    | {24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)}
    | {2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34)}
    | {9: ("Q8_1", 32, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18)}
    | {10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)}
    | {14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292)}
    | {19: ("IQ1_S", 256, 50), 29: ("IQ1_M", 256, 56), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74)}
    | {22: ("IQ2_S", 256, 82), 18: ("IQ3_XXS", 256, 98), 21: ("IQ3_S", 256, 110), 23: ("IQ4_XS", 256, 136)}
    | {20: ("IQ4_NL", 32, 18), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)}
    | {39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36)}
)
TYPES = {number: GGMLType(*row) for number, row in _TYPES.items()}
# general.file_type: the name (llama_ftype in include/llama.h).
_FILE_TYPES = (
    {0: "F32", 1: "F16", 32: "BF16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 40: "Q1_0", 41: "Q2_0"}
    | {10: "Q2_K", 21: "Q2_K_S", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M"}
    | {16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"}
    | {24: "IQ1_S", 31: "IQ1_M", 19: "IQ2_XXS", 20: "IQ2_XS", 28: "IQ2_S", 29: "IQ2_M"}
    | {22: "IQ3_XS", 23: "IQ3_XXS", 26: "IQ3_S", 27: "IQ3_M", 25: "IQ4_NL", 30: "IQ4_XS"}
    | {36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4"}
)
_GUESSED = 1024  # llama.cpp sets this bit when it guesses the file type


class TensorInfo(NamedTuple):
    """One tensor. The first dimension of `shape` varies fastest; `offset` is in bytes from the data section."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int

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
        name = cursor.text("a tensor name", MAX_NAME)
        n_dims = cursor.u32()
        if n_dims > MAX_DIMS:
            raise damaged(f"tensor {quote(name)} has {n_dims} dimensions, the limit is {MAX_DIMS}")
        shape = tuple(cursor.u64() for _ in range(n_dims))
        type_id, offset = cursor.u32(), cursor.u64()
        tensors.append(TensorInfo(name, shape, type_id, offset, _size(name, shape, type_id)))
        if name in seen:
            raise damaged(f"duplicate tensor {quote(name)}")
        if offset != expected:
            raise damaged(f"tensor {quote(name)} is at offset {offset}, expected {expected}")
        seen.add(name)
        expected += padded(tensors[-1].n_bytes, alignment)
    return tuple(tensors)


def padded(n_bytes: int, alignment: int) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`, which is a power of two."""
    return (n_bytes + alignment - 1) & -alignment


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


def quantization_name(file_type: int | None, sizes: Iterable[tuple[int, int]]) -> str:
    """The name of a file's quantization, such as Q4_K_M; "" for a file without tensors.

    `file_type` is general.file_type. If it is missing or unknown, the result is the tensor type with the most
    bytes. `sizes` has (type id, bytes) of each tensor.
    """
    if file_type is not None and file_type & ~_GUESSED in _FILE_TYPES:
        return _FILE_TYPES[file_type & ~_GUESSED]
    totals: dict[int, int] = {}
    for type_id, n_bytes in sizes:
        totals[type_id] = totals.get(type_id, 0) + n_bytes
    if not totals:
        return ""
    return TYPES[max(totals, key=lambda type_id: totals[type_id])].name
