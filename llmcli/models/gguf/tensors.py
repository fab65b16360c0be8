"""Read the tensor table of a GGUF file and validate it by llama.cpp's rules."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.cursor import Cursor, damaged, quote

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


class GGMLType(NamedTuple):
    """A tensor type: `block` elements are stored in `size` bytes."""

    name: str
    block: int
    size: int


TYPES: dict[int, GGMLType] = {
    0: GGMLType("F32", 1, 4),
    1: GGMLType("F16", 1, 2),
    2: GGMLType("Q4_0", 32, 18),
    3: GGMLType("Q4_1", 32, 20),
    6: GGMLType("Q5_0", 32, 22),
    7: GGMLType("Q5_1", 32, 24),
    8: GGMLType("Q8_0", 32, 34),
    9: GGMLType("Q8_1", 32, 36),
    10: GGMLType("Q2_K", 256, 84),
    11: GGMLType("Q3_K", 256, 110),
    12: GGMLType("Q4_K", 256, 144),
    13: GGMLType("Q5_K", 256, 176),
    14: GGMLType("Q6_K", 256, 210),
    15: GGMLType("Q8_K", 256, 292),
    16: GGMLType("IQ2_XXS", 256, 66),
    17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98),
    19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18),
    21: GGMLType("IQ3_S", 256, 110),
    22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136),
    24: GGMLType("I8", 1, 1),
    25: GGMLType("I16", 1, 2),
    26: GGMLType("I32", 1, 4),
    27: GGMLType("I64", 1, 8),
    28: GGMLType("F64", 1, 8),
    29: GGMLType("IQ1_M", 256, 56),
    30: GGMLType("BF16", 1, 2),
    34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66),
    39: GGMLType("MXFP4", 32, 17),
    40: GGMLType("NVFP4", 64, 36),
    41: GGMLType("Q1_0", 128, 18),
    42: GGMLType("Q2_0", 64, 18),
}
_FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
_GUESSED = 1024  # llama.cpp sets this bit when it guesses the file type


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
