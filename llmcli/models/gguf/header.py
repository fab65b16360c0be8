"""Values and tensors in the header of a GGUF file, each length checked before anything is allocated, and its facts."""

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from llmcli.errors import ModelInvalidError

MAX_STRING = 64 << 20  # bytes of one string
MAX_KEPT = 64 << 20  # bytes of memory for all values of one file
MAX_STRINGS = 1 << 22  # elements of all string arrays of one file; the largest vocabularies have about 300,000
KEPT_NUMBERS = 1024  # longest array of numbers kept as a list: per-layer settings have at most 512
KEPT_STRINGS = 64  # longest array of strings kept as a list; a vocabulary becomes an ArraySummary
_OBJECT = 64  # bytes of a Python string in addition to its text; a number takes half of that
_DAMAGED = "download the file again: it is damaged"
STRING, ARRAY = 8, 9
_U32, _U64 = Struct("<I"), Struct("<Q")
# By type number of a value: its form for `struct`.
_SCALARS = {number: Struct("<" + form) for number, form in enumerate("BbHhIif?  Qqd") if form != " "}
MAX_NAME = 63  # bytes: GGML_MAX_NAME is 64 with the terminating zero
MAX_DIMS = 4
_INT64_MAX = (1 << 63) - 1
# Type number of a tensor: name, elements of a block, bytes of a block (ggml_type_traits in ggml/src/ggml.c).
TYPES = (
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
# Keys of general.sampling.* (llama.cpp's src/llama-arch.cpp), and the names of three of them in llmcli.
_FLOATS = ["temp", "top_p", "min_p", "xtc_probability", "xtc_threshold"]
_FLOATS += ["penalty_repeat", "mirostat_tau", "mirostat_eta"]
_INTEGERS = ("top_k", "penalty_last_n", "mirostat")
_OTHER_NAMES = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "penalty_last_n": "repeat_last_n"}


class ArraySummary(NamedTuple):
    """What is kept of a long array."""

    length: int


Scalar = int | float | bool | str
Value = Scalar | list[Scalar] | ArraySummary


class TruncatedHeaderError(ModelInvalidError):
    """The buffer ends inside the header, but the file is longer: at least its first `needed` bytes are necessary."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message, _DAMAGED)
        self.needed = needed


class Cursor:
    """A read position in the bytes of a header, after the magic number; an error is a ModelInvalidError with it.

    `size` is the length of the file if `buffer` has only its beginning. A read past the buffer is then a
    TruncatedHeaderError; a read past the file means that the file is damaged. `ends` has the ends of long arrays of
    strings by where they begin; those that are skipped string by string are added.
    """

    def __init__(self, buffer: mmap.mmap | bytes, size: int = 0, ends: dict[int, int] | None = None) -> None:
        self._buffer, self._end = buffer, len(buffer)
        self._ends = {} if ends is None else ends
        self._size = max(size, self._end)
        self._kept = self._strings = 0
        self.position = 4  # after the magic number

    def u32(self) -> int:
        return int(self._number(_U32))

    def u64(self) -> int:
        return int(self._number(_U64))

    def text(self, what: str = "a text", limit: int = MAX_STRING, errors: str = "strict") -> str:
        """A string of at most `limit` bytes; `what` is its name in errors. With "strict" it must be UTF-8, as keys."""
        start = self.position
        length = self.u64()
        if length > limit:
            raise damaged(f"{what} at byte {start} has {length} bytes, the limit is {limit}")
        self._need(length)
        self._keep(length + _OBJECT)
        self.position += length
        try:
            return self._buffer[self.position - length : self.position].decode(errors=errors)
        except UnicodeDecodeError:
            raise damaged(f"{what} at byte {start} is not UTF-8 text") from None

    def value(self, kind: int) -> Value:
        """A metadata value of type number `kind`; a long array becomes an ArraySummary."""
        if kind == ARRAY:
            return self._array()
        if kind == STRING:
            return self.text(errors="replace")
        if kind not in _SCALARS:
            raise damaged(f"unknown value type {kind} before byte {self.position}")
        return self._number(_SCALARS[kind])

    def _array(self) -> list[Scalar] | ArraySummary:
        kind = self.u32()
        length = self.u64()
        if kind == ARRAY:
            raise damaged(f"nested array at byte {self.position}, which GGUF does not allow")
        if kind == STRING:
            return self._strings_or_summary(length)
        if kind not in _SCALARS:
            raise damaged(f"unknown array element type {kind} before byte {self.position}")
        form = _SCALARS[kind]
        self._need(length * form.size)
        if length <= KEPT_NUMBERS:
            self._keep(length * _OBJECT // 2)
            return [self._number(form) for _ in range(length)]
        self.position += length * form.size
        return ArraySummary(length)

    def _strings_or_summary(self, length: int) -> list[Scalar] | ArraySummary:
        self._need(length * _U64.size)
        self._strings += length
        if self._strings > MAX_STRINGS:
            raise damaged(f"the header has more than {MAX_STRINGS} strings")
        if length <= KEPT_STRINGS:
            return [self.text(errors="replace") for _ in range(length)]
        start = self.position
        if start + length * _U64.size <= self._ends.get(start, 0) <= self._end:
            self.position = self._ends[start]
            return ArraySummary(length)
        # Skip a vocabulary. This is the hottest loop of a start (85 ns per string), hence the local names.
        position, buffer, unpack = start, self._buffer, _U64.unpack_from
        try:
            for _ in repeat(None, length):
                position += unpack(buffer, position)[0] + 8
        except (struct.error, OverflowError):
            position += 8  # the length that could not be read
        if position > self._end:
            message = f"the header is truncated: {length} strings at byte {self.position} exceed it"
            raise self._cut(position - self.position, message)
        self.position = self._ends[start] = position
        return ArraySummary(length)

    def _number(self, form: Struct) -> Scalar:
        value: Scalar
        try:
            (value,) = form.unpack_from(self._buffer, self.position)
        except struct.error:
            raise self._cut(form.size) from None
        self.position += form.size
        return value

    def _keep(self, n_bytes: int) -> None:
        self._kept += n_bytes
        if self._kept > MAX_KEPT:
            raise damaged(f"the values of the header take more than {MAX_KEPT >> 20} MiB")

    def _need(self, n_bytes: int) -> None:
        if n_bytes > self._end - self.position:
            raise self._cut(n_bytes)

    def _cut(self, n_bytes: int, message: str = "") -> ModelInvalidError:
        """The error for a header that needs `n_bytes` more, which the buffer does not have."""
        needed = self.position + n_bytes
        left = max((self._size if needed > self._size else self._end) - self.position, 0)
        message = message or f"the header is truncated at byte {self.position}: {left} of {n_bytes} bytes"
        return damaged(message) if needed > self._size else TruncatedHeaderError(message, needed)


def damaged(message: str) -> ModelInvalidError:
    """The error for a file whose bytes violate the format."""
    return ModelInvalidError(message, _DAMAGED)


def quote(name: str) -> str:
    """A name from a file for an error message: short, and escaped so that it is one line."""
    return repr(name if len(name) <= 64 else name[:61] + "...")


class TensorInfo(NamedTuple):
    """One tensor. The first dimension of `shape` varies fastest; `offset` is in bytes from the data section."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int


def read_tensors(cursor: Cursor, count: int, alignment: int) -> tuple[tuple[TensorInfo, ...], int]:
    """The tensor table, of `count` entries, and where the data begin, in bytes. Raises ModelInvalidError.

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
    return tuple(tensors), padded(cursor.position, alignment) if tensors else cursor.position


def padded(n_bytes: int, alignment: int) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`, which is a power of two."""
    return (n_bytes + alignment - 1) & -alignment


def _size(name: str, shape: tuple[int, ...], type_id: int) -> int:
    """The bytes of a tensor. As in llama.cpp, a dimension can be 0: converters use empty tensors as markers."""
    # Zeros count as ones: a zero must not hide a huge factor in the product.
    if math.prod(n or 1 for n in shape) > _INT64_MAX:
        raise damaged(f"tensor {quote(name)} has the invalid shape {shape}")
    if type_id not in TYPES:
        raise ModelInvalidError(
            f"tensor {quote(name)} has the unknown type {type_id}",
            "get another version of the model: this file is damaged, or for another version of llama.cpp",
        )
    kind, block, size = TYPES[type_id]
    row = shape[0] if shape else 1
    if row % block:
        raise damaged(f"tensor {quote(name)} has rows of {row} elements; {kind} needs multiples of {block}")
    n_bytes = math.prod(shape) // block * size
    if n_bytes > _INT64_MAX:
        raise damaged(f"tensor {quote(name)} has the invalid shape {shape}")
    return n_bytes


@dataclass(frozen=True)
class GGUFHeader:
    """A validated header. Sizes are in bytes; `data_offset` is from the start of the file.

    In `metadata`, arrays of up to 1024 numbers or 64 strings are lists; longer ones are ArraySummary.
    """

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_size: int

    @cached_property
    def n_parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @cached_property
    def n_tensor_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def architecture(self) -> str:
        return self._text("general.architecture") or ""

    @property
    def name(self) -> str:
        return self._text("general.name") or ""

    @property
    def n_ctx_train(self) -> int | None:
        return self._int(f"{self.architecture}.context_length")

    @property
    def block_count(self) -> int | None:
        return self._int(f"{self.architecture}.block_count")

    @property
    def embedding_length(self) -> int | None:
        return self._int(f"{self.architecture}.embedding_length")

    @property
    def head_count(self) -> int | list[int] | None:
        """One number for all layers, or a list with one number per layer."""
        return self._int_or_list(f"{self.architecture}.attention.head_count")

    @property
    def head_count_kv(self) -> int | list[int] | None:
        """Like head_count, which is its default."""
        own = self._int_or_list(f"{self.architecture}.attention.head_count_kv")
        return self.head_count if own is None else own

    def head_length(self, key: str) -> int | None:
        """The number of elements of one attention key ("key_length") or value ("value_length") of one head."""
        heads, width = self.head_count, self.embedding_length
        most = max(heads, default=0) if isinstance(heads, list) else heads
        default = width // most if width and most else None
        return self._int(f"{self.architecture}.attention.{key}") or default

    @property
    def n_vocab(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArraySummary):
            return tokens.length
        return len(tokens) if isinstance(tokens, list) else None

    @property
    def is_vocab_only(self) -> bool:
        """True for a file with a vocabulary but without tensors."""
        return not self.tensors and self.split_count <= 1

    @property
    def chat_template(self) -> str | None:
        return self._text("tokenizer.chat_template")

    @property
    def quantization(self) -> str:
        """The quantization, such as Q4_K_M: the file type, otherwise the tensor type with the most bytes, or ""."""
        file_type = self._int("general.file_type")
        if file_type is not None and file_type & ~_GUESSED in _FILE_TYPES:
            return _FILE_TYPES[file_type & ~_GUESSED]
        totals: Counter[int] = Counter()
        for tensor in self.tensors:
            totals[tensor.type_id] += tensor.n_bytes
        return TYPES[totals.most_common(1)[0][0]][0] if totals else ""

    @property
    def split_count(self) -> int:
        """The number of files of the model; 1 when it is not split."""
        return self._int("split.count") or 1

    @property
    def split_no(self) -> int:
        """The index of this file in a split model, from 0."""
        return self._int("split.no") or 0

    @property
    def sampling_defaults(self) -> dict[str, float | int | list[str]]:
        """The model's sampling settings under llmcli's keys; the caller must check ranges.

        A value that is not a number is skipped, as in llama.cpp. `samplers` is a list of llama.cpp's names.
        """
        found: dict[str, float | int | list[str]] = {}
        for key in (*_FLOATS, *_INTEGERS):
            try:
                number = float(str(self.metadata.get(f"general.sampling.{key}")))
            except ValueError:
                continue
            if math.isfinite(number):
                found[_OTHER_NAMES.get(key, key)] = int(number) if key in _INTEGERS else number
        names = (self._text("general.sampling.sequence") or "").split(";")
        if any(names):
            found["samplers"] = [name.strip() for name in names if name.strip()]
        return found

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _int(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) else None

    def _int_or_list(self, key: str) -> int | list[int] | None:
        value = self.metadata.get(key)
        if isinstance(value, list):
            return [number for number in value if isinstance(number, int)]
        return value if isinstance(value, int) else None
