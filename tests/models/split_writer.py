"""Split a real model into parts, as llama.cpp's gguf-split does."""

import struct
from collections.abc import Sequence
from pathlib import Path

from llmcli.models.gguf.header import TensorInfo, padded
from llmcli.models.gguf.parser import read_header

_U16, _I32 = 2, 5  # gguf.h, enum gguf_type


def split_model(source: Path, folder: Path, count: int = 2) -> list[Path]:
    """Write the model in `count` parts into `folder`; the first carries the metadata."""
    header, data = read_header(source), source.read_bytes()
    first = header.tensors[0].name.encode()
    metadata = data[24 : data.index(struct.pack("<Q", len(first)) + first)]
    n_metadata = struct.unpack_from("<Q", data, 16)[0]
    share = -(-len(header.tensors) // count)
    paths = []
    for number in range(count):
        chosen = header.tensors[number * share : (number + 1) * share]
        keys = _split_keys(number, count, len(header.tensors))
        n_keys, kept = (3 + n_metadata, metadata) if number == 0 else (3, b"")
        table, blocks = _tensors(chosen, data, header.data_offset, header.alignment)
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(chosen), n_keys) + kept + keys + table
        paths.append(folder / f"model-{number + 1:05d}-of-{count:05d}.gguf")
        paths[-1].write_bytes(head + bytes(padded(len(head), header.alignment) - len(head)) + blocks)
    return paths


def _split_keys(number: int, count: int, n_tensors: int) -> bytes:
    pairs = (("split.no", _U16, "<H", number), ("split.count", _U16, "<H", count))
    entries = [*pairs, ("split.tensors.count", _I32, "<i", n_tensors)]
    return b"".join(
        struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + struct.pack(form, value)
        for key, kind, form, value in entries
    )


def _tensors(tensors: Sequence[TensorInfo], data: bytes, base: int, alignment: int) -> tuple[bytes, bytes]:
    """The table of these tensors and their bytes, each padded."""
    table, blocks = bytearray(), bytearray()
    for tensor in tensors:
        name, dims = tensor.name.encode(), tensor.shape
        table += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        table += struct.pack("<IQ", tensor.type_id, len(blocks))
        blocks += data[base + tensor.offset : base + tensor.offset + tensor.n_bytes]
        blocks += bytes(padded(len(blocks), alignment) - len(blocks))
    return bytes(table), bytes(blocks)
