"""Stop strings and banned strings: what ends the text of an answer, or takes a part of it back."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple


class StopScanner:
    """Finds stop strings. It holds back the end of the text while that can be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str, is_last: bool = False) -> tuple[str, str | None]:
        """The text that is final (all of it, if it is the last), and the stop string that was found or None."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        final = len(text) if is_last else len(text) - held_back(text, self._stops)
        at, stop = min(found, default=(len(text), None))
        if stop is not None and at <= final:  # else the end of the text can become a match that starts before `at`
            self._held = ""
            return text[:at], stop
        self._held = text[final:]
        return text[:final], None


class HeldToken(NamedTuple):
    """A token whose text is held back."""

    text: str
    token: int
    restore: Callable[[], None]  # what its draw changed


class BanScanner:
    """Finds banned phrases in the answer; case-insensitive, like KoboldCpp's banned_strings."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = tuple(lower_by_character(phrase) for phrase in phrases)
        self.held: list[HeldToken] = []

    @property
    def _text(self) -> str:
        return "".join(item.text for item in self.held)

    def push(self, held: HeldToken) -> int | None:
        """Add a token; the number of tokens to remove if it completes a phrase, else None."""
        self.held.append(held)
        text = lower_by_character(self._text)
        starts = [at for phrase in self._phrases if (at := text.find(phrase)) >= 0]
        if not starts:
            return None
        # From the token in which the phrase starts. It can be a part of a character, whose text a later token has.
        ends = accumulate(len(item.text) for item in self.held)
        first = next((index for index, end in enumerate(ends) if min(starts) < end), len(self.held) - 1)
        return len(self.held) - first

    def release(self) -> str:
        """The text that can no longer become part of a phrase: of all tokens or none.

        None are released while the end of the text can still become a phrase. If the following tokens are removed, a
        token before them that seemed safe could start a phrase after all.
        """
        return "" if held_back(lower_by_character(self._text), self._phrases) else self.flush()

    def flush(self) -> str:
        """The text of all held tokens, at the end of the answer."""
        text, self.held = self._text, []  # which frees their snapshots
        return text


def lower_by_character(text: str) -> str:
    """`text` in lower case, character by character: positions stay the same, and no letter depends on its neighbors."""
    lower = text.lower().replace("ς", "σ")  # str.lower maps a sigma by its position in the word
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)


def held_back(text: str, phrases: Sequence[str]) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of one of `phrases`."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0
