"""A model with its first layers only: it has the vocabulary and the probabilities of a real one, and little to say."""

import re
import struct
from pathlib import Path

ALIGNMENT = 32
BLOCK_COUNT = re.compile(rb"(?s)\.block_count\x04\0\0\0(....)")  # the name, the type u32, the value
NAME = re.compile(rb"blk\.(\d+)\.")


def shortened(model: Path, path: Path, n_layers: int) -> Path:
    """Write the first `n_layers` layers of a GGUF file, with all that is not in a layer.

    The file must be of version 3, with one file, the usual alignment, and tensor names that stand nowhere else.
    """
    data = model.read_bytes()
    (n_tensors,) = struct.unpack_from("<Q", data, 8)
    at = data.index(struct.pack("<Q", len(b"token_embd.weight")) + b"token_embd.weight")
    header, tensors = bytearray(data[:at]), list[tuple[bytes, bytes, int]]()
    for _ in range(n_tensors):
        begin = at
        (length,) = struct.unpack_from("<Q", data, at)
        name = data[at + 8 : at + 8 + length]
        at += 8 + length
        (n_dimensions,) = struct.unpack_from("<I", data, at)
        at += 4 + 8 * n_dimensions + 4  # dimensions and type
        (offset,) = struct.unpack_from("<Q", data, at)
        tensors.append((name, data[begin:at], offset))
        at += 8
    begin = _aligned(at)
    ends = dict(
        zip(sorted(t[2] for t in tensors), [*sorted(t[2] for t in tensors)[1:], len(data) - begin], strict=True)
    )
    kept = [one for one in tensors if not (layer := NAME.match(one[0])) or int(layer[1]) < n_layers]
    struct.pack_into("<Q", header, 8, len(kept))
    found = BLOCK_COUNT.search(header)
    assert found
    struct.pack_into("<I", header, found.start(1), n_layers)
    infos, size = bytearray(), 0
    for _, info, offset in kept:
        infos += info + struct.pack("<Q", size)
        size += ends[offset] - offset
    with path.open("wb") as file:
        file.write(header + infos)
        file.write(bytes(_aligned(len(header) + len(infos)) - len(header) - len(infos)))
        for _, _, offset in kept:
            file.write(data[begin + offset : begin + ends[offset]])
    return path


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
