"""Copies of the candidates of one token, before the chain and after each step."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmcli.engine.sampling.chain import BEGIN

_ROW = 12  # bytes of a llama_token_data: id, logit, p
DRAWS = frozenset({"dist", "mirostat", "mirostat_v2", "adaptive_p"})  # the steps that draw the token


@dataclass(frozen=True, slots=True)
class Frame:
    """The candidates after the step `name`: a copy of the rows of llama.cpp."""

    name: str
    rows: bytes


class Film:
    """Captures the candidates of the last draw. `look` is the hook for the chain, `wants` whether to capture a draw.

    A token that the grammar rejects is drawn again: then `first` is the token of the first draw.
    """

    def __init__(self, wants: Callable[[], bool] = lambda: True) -> None:
        self.wants = wants
        self._is_drawn = True
        self._drawn: int | None = None
        self.frames: list[Frame] = []
        self.first: int | None = None

    def look(self, name: str, candidates: Any) -> None:
        """Copy the candidates after the step `name`."""
        if not self.wants():
            return
        array = candidates.contents
        if name == BEGIN and not self._is_drawn:
            return  # a GatedSampler has already called it for this draw
        if name == BEGIN:
            self.first, self._is_drawn = self._drawn, False
            self.frames.clear()
        self.frames.append(Frame(name, ctypes.string_at(array.data, array.size * _ROW)))
        if name in DRAWS:
            self._drawn, self._is_drawn = array.data[array.selected].id, True
