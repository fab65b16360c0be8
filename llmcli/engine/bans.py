"""Banned strings: text that can become one is held back, and removed when it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.text.stop_strings import held_back


@dataclass(frozen=True)
class Held:
    """A token whose text is held back, with the state before it was drawn: sampler, decoder and place."""

    text: str
    token: int
    sampler: Any
    decoder: Any
    place: Any = None


class BanScanner:
    """Finds banned phrases in the answer; case-insensitive, like KoboldCpp's banned_strings."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = tuple(fold(phrase) for phrase in phrases)
        self.held: list[Held] = []

    def push(self, held: Held) -> int | None:
        """Add a token; the number of tokens to remove if it completes a phrase, else None."""
        self.held.append(held)
        text = fold("".join(item.text for item in self.held))
        starts = [at for phrase in self._phrases if (at := text.find(phrase)) >= 0]
        if not starts:
            return None
        return len(self.held) - self._index_at(min(starts))

    def _index_at(self, position: int) -> int:
        """The index of the held token whose text contains a character position."""
        end = 0
        for index, item in enumerate(self.held):
            end += len(item.text)
            if position < end:
                return index
        return len(self.held) - 1

    def release(self) -> list[Held]:
        """The tokens that can no longer become part of a phrase, in order: all or none.

        None are released while the end of the text can still become a phrase. If the following tokens are removed, a
        token before them that seemed safe could start a phrase after all.
        """
        text = fold("".join(item.text for item in self.held))
        return [] if held_back(text, self._phrases) else self.flush()

    def flush(self) -> list[Held]:
        """All held tokens, at the end of the answer."""
        released, self.held = self.held, []
        return released


def fold(text: str) -> str:
    """`text` in lower case, character by character: positions stay the same, and no letter depends on its neighbors."""
    lower = text.lower().replace("ς", "σ")  # str.lower maps a sigma by its position in the word
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)
