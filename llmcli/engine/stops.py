"""Finding stop strings in streamed text: the earliest match, also when it is split over tokens."""

from collections.abc import Sequence


class StopScanner:
    """Holds back the end of the text while it could be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to show now, and the stop string that was found, if one was."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._held = ""
            return text[:at], stop
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def held_back(text: str, phrases: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `phrases` without completing it."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0
