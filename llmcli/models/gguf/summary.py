"""The few facts that a list of models shows, read from the first bytes of a GGUF file."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import LlmcliError
from llmcli.models.gguf.cursor import Cursor
from llmcli.models.gguf.tensors import quantization_name

_BYTES = 64 << 10  # in most files the general facts come before the vocabulary
_MAX_KEYS = 200


@dataclass(frozen=True)
class HeaderSummary:
    """The trained context in tokens, and a quantization such as Q4_K_M ("" when it is not known)."""

    n_ctx_train: int | None
    quantization: str


def read_summary(path: Path) -> HeaderSummary:
    """The summary of a GGUF file; an empty one if the file cannot be read or is not GGUF."""
    try:
        with path.open("rb") as file:
            head = file.read(_BYTES)
    except OSError:
        return HeaderSummary(None, "")
    if head[:4] != b"GGUF":
        return HeaderSummary(None, "")
    metadata = _first_keys(head)
    context = next((value for key, value in metadata.items() if key.endswith(".context_length")), None)
    file_type = metadata.get("general.file_type")
    quantization = quantization_name(file_type, ()) if isinstance(file_type, int) else ""
    if isinstance(context, int) and quantization:
        return HeaderSummary(context, quantization)
    return _read_all(path, HeaderSummary(context if isinstance(context, int) else None, quantization))


def _first_keys(head: bytes) -> dict[str, object]:
    metadata: dict[str, object] = {}
    cursor = Cursor(head, 4)
    try:
        cursor.u32()
        cursor.u64()
        for _ in itertools.repeat(None, min(cursor.u64(), _MAX_KEYS)):
            key = cursor.text("a key", 1024)
            metadata[key] = cursor.value(cursor.u32())
    except LlmcliError:
        pass  # the vocabulary goes beyond the bytes that were read
    return metadata


def _read_all(path: Path, summary: HeaderSummary) -> HeaderSummary:
    """Fill the gaps from the whole header: some programs write the file type after the vocabulary, or not at all."""
    from llmcli.models.gguf.parser import read_header

    try:
        header = read_header(path)
    except LlmcliError:
        return summary
    return HeaderSummary(
        header.n_ctx_train if summary.n_ctx_train is None else summary.n_ctx_train,
        summary.quantization or header.quantization,
    )
