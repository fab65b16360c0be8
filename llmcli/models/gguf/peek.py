"""The few facts about a model that a listing shows, read from the first bytes of its file."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import LlmcliError
from llmcli.models.gguf.ggml_types import quantization_name
from llmcli.models.gguf.values import Cursor

_BYTES = 64 << 10  # the general facts come before the vocabulary
_MOST_KEYS = 200


@dataclass(frozen=True)
class Glimpse:
    """What the beginning of the file says: tokens, and a name such as Q4_K_M ("" where it does not say)."""

    n_ctx_train: int | None
    quantization: str


def peek(path: Path) -> Glimpse:
    """A glimpse at a GGUF file; an empty one for what cannot be read or is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_BYTES)
    except OSError:
        return Glimpse(None, "")
    if head[:4] != b"GGUF":
        return Glimpse(None, "")
    found: dict[str, object] = {}
    try:
        cursor = Cursor(head, 4)
        cursor.u32()
        cursor.u64()
        for _ in itertools.repeat(None, min(cursor.u64(), _MOST_KEYS)):
            key = cursor.text("a key", 1024)
            found[key] = cursor.value(cursor.u32())
    except LlmcliError:
        pass  # the vocabulary goes beyond what was read
    context = next((value for key, value in found.items() if key.endswith(".context_length")), None)
    kind = found.get("general.file_type")
    return Glimpse(
        context if isinstance(context, int) else None,
        quantization_name(kind, ()) if isinstance(kind, int) else "",
    )
