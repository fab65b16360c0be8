"""Read the values of a GGUF header: little-endian, with each length checked before anything is allocated."""

import mmap
import struct
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
# By type number: the name of a value, and its form for `struct`.
_NAMES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string"]
_NAMES += ["array", "uint64", "int64", "float64"]
_SCALARS = {number: Struct("<" + form) for number, form in enumerate("BbHhIif?  Qqd") if form != " "}


class ArraySummary(NamedTuple):
    """The summary of a long array: the name of its element type and its length."""

    type: str
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
    TruncatedHeaderError; a read past the file means that the file is damaged.
    """

    def __init__(self, buffer: mmap.mmap | bytes, size: int = 0) -> None:
        self._buffer, self._end = buffer, len(buffer)
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
        return ArraySummary(_NAMES[kind], length)

    def _strings_or_summary(self, length: int) -> list[Scalar] | ArraySummary:
        self._need(length * _U64.size)
        self._strings += length
        if self._strings > MAX_STRINGS:
            raise damaged(f"the header has more than {MAX_STRINGS} strings")
        if length <= KEPT_STRINGS:
            return [self.text(errors="replace") for _ in range(length)]
        # Skip a vocabulary. This is the hottest loop of a start (85 ns per string), hence the local names.
        position, buffer, unpack = self.position, self._buffer, _U64.unpack_from
        try:
            for _ in repeat(None, length):
                position += unpack(buffer, position)[0] + 8
        except (struct.error, OverflowError):
            position += 8  # the length that could not be read
        if position > self._end:
            message = f"the header is truncated: {length} strings at byte {self.position} exceed it"
            raise self._cut(position - self.position, message)
        self.position = position
        return ArraySummary("string", length)

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
