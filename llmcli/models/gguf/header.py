"""The facts in the header of a GGUF file: the model's shape, chat template, quantization and sampling defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from llmcli.models.gguf.cursor import ArraySummary, Value
from llmcli.models.gguf.tensors import TensorInfo, quantization_name

# Keys of general.sampling.* (llama.cpp's src/llama-arch.cpp), and the names of three of them in llmcli.
_FLOATS = ["temp", "top_p", "min_p", "xtc_probability", "xtc_threshold", "penalty_repeat"]
_FLOATS += ["mirostat_tau", "mirostat_eta"]
_INTEGERS = ("top_k", "penalty_last_n", "mirostat")
_OTHER_NAMES = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "penalty_last_n": "repeat_last_n"}


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
        return sum(tensor.n_elements for tensor in self.tensors)

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

    @property
    def key_length(self) -> int | None:
        """The number of elements of one attention key of one head."""
        return self._int(f"{self.architecture}.attention.key_length") or self._head_width()

    @property
    def value_length(self) -> int | None:
        """The number of elements of one attention value of one head."""
        return self._int(f"{self.architecture}.attention.value_length") or self._head_width()

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
    def file_type(self) -> int | None:
        return self._int("general.file_type")

    @property
    def quantization(self) -> str:
        """The quantization, such as Q4_K_M; "" for a file without tensors and file type."""
        return quantization_name(self.file_type, ((t.type_id, t.n_bytes) for t in self.tensors))

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
            number = self._number(f"general.sampling.{key}")
            if number is not None:
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

    def _number(self, key: str) -> float | None:
        value = self.metadata.get(key)
        if isinstance(value, ArraySummary | list | None):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None

    def _head_width(self) -> int | None:
        heads, width = self.head_count, self.embedding_length
        most = max(heads, default=0) if isinstance(heads, list) else heads
        return width // most if width and most else None
