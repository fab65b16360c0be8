"""Stop strings in streamed text: the earliest match, also across tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


class StopScanner:
    """Finds stop strings. It holds back the end of the text while that can be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is final, and the stop string that was found or None."""
        text = self._held + text
        at, stop = self._find(text)
        final = len(text) - held_back(text, self._stops)
        if stop is not None and at <= final:  # no earlier match is possible any more
            self._held = ""
            return text[:at], stop
        self._held = text[final:]
        return text[:final], None

    def finish(self, text: str) -> tuple[str, str | None]:
        """`push` for the last text, together with the text that was held back."""
        text, self._held = self._held + text, ""
        at, stop = self._find(text)
        return text[:at], stop

    def _find(self, text: str) -> tuple[int, str | None]:
        """The start of the earliest match and its stop string, or the length of the text and None."""
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found) if found else (len(text), None)


def held_back(text: str, phrases: Sequence[str]) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of one of `phrases`."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0


@dataclass(frozen=True)
class HeldToken:
    """A token whose text is held back, with the state before it was drawn: of sampler, decoder and policies."""

    text: str
    token: int
    sampler_snapshot: tuple[int, int | None]  # of chain and grammar
    decoder: tuple[bytes, int]
    state: Any = None  # a `DrawState`, whose module reads reasoning and with it this one


class BanScanner:
    """Finds banned phrases in the answer; case-insensitive, like KoboldCpp's banned_strings."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = tuple(lower_by_character(phrase) for phrase in phrases)
        self.held: list[HeldToken] = []

    def push(self, held: HeldToken) -> int | None:
        """Add a token; the number of tokens to remove if it completes a phrase, else None."""
        self.held.append(held)
        text = lower_by_character("".join(item.text for item in self.held))
        starts = [at for phrase in self._phrases if (at := text.find(phrase)) >= 0]
        if not starts:
            return None
        ends = accumulate(len(item.text) for item in self.held)
        first = next((index for index, end in enumerate(ends) if min(starts) < end), len(self.held) - 1)
        return len(self.held) - first

    def release(self) -> list[HeldToken]:
        """The tokens that can no longer become part of a phrase, in order: all or none.

        None are released while the end of the text can still become a phrase. If the following tokens are removed, a
        token before them that seemed safe could start a phrase after all.
        """
        text = lower_by_character("".join(item.text for item in self.held))
        return [] if held_back(text, self._phrases) else self.flush()

    def flush(self) -> list[HeldToken]:
        """All held tokens, at the end of the answer."""
        released, self.held = self.held, []
        return released


def lower_by_character(text: str) -> str:
    """`text` in lower case, character by character: positions stay the same, and no letter depends on its neighbors."""
    lower = text.lower().replace("ς", "σ")  # str.lower maps a sigma by its position in the word
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)
