"""Banned strings: text is held back while it may become one, and taken back when it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.stops import held_back


@dataclass(frozen=True)
class Held:
    """One token whose text is held back, with the state from before it was drawn."""

    text: str
    token: int
    sampler: Any
    decoder: Any
    place: Any = None


class BanScanner:
    """Watches the answer for phrases; case is ignored, as in KoboldCpp's banned_strings."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = tuple(fold(phrase) for phrase in phrases)
        self.held: list[Held] = []

    def push(self, held: Held) -> int | None:
        """Take one more token; the number of tokens to take back if it completes a phrase, else None."""
        self.held.append(held)
        text = fold("".join(item.text for item in self.held))
        starts = [at for phrase in self._phrases if (at := text.find(phrase)) >= 0]
        if not starts:
            return None
        return len(self.held) - self._index_at(min(starts))

    def _index_at(self, position: int) -> int:
        """The held token whose text covers a character position."""
        end = 0
        for index, item in enumerate(self.held):
            end += len(item.text)
            if position < end:
                return index
        return len(self.held) - 1

    def release(self) -> list[Held]:
        """The tokens that can no longer become part of a phrase, in order: all or none.

        While the end of the text is open nothing goes out. What comes next may be taken back, and then a token
        before it that seemed settled could begin a phrase after all.
        """
        text = fold("".join(item.text for item in self.held))
        return [] if held_back(text, self._phrases) else self.flush()

    def flush(self) -> list[Held]:
        """All that was held back, once no more text comes."""
        released, self.held = self.held, []
        return released


def fold(text: str) -> str:
    """Lower case, character by character, so that positions stay the same and no letter depends on its neighbours."""
    lower = text.lower().replace("ς", "σ")  # the final sigma does
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)
