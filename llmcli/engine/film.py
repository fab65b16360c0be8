"""The candidates of one token as they were before the chain and after each of its steps."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmcli.engine.chain import BEGIN

_ROW = 12  # bytes of a llama_token_data: id, logit, p
DRAWS = frozenset({"dist", "mirostat", "mirostat_v2", "adaptive_p"})  # the steps that choose a token


@dataclass(frozen=True, slots=True)
class Frame:
    """The candidates after the step called `name`: a copy of llama.cpp's rows."""

    name: str
    rows: bytes


class Film:
    """`look` is what a chain is watched with: it keeps the frames of the last draw, while it `wants` them.

    A token that a grammar refuses is drawn a second time: then `first` is the one that was drawn before.
    """

    def __init__(self, wants: Callable[[], bool] = lambda: True) -> None:
        self.wants = wants
        self._done = True
        self._drawn: int | None = None
        self.frames: list[Frame] = []
        self.first: int | None = None

    def look(self, name: str, candidates: Any) -> None:
        """Keep the candidates after the step `name`."""
        if not self.wants():
            return
        array = candidates.contents
        if name == BEGIN and not self._done:
            return  # the gate around the chain has begun already
        if name == BEGIN:
            self.first, self._done = self._drawn, False
            self.frames.clear()
        self.frames.append(Frame(name, ctypes.string_at(array.data, array.size * _ROW)))
        if name in DRAWS:
            self._drawn, self._done = array.data[array.selected].id, True
