"""Observers of each draw: the drawn token, its probability, and the alternatives."""

import ctypes
from collections.abc import Mapping
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.engine.llama.vocab import Vocab
from llmcli.engine.sampling.python_samplers import CustomSampler
from llmcli.engine.trace import Alternative

_ROW = 12  # bytes of a llama_token_data: id, logit, p
_NEAR = 1e-4  # of the highest probability: only these are sorted, or all if they are fewer than requested


class Drawn(CustomSampler):
    """The last step of a chain, after the draw. It records the drawn token, its rank, and the candidates."""

    def __init__(self) -> None:
        self.p, self.rank = 0.0, 0
        self._rows = b""
        super().__init__("drawn", self._record)

    def _record(self, candidates: Any) -> None:
        array = candidates.contents
        self._rows = ctypes.string_at(array.data, array.size * _ROW)
        probabilities = memoryview(self._rows).cast("f")[2::3].tolist()
        self.p = probabilities[array.selected]
        self.rank = 1 + sum(map(self.p.__lt__, probabilities))

    def left(self) -> dict[int, float]:
        """The candidates of the last draw: probability by token id."""
        rows = memoryview(self._rows)
        return dict(zip(rows.cast("i")[::3].tolist(), rows.cast("f")[2::3].tolist(), strict=True))


class Alternatives:
    """The most likely tokens of the model, with their probabilities before and after the chain."""

    def __init__(self, vocab: Vocab, count: int) -> None:
        import numpy as np  # takes 80 ms, so only here

        self._np, self._vocab, self._count = np, vocab, count
        self._buffer = np.empty(vocab.n_tokens, np.float32)
        self._shape = ctypes.c_float * vocab.n_tokens

    def of(self, ctx: Any, row: int, left: Mapping[int, float]) -> tuple[Alternative, ...]:
        """The alternatives of batch row `row` of the context `ctx`; `left` are the candidates after the chain."""
        np, buffer, piece = self._np, self._buffer, self._vocab.label
        pointer = bindings.load().llama_get_logits_ith(ctx, row)
        logits = np.frombuffer(self._shape.from_address(ctypes.addressof(pointer.contents)), np.float32)
        best = logits.max()
        np.exp(np.subtract(logits, best, out=buffer), out=buffer)
        total = float(buffer.sum())
        near = np.flatnonzero(buffer > _NEAR)
        if len(near) < self._count:
            near = np.arange(len(buffer))
        top = near[np.argsort(-logits[near], kind="stable")[: self._count]]
        before = (buffer[top] / total).tolist()
        return tuple(
            Alternative(token, piece(token), p, left.get(token, 0.0))
            for token, p in zip(top.tolist(), before, strict=True)
        )
